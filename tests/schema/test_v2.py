"""Facts of revision v2 that every implementation of it rests on."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from exec_server_codegen.schema import release_key
from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT
from tests.support.shapes import members

if TYPE_CHECKING:
    from exec_server_codegen.json_documents import JsonObject

SCHEMA = ROOT / "schema"
V1 = read_revision(SCHEMA, "v1")
V2 = read_revision(SCHEMA, "v2")
PATH_URI = re.compile(V2.definitions["PathUri"].schema["pattern"])

TO_SERVER = ("request", "clientToServer")
TO_CLIENT = ("notification", "serverToClient")

METHODS = {
    "initialize": (*TO_SERVER, "0.140.0"),
    "initialized": ("notification", "clientToServer", "0.140.0"),
    "process/start": (*TO_SERVER, "0.140.0"),
    "process/read": (*TO_SERVER, "0.140.0"),
    "process/write": (*TO_SERVER, "0.140.0"),
    "process/signal": (*TO_SERVER, "0.140.0"),
    "process/terminate": (*TO_SERVER, "0.140.0"),
    "process/output": (*TO_CLIENT, "0.140.0"),
    "process/exited": (*TO_CLIENT, "0.140.0"),
    "process/closed": (*TO_CLIENT, "0.140.0"),
    "fs/readFile": (*TO_SERVER, "0.140.0"),
    "fs/writeFile": (*TO_SERVER, "0.140.0"),
    "fs/createDirectory": (*TO_SERVER, "0.140.0"),
    "fs/getMetadata": (*TO_SERVER, "0.140.0"),
    "fs/readDirectory": (*TO_SERVER, "0.140.0"),
    "fs/remove": (*TO_SERVER, "0.140.0"),
    "fs/copy": (*TO_SERVER, "0.140.0"),
    "fs/canonicalize": (*TO_SERVER, "0.140.0"),
    "fs/walk": (*TO_SERVER, "0.143.0"),
    "fs/open": (*TO_SERVER, "0.142.0"),
    "fs/readBlock": (*TO_SERVER, "0.142.0"),
    "fs/writeBlock": (*TO_SERVER, "0.161.0"),
    "fs/close": (*TO_SERVER, "0.142.0"),
    "fs/watchMissing": (*TO_SERVER, "0.166.0"),
    "fs/missingChanged": (*TO_CLIENT, "0.166.0"),
    "http/request": (*TO_SERVER, "0.140.0"),
    "http/request/bodyDelta": (*TO_CLIENT, "0.140.0"),
    "environment/info": (*TO_SERVER, "0.140.0"),
    "environment/status": (*TO_SERVER, "0.145.0"),
    "environmentConfig/read": (*TO_SERVER, "0.148.0"),
    "capabilityRoots/discoverV1": (*TO_SERVER, "0.145.0"),
    "capabilities/discoverV2": (*TO_SERVER, "0.163.0"),
    "network/policyRequest": ("request", "serverToClient", "0.146.0"),
    "network/policyDecision": (*TO_CLIENT, "0.148.0"),
}

# Members in their order on the wire: `!` required, `?` may be null.
MEMBERS = {
    "InitializeParams": "clientName! resumeSessionId?",
    "InitializeResult": "sessionId! environmentInfo",
    "InitializedParams": "",
    "EnvironmentInfoParams": "",
    "EnvironmentInfoResult": (
        "shell! executorVersion providerId cwd userHomeDir platformOs prependPathDirs "
        "temporaryDirectories tempDir capabilities"
    ),
    "EnvironmentStatusParams": "",
    "EnvironmentStatusResult": "status!",
    "Shell": "name! path!",
    "ProcessStartParams": (
        "processId! metadata? argv! cwd! envPolicy? shellSnapshot? env! tty! pipeStdin arg0? "
        "sandbox? enforceManagedNetwork managedNetwork? networkProxy?"
    ),
    "ProcessStartResult": "processId! sandboxType",
    "ProcessMetadata": "threadId? toolCallId?",
    "ShellSnapshot": "scopeId! shell!",
    "EnvPolicy": "inherit! ignoreDefaultExcludes! exclude! set! includeOnly!",
    "ProcessReadParams": "processId! afterSeq? maxBytes? waitMs?",
    "ProcessReadResult": "chunks! nextSeq! exited! exitCode!? closed! failure!? sandboxDenied",
    "OutputChunk": "seq! stream! chunk!",
    "ProcessWriteParams": "processId! chunk! writeId!",
    "ProcessWriteResult": "status!",
    "ProcessSignalParams": "processId! signal!",
    "ProcessSignalResult": "",
    "ProcessTerminateParams": "processId!",
    "ProcessTerminateResult": "running!",
    "ProcessOutputParams": "processId! seq! stream! chunk!",
    "ProcessExitedParams": "processId! seq! exitCode! sandboxDenied",
    "ProcessClosedParams": "processId! seq!",
    "FsReadFileParams": "path! followSymlinks? sandbox?",
    "FsReadFileResult": "dataBase64!",
    "FsWriteFileParams": "path! dataBase64! followSymlinks? sandbox?",
    "FsWriteFileResult": "",
    "FsCreateDirectoryParams": "path! recursive? private? followSymlinks? sandbox?",
    "FsCreateDirectoryResult": "",
    "FsGetMetadataParams": "path! followSymlinks? sandbox?",
    "FsGetMetadataResult": "isDirectory! isFile! isSymlink! size! createdAtMs! modifiedAtMs!",
    "FsReadDirectoryParams": "path! sandbox?",
    "FsReadDirectoryResult": "entries!",
    "DirectoryEntry": "fileName! isDirectory! isFile!",
    "FsRemoveParams": "path! recursive? force? followSymlinks? sandbox?",
    "FsRemoveResult": "",
    "FsCopyParams": "sourcePath! destinationPath! recursive! sandbox?",
    "FsCopyResult": "",
    "FsCanonicalizeParams": "path! sandbox?",
    "FsCanonicalizeResult": "path!",
    "FsWalkParams": "path! options! sandbox?",
    "WalkOptions": (
        "maxDepth! maxDirectories! maxEntries! followDirectorySymlinks! pruneHiddenDirectories"
    ),
    "FsWalkResult": "entries! errors! truncated!",
    "WalkEntry": "path! kind!",
    "WalkError": "path! message!",
    "FsOpenParams": "handleId! path! mode sandbox?",
    "FsOpenResult": "handleId!",
    "FsReadBlockParams": "handleId! offset! len!",
    "FsReadBlockResult": "chunk! eof!",
    "FsWriteBlockParams": "handleId! offset! chunk!",
    "FsWriteBlockResult": "",
    "FsCloseParams": "handleId!",
    "FsCloseResult": "",
    "FsWatchMissingParams": "watchId! missing! present?",
    "FsWatchMissingResult": "watching!",
    "FsMissingChangedParams": "watchId!",
    "HttpRequestParams": (
        "method! url! headers bodyBase64? timeoutMs? redirectPolicy requestId! streamResponse"
    ),
    "HttpRequestHeader": "name! value! valueEnvVar?",
    "HttpRequestResult": "status! headers! bodyBase64!",
    "HttpHeader": "name! value!",
    "HttpRequestBodyDeltaParams": "requestId! seq! deltaBase64! done! error!?",
    "EnvironmentConfigReadParams": "cwd! configPaths! requirementsPaths!",
    "EnvironmentConfigReadResult": ("userHomeDir!? codexHomeDir! hostname!? config! requirements!"),
    "ConfigLayers": "layers! cloudInsertionIndex!",
    "ConfigLayer": "source! baseDir! toml!",
    "CapabilityRootsDiscoverV1Params": "roots!",
    "CapabilityRoot": "id! path! sandbox?",
    "CapabilityRootsDiscoverV1Result": "roots!",
    "CapabilityRootDiscovery": ("id! path! plugin!? skills! namespaceManifests! warnings! error!?"),
    "PluginFiles": "manifest! mcpConfig!? appsConfig!?",
    "SkillFiles": "instructions! metadata!?",
    "TextFile": "path! contents!",
    "CapabilitiesDiscoverV2Params": "cwd! sandbox?",
    "CapabilitiesDiscoverV2Result": "plugins! skills! warnings!",
    "Plugin": "id! displayName! remotePluginId!? version! root! files! skills!",
    "Skill": ("name! description! shortDescription!? path! discoveryRoot dependencies!? policy!?"),
    "DiscoveryRoot": "id! path!",
    "SkillDependencies": "tools!",
    "SkillTool": ("type! value! description!? transport!? command!? url!? oauthCallbackPort!?"),
    "SkillPolicy": "allowImplicitInvocation!? products!",
    "NetworkPolicyRequestParams": "processId! request!",
    "NetworkRequest": "protocol! host! port!",
    "NetworkPolicyRequestResult": "decision!",
    "NetworkPolicyDecisionParams": (
        "processId! timestamp! scope! decision! source! reason! protocol! host! port! method "
        "client! policyOverride!"
    ),
    "Sandbox": (
        "permissions! cwd? workspaceRoots policyContext? userHomeDir? temporaryDirectories? "
        "windowsSandboxLevel! windowsSandboxPrivateDesktop windowsSandboxProxySettingsMode? "
        "useLegacyLandlock sandboxOverride"
    ),
    "SandboxPolicyContext": "cwd? workspaceRoots",
    "RestrictedFileSystem": "type! entries! glob_scan_max_depth?",
    "FileSystemEntry": "path! access! missing_path_behavior?",
    "ManagedNetwork": (
        "loopbackPorts allowLocalBinding allowUnixSockets dangerouslyAllowAllUnixSockets"
    ),
    "NetworkProxyLaunch": (
        "proxy! auditMetadata environmentId? executionId? policyDecisionTimeoutMs?"
    ),
    "NetworkProxy": (
        "enabled! enableSocks5! enableSocks5Udp! allowUpstreamProxy! "
        "dangerouslyAllowAllUnixSockets! allowLocalBinding! mode! domains? unixSockets? "
        "reviewDomains credentialMasking credentialProviders"
    ),
    "CredentialProvider": ("env patterns url_prefixes url_prefix_from_env? auth header? prefix?"),
    "ErrorResponse": "error! id!",
    "Response": "id! result!",
    "Request": "id! method! params trace?",
    "Notification": "method! params",
}

ENUMS = {
    "OutputStream": ["stdout", "stderr", "pty"],
    "WriteStatus": ["accepted", "unknownProcess", "stdinClosed", "starting"],
    "EnvInherit": ["core", "all", "none"],
    "ProcessSignal": ["interrupt"],
    "SandboxType": [
        "none",
        "macosSeatbelt",
        "linuxSeccomp",
        "windowsRestrictedToken",
        "windowsMxc",
    ],
    "EnvironmentState": ["ready"],
    "WalkEntryKind": ["file", "directory"],
    "FileOpenMode": ["read", "replace"],
    "HttpRedirectPolicy": ["follow", "stop"],
    "WindowsSandboxLevel": ["disabled", "restricted-token", "elevated", "mxc"],
    "SandboxOverride": [
        "noOverride",
        "escalatedSandboxWithRestrictions",
        "bypassSandboxFirstAttempt",
    ],
    "FileSystemAccessMode": ["read", "write", "deny", "none"],
    "NetworkProtocol": ["http", "https_connect", "socks5_tcp", "socks5_udp"],
}

TAGS = {
    "SandboxPermissions": ["disabled", "external", "managed"],
    "FileSystemAccess": ["unrestricted", "restricted"],
    "FileSystemPath": ["path", "glob_pattern", "special"],
    "SpecialPlace": [
        "root",
        "minimal",
        "current_working_directory",
        "project_roots",
        "tmpdir",
        "slash_tmp",
        "unknown",
    ],
    "NetworkDecision": ["allow", "deny", "ask"],
}

# How many members an object of a client has, as the released binaries count them themselves: the
# number holds from its release on, until the next one.
MEMBER_COUNTS = {
    "ProcessStartParams": {
        "0.141.0": 8,
        "0.142.0": 10,
        "0.143.0": 11,
        "0.145.0": 12,
        "0.150.0": 13,
        "0.155.0": 14,
    },
    "ProcessWriteParams": {"0.141.0": 2, "0.142.0": 3},
    "HttpRequestParams": {"0.141.0": 7, "0.143.0": 8},
    "HttpRequestHeader": {"0.141.0": 2, "0.150.0": 3},
    "FsReadFileParams": {"0.141.0": 2, "0.149.0": 3},
    "FsGetMetadataParams": {"0.141.0": 2, "0.149.0": 3},
    "FsWriteFileParams": {"0.141.0": 3, "0.149.0": 4},
    "FsCreateDirectoryParams": {"0.141.0": 3, "0.148.0": 4, "0.149.0": 5, "0.150.0": 4},
    "FsRemoveParams": {"0.141.0": 4, "0.149.0": 5},
    "FsCopyParams": {"0.141.0": 4},
    "FsCanonicalizeParams": {"0.141.0": 2},
    "FsReadDirectoryParams": {"0.141.0": 2},
    "FsOpenParams": {"0.142.0": 3, "0.161.0": 4},
    "WalkOptions": {"0.143.0": 4, "0.144.0": 5},
    "Sandbox": {
        "0.141.0": 5,
        "0.142.0": 6,
        "0.146.0": 7,
        "0.155.0": 9,
        "0.163.0": 10,
    },
    "FileSystemEntry": {"0.145.0": 2, "0.146.0": 3},
    "NetworkProxyLaunch": {"0.145.0": 4, "0.146.0": 5},
    "CapabilityRoot": {"0.145.0": 2, "0.147.0": 3},
}

CAPABILITIES = {
    "networkProxyLaunch": "0.145.0",
    "networkProxyReviewDomains": "0.165.0",
    "networkProxyTransparentTcp": "0.171.0",
    "credentialMasking": "0.165.0",
    "credentialMaskingCustomProviders": "0.165.0",
    "capabilityDiscoverySandbox": "0.147.0",
    "fsWatchMissing": "0.166.0",
    "capabilityDiscoveryV2": "0.158.0",
    "environmentConfigRead": "0.148.0",
    "httpHeaderEnvVars": "0.150.0",
    "sandboxedFileStreaming": "0.148.0",
    "fileWriteStreaming": "0.161.0",
    "shellSnapshotV2": "0.150.0",
    "windowsMxc": "0.158.0",
    "linuxRootWritePreservesDevices": "0.160.0",
    "linuxApprovedRootWritePreservesRestrictions": "0.160.0",
}


def in_release(schema: JsonObject, release: str) -> bool:
    """Return True if a release has a member."""
    since, until = schema.get("x-since", release), schema.get("x-until", release)
    return release_key(since) <= release_key(release) <= release_key(until)


def test_the_method_table_lists_the_methods_of_the_revision() -> None:
    table = {method.name: (method.kind, method.direction, method.since) for method in V2.methods}
    assert table == METHODS


def test_the_revision_begins_where_v1_ends() -> None:
    assert V1.releases[-1] == "0.139.0"
    assert V2.releases[0] == "0.140.0"
    assert V2.releases[-1] == "0.171.0"
    gone = {method.name for method in V1.methods} - set(METHODS)
    assert gone == {"fs/join", "fs/parent"}


def test_the_error_codes_are_those_of_the_released_servers() -> None:
    assert {error.name: error.code for error in V2.errors} == {
        "invalidRequest": -32600,
        "methodNotFound": -32601,
        "invalidParams": -32602,
        "internalError": -32603,
        "notFound": -32004,
        "sessionAttached": -32010,
    }


def test_only_resuming_a_session_finds_it_attached() -> None:
    answers = {
        method.name for method in V2.methods if "sessionAttached" in V2.method_errors(method)
    }
    assert answers == {"initialize"}


def test_state_errors_name_the_methods_in_the_words_of_the_released_servers() -> None:
    names = {method.name: V2.state_name(method) for method in V2.methods}
    for name, state_name in names.items():
        expected = {
            "process": "exec",
            "fs": "filesystem",
            "http": "http",
            "environmentConfig": "capability discovery",
            "capabilityRoots": "capability discovery",
            "capabilities": "capability discovery",
            "environment": name.replace("/", " "),
        }
        assert state_name == expected.get(name.split("/")[0])


@pytest.mark.parametrize("name", MEMBERS)
def test_members_have_the_order_and_presence_of_the_wire(name: str) -> None:
    assert members(V2.definitions[name]) == MEMBERS[name]


def test_every_message_of_the_table_has_its_members_listed() -> None:
    for method in V2.methods:
        assert method.params.name in MEMBERS
        assert method.result is None or method.result.name in MEMBERS


@pytest.mark.parametrize("name", ENUMS)
def test_choices_are_those_of_the_wire(name: str) -> None:
    assert V2.definitions[name].schema["enum"] == ENUMS[name]


@pytest.mark.parametrize("name", TAGS)
def test_unions_are_told_apart_by_the_tags_of_the_wire(name: str) -> None:
    assert list(V2.definitions[name].schema["discriminator"]["mapping"]) == TAGS[name]


@pytest.mark.parametrize("name", MEMBER_COUNTS)
def test_each_release_has_as_many_members_as_it_says_itself(name: str) -> None:
    counts = MEMBER_COUNTS[name]
    first = next(iter(counts))
    expected = None
    for release in V2.releases:
        expected = counts.get(release, expected)
        if release_key(release) < release_key(first):
            continue
        properties = V2.definitions[name].properties.values()
        assert sum(in_release(schema, release) for schema in properties) == expected, release


def test_each_capability_flag_is_false_when_absent_and_tells_its_release() -> None:
    flags = V2.definitions["EnvironmentCapabilities"]
    assert {name: schema["x-since"] for name, schema in flags.properties.items()} == CAPABILITIES
    assert all(
        (schema["type"], schema["default"]) == ("boolean", False)
        for schema in flags.properties.values()
    )
    assert flags.required == []


def test_a_member_of_a_later_release_may_be_missing_in_what_a_server_sends() -> None:
    sent = {
        definition.name
        for method in V2.methods
        for definition in [method.params if method.direction == "serverToClient" else method.result]
        if definition is not None
    }
    for name in sent - {"NetworkPolicyRequestResult"}:
        definition = V2.definitions[name]
        for member, schema in definition.properties.items():
            assert "x-since" not in schema or member not in definition.required


def test_the_release_of_a_method_is_that_of_its_types() -> None:
    for method in V2.methods:
        for definition in (method.params, method.result):
            if definition is not None and method.since != V2.releases[0]:
                known = definition.schema.get("x-since")
                assert known == method.since, definition.name


def test_changes_are_told_in_the_order_of_the_releases() -> None:
    for method in V2.methods:
        releases = [change["release"] for change in method.changes]
        for older, newer in pairwise(releases):
            assert release_key(older) < release_key(newer)


@pytest.mark.parametrize(
    "text",
    [
        "file:///srv/project",
        "file:/srv",
        "FILE:///srv",
        "file://localhost/srv",
        " file:///srv ",
        "file:\\srv",
        "file:///srv/%FF",
        "http://example.com/srv",
        "C:\\srv",
    ],
)
def test_what_may_be_a_uri_is_left_to_the_method(text: str) -> None:
    assert PATH_URI.search(text)


@pytest.mark.parametrize(
    "text", ["", "/srv/project", "/srv/a:b", "srv", "./a:b", "~/a", "//host/a", "1:a", ":a"]
)
def test_a_native_path_is_no_uri(text: str) -> None:
    assert not PATH_URI.search(text)


def test_every_path_of_the_wire_but_that_of_a_shell_is_a_uri() -> None:
    native = {"Shell": {"path"}, "UnknownPlace": {"path"}}
    for definition in V2.definitions.values():
        for member, schema in definition.properties.items():
            if member in ("path", "cwd", "sourcePath", "destinationPath", "root", "baseDir"):
                branch = schema.get("anyOf", [schema])[0]
                is_uri = branch.get("$ref", "").endswith("/PathUri")
                in_union = definition.name == "FileSystemEntry"
                is_native = member in native.get(definition.name, set())
                assert is_uri != (is_native or in_union), f"{definition.name}.{member}"


def test_only_file_and_not_write_content_is_decoded_as_base64() -> None:
    properties = V2.definitions["FsWriteFileParams"].properties
    assert properties["dataBase64"]["$ref"].endswith("/Base64Text")
    for name in ("FsWriteBlockParams", "ProcessWriteParams"):
        assert V2.definitions[name].properties["chunk"]["$ref"].endswith("/Base64")


@pytest.mark.parametrize(
    ("text", "is_uuid"),
    [
        ("0199a213-81c0-7800-8aa1-bbab2a035a53", True),
        ("0199A21381C078008AA1BBAB2A035A53", True),
        ("0199a213-81c0-7800-8aa1bbab2a035a53", False),
        ("0199a213-81c0-7800-8aa1-bbab2a035a5", False),
        ("", False),
    ],
)
def test_a_thread_is_named_by_a_uuid(text: str, is_uuid: bool) -> None:
    assert bool(re.search(V2.definitions["Uuid"].schema["pattern"], text)) == is_uuid


def test_what_the_revisions_share_reads_the_same() -> None:
    v1 = {area.file: area.document for area in V1.areas}
    v2 = {area.file: area.document for area in V2.areas}
    envelope = copy.deepcopy(v2["jsonrpc.json"])
    for added in ("ErrorData", "StartErrorKind"):
        del envelope["$defs"][added]
    del envelope["$defs"]["ErrorObject"]["properties"]["data"]
    assert v1["jsonrpc.json"] == envelope
    for name in ("UInt64", "Int64", "Int32", "Base64", "Base64Text"):
        assert V1.definitions[name].schema == V2.definitions[name].schema
