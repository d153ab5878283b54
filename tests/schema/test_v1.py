"""Facts of revision v1 that every implementation of it rests on."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server_codegen.schema_files import read_revision
from tests.support.checkout import ROOT
from tests.support.shapes import members

SCHEMA = ROOT / "schema"
V1 = read_revision(SCHEMA, "v1")
BASE64 = re.compile(V1.definitions["Base64"].schema["pattern"])

METHODS = {
    "initialize": ("request", "clientToServer", "0.121.0"),
    "initialized": ("notification", "clientToServer", "0.121.0"),
    "process/start": ("request", "clientToServer", "0.121.0"),
    "process/read": ("request", "clientToServer", "0.121.0"),
    "process/write": ("request", "clientToServer", "0.121.0"),
    "process/terminate": ("request", "clientToServer", "0.121.0"),
    "process/output": ("notification", "serverToClient", "0.121.0"),
    "process/exited": ("notification", "serverToClient", "0.121.0"),
    "process/closed": ("notification", "serverToClient", "0.121.0"),
    "fs/readFile": ("request", "clientToServer", "0.121.0"),
    "fs/writeFile": ("request", "clientToServer", "0.121.0"),
    "fs/createDirectory": ("request", "clientToServer", "0.121.0"),
    "fs/getMetadata": ("request", "clientToServer", "0.121.0"),
    "fs/readDirectory": ("request", "clientToServer", "0.121.0"),
    "fs/remove": ("request", "clientToServer", "0.121.0"),
    "fs/copy": ("request", "clientToServer", "0.121.0"),
    "fs/canonicalize": ("request", "clientToServer", "0.137.0"),
    "fs/join": ("request", "clientToServer", "0.137.0"),
    "fs/parent": ("request", "clientToServer", "0.137.0"),
    "http/request": ("request", "clientToServer", "0.124.0"),
    "http/request/bodyDelta": ("notification", "serverToClient", "0.124.0"),
    "environment/info": ("request", "clientToServer", "0.139.0"),
}

# Members in their order on the wire: `!` required, `?` may be null.
MEMBERS = {
    "InitializeParams": "clientName! resumeSessionId?",
    "InitializeResult": "sessionId!",
    "InitializedParams": "",
    "ProcessStartParams": "processId! argv! cwd! envPolicy? env! tty! pipeStdin arg0?",
    "ProcessStartResult": "processId!",
    "EnvPolicy": "inherit! ignoreDefaultExcludes! exclude! set! includeOnly!",
    "ProcessReadParams": "processId! afterSeq? maxBytes? waitMs?",
    "ProcessReadResult": "chunks! nextSeq! exited! exitCode!? closed! failure!?",
    "OutputChunk": "seq! stream! chunk!",
    "ProcessWriteParams": "processId! chunk!",
    "ProcessWriteResult": "status!",
    "ProcessTerminateParams": "processId!",
    "ProcessTerminateResult": "running!",
    "ProcessOutputParams": "processId! seq! stream! chunk!",
    "ProcessExitedParams": "processId! seq! exitCode!",
    "ProcessClosedParams": "processId! seq!",
    "FsReadFileParams": "path! sandbox?",
    "FsReadFileResult": "dataBase64!",
    "FsWriteFileParams": "path! dataBase64! sandbox?",
    "FsWriteFileResult": "",
    "FsCreateDirectoryParams": "path! recursive? sandbox?",
    "FsCreateDirectoryResult": "",
    "FsGetMetadataParams": "path! sandbox?",
    "FsGetMetadataResult": "isDirectory! isFile! isSymlink! createdAtMs! modifiedAtMs!",
    "FsReadDirectoryParams": "path! sandbox?",
    "FsReadDirectoryResult": "entries!",
    "DirectoryEntry": "fileName! isDirectory! isFile!",
    "FsRemoveParams": "path! recursive? force? sandbox?",
    "FsRemoveResult": "",
    "FsCopyParams": "sourcePath! destinationPath! recursive! sandbox?",
    "FsCopyResult": "",
    "FsCanonicalizeParams": "path! sandbox?",
    "FsCanonicalizeResult": "path!",
    "FsJoinParams": "basePath! path!",
    "FsJoinResult": "path!",
    "FsParentParams": "path!",
    "FsParentResult": "path!?",
    "HttpRequestParams": ("method! url! headers bodyBase64? timeoutMs? requestId! streamResponse"),
    "HttpRequestResult": "status! headers! bodyBase64!",
    "HttpHeader": "name! value!",
    "HttpRequestBodyDeltaParams": "requestId! seq! deltaBase64! done! error!?",
    "EnvironmentInfoParams": "",
    "EnvironmentInfoResult": "shell!",
    "Shell": "name! path!",
    "ErrorResponse": "error! id!",
    "Response": "id! result!",
    "Request": "id! method! params trace?",
    "Notification": "method! params",
}

ENUMS = {
    "OutputStream": ["stdout", "stderr", "pty"],
    "WriteStatus": ["accepted", "unknownProcess", "stdinClosed", "starting"],
    "EnvInherit": ["core", "all", "none"],
}


def test_the_method_table_lists_the_methods_of_the_revision() -> None:
    table = {method.name: (method.kind, method.direction, method.since) for method in V1.methods}
    assert table == METHODS


def test_the_error_codes_are_those_of_the_released_servers() -> None:
    assert {error.name: error.code for error in V1.errors} == {
        "invalidRequest": -32600,
        "methodNotFound": -32601,
        "invalidParams": -32602,
        "internalError": -32603,
        "notFound": -32004,
    }


def test_state_errors_name_the_families_in_the_words_of_the_released_servers() -> None:
    assert {family.name: family.state_name for family in V1.families} == {
        "lifecycle": None,
        "process": "exec",
        "filesystem": "filesystem",
        "http": "http",
        "environment": "environment info",
    }


@pytest.mark.parametrize("name", MEMBERS)
def test_members_have_the_order_and_presence_of_the_wire(name: str) -> None:
    assert members(V1.definitions[name]) == MEMBERS[name]


@pytest.mark.parametrize("name", ENUMS)
def test_choices_are_those_of_the_wire(name: str) -> None:
    assert V1.definitions[name].schema["enum"] == ENUMS[name]


def test_only_file_and_not_write_content_is_decoded_as_base64() -> None:
    properties = V1.definitions["FsWriteFileParams"].properties
    assert properties["dataBase64"]["$ref"].endswith("/Base64Text")
    assert "format" not in V1.definitions["Base64Text"].schema


@given(st.binary(max_size=64))
def test_the_base64_pattern_takes_every_encoding(data: bytes) -> None:
    assert BASE64.search(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    "text", ["a", "aG", "aGk", "aGl=", "aB==", "aGk=aGk=", "aG k", "aGk=\r\n", "a_-=", "====", "!"]
)
def test_the_base64_pattern_refuses_what_is_not_strict(text: str) -> None:
    assert not BASE64.search(text)


def test_every_method_shows_what_travels() -> None:
    for method in V1.methods:
        for example in method.examples:
            assert json.dumps(example["params"])
            answered = {"result", "error"} & set(example)
            assert bool(answered) == (method.kind == "request")


def properties_of(name: str) -> dict[str, Any]:
    return V1.definitions[name].properties


def test_the_documented_shape_of_a_sandbox_is_told_from_the_older_ones() -> None:
    assert V1.definitions["Sandbox"].properties == {}
    assert [shape["$ref"] for shape in V1.definitions["Sandbox"].schema["x-shapes"]] == [
        "#/$defs/SandboxContext",
        "#/$defs/ProfileSandboxContext",
        "#/$defs/PolicySandboxContext",
    ]
    mapping = V1.definitions["SandboxPermissions"].schema["discriminator"]["mapping"]
    assert set(mapping) == {"disabled", "external", "managed"}
    assert "sandboxPolicy" in properties_of("PolicySandboxContext")
