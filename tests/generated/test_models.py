"""The models and the bundled schema take and refuse the same values."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import exec_server_protocol
from exec_server_protocol import draft, v0, v1, v2
from exec_server_protocol.model import UINT64_MAX, Model
from tests.support.payloads import Payloads, holds, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

REVISIONS: dict[str, ModuleType] = {"v0": v0, "v1": v1, "v2": v2, "draft": draft}
PAYLOADS = {name: Payloads(name) for name in REVISIONS}

fast = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def models() -> list[tuple[str, str]]:
    """Each model once: a revision that extends another has the models that it does not change."""
    found: dict[type, tuple[str, str]] = {}
    for revision, package in REVISIONS.items():
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isclass(value) and issubclass(value, Model):
                found.setdefault(value, (revision, name))
    return list(found.values())


def model(revision: str, name: str) -> type[Model]:
    found: type[Model] = getattr(REVISIONS[revision], name)
    return found


def u64_members() -> Iterator[tuple[str, str, str]]:
    for revision, name in models():
        payloads = PAYLOADS[revision]
        for member, schema in payloads.definitions[name].get("properties", {}).items():
            branches = schema.get("anyOf", [schema])
            if any(payloads.resolved(branch).get("maximum") == UINT64_MAX for branch in branches):
                yield revision, name, member


def test_every_revision_of_the_package_is_tested() -> None:
    assert set(REVISIONS) == set(exec_server_protocol.REVISIONS)


@pytest.mark.parametrize(("revision", "name"), models())
@fast
@given(data=st.data())
def test_valid_values_survive_the_model_and_stay_valid(
    revision: str, name: str, data: st.DataObject
) -> None:
    payloads, type_ = PAYLOADS[revision], model(revision, name)
    value = data.draw(payloads.valid(name))
    payloads.validator(name).validate(value)
    decoded = msgspec.json.decode(json.dumps(value), type=type_)
    encoded = msgspec.json.encode(decoded)
    again = json.loads(encoded)
    payloads.validator(name).validate(again)
    assert holds(again, value)
    assert set(again) - set(value) <= set(payloads.definitions[name]["properties"])
    assert msgspec.json.decode(encoded, type=type_) == decoded


@pytest.mark.parametrize(("revision", "name"), models())
@settings(fast, max_examples=3)
@given(data=st.data())
def test_invalid_values_are_refused_by_the_model_too(
    revision: str, name: str, data: st.DataObject
) -> None:
    payloads, type_ = PAYLOADS[revision], model(revision, name)
    tag = type_.__struct_config__.tag_field
    for how, value in payloads.invalid(name, data.draw(payloads.valid(name))):
        if isinstance(value, dict) and tag is not None and tag not in value:
            continue  # outside of its union a struct may come without its tag
        with pytest.raises(msgspec.ValidationError):
            pytest.fail(f"{how}: {msgspec.json.decode(json.dumps(value), type=type_)}")
        assert not payloads.validator(name).is_valid(value), how


@pytest.mark.parametrize(("revision", "name"), models())
@settings(fast, max_examples=3)
@given(data=st.data())
def test_unknown_members_are_ignored_except_where_nothing_is_allowed(
    revision: str, name: str, data: st.DataObject
) -> None:
    payloads, type_ = PAYLOADS[revision], model(revision, name)
    value = data.draw(payloads.valid(name))
    text = json.dumps({**value, "unheardOf": {"a": [1]}})
    if payloads.definitions[name].get("maxProperties") == 0:
        with pytest.raises(msgspec.ValidationError, match="unheardOf"):
            msgspec.json.decode(text, type=type_)
    else:
        expected = msgspec.json.decode(json.dumps(value), type=type_)
        assert msgspec.json.decode(text, type=type_) == expected


@pytest.mark.parametrize(("revision", "name"), models())
def test_members_are_written_in_the_order_of_the_schema(revision: str, name: str) -> None:
    schema = PAYLOADS[revision].definitions[name]
    tag = model(revision, name).__struct_config__.tag_field
    wire = [member for member in schema["properties"] if member != tag]
    assert list(model(revision, name).__struct_encode_fields__) == wire


@pytest.mark.parametrize(("revision", "name", "member"), list(u64_members()))
def test_unsigned_64_bit_members_end_at_their_bound(revision: str, name: str, member: str) -> None:
    value = PAYLOADS[revision].valid(name)
    sample = _sample(value)
    type_ = model(revision, name)
    highest = msgspec.json.decode(json.dumps({**sample, member: UINT64_MAX}), type=type_)
    assert json.loads(msgspec.json.encode(highest))[member] == UINT64_MAX
    with pytest.raises(msgspec.ValidationError, match=f"`{member}` <= {UINT64_MAX}"):
        msgspec.json.decode(json.dumps({**sample, member: UINT64_MAX + 1}), type=type_)
    for text in ("-1", "1.0", "1e3", "1.5", '"1"', "true"):
        spoiled = json.dumps({**sample, member: 0}).replace(f'"{member}": 0', f'"{member}": {text}')
        with pytest.raises(msgspec.ValidationError, match=member):
            msgspec.json.decode(spoiled, type=type_)


def _sample(strategy: st.SearchStrategy[Any]) -> Any:
    samples: list[Any] = []

    @settings(max_examples=1, database=None, phases=[Phase.generate], derandomize=True)
    @given(strategy)
    def draw(value: Any) -> None:
        samples.append(value)

    draw()
    return samples[0]


def test_a_bound_inside_a_list_is_reported_with_its_place() -> None:
    text = json.dumps(
        {
            "chunks": [{"seq": 2**64, "stream": "pty", "chunk": ""}],
            "nextSeq": 1,
            "exited": False,
            "exitCode": None,
            "closed": False,
            "failure": None,
        }
    )
    with pytest.raises(msgspec.ValidationError, match=r"`seq` .* at `\$\.chunks\[0\]`"):
        msgspec.json.decode(text, type=v1.ProcessReadResult)


def test_the_content_of_a_file_to_write_is_left_to_the_method() -> None:
    text = '{"path": "/a", "dataBase64": "not base64!"}'
    assert msgspec.json.decode(text, type=v1.FsWriteFileParams).data_base64 == "not base64!"


SANDBOXES: dict[str, tuple[dict[str, Any], type[Model]]] = {
    "0.121": (
        {
            "sandboxPolicy": {"type": "danger-full-access"},
            "windowsSandboxLevel": "disabled",
            "windowsSandboxPrivateDesktop": False,
            "useLegacyLandlock": False,
            "additionalPermissions": None,
        },
        v1.PolicySandboxContext,
    ),
    "0.124": (
        {
            "permissions": {"network": {"enabled": True}, "file_system": {"entries": []}},
            "windowsSandboxLevel": "disabled",
            "cwd": "/srv",
        },
        v1.ProfileSandboxContext,
    ),
    "0.139": (
        {
            "permissions": {
                "type": "managed",
                "file_system": {
                    "type": "restricted",
                    "entries": [
                        {
                            "path": {"type": "special", "value": {"kind": "root"}},
                            "access": "read",
                        },
                        {"path": {"type": "path", "path": "/srv"}, "access": "write"},
                    ],
                },
                "network": "restricted",
            },
            "windowsSandboxLevel": "disabled",
        },
        v1.SandboxContext,
    ),
}


@pytest.mark.parametrize("release", SANDBOXES)
def test_the_sandbox_of_every_release_decodes_and_has_a_shape(release: str) -> None:
    sandbox, shape = SANDBOXES[release]
    text = json.dumps({"path": "/a", "sandbox": sandbox})
    params = msgspec.json.decode(text, type=v1.FsReadFileParams)
    assert params.sandbox == sandbox
    assert isinstance(msgspec.convert(params.sandbox, shape), shape)
    PAYLOADS["v1"].validator(shape.__name__).validate(sandbox)


@pytest.mark.parametrize("sandbox", [{}, {"permissions": 1}, {"later": {"shape": True}}])
def test_an_unheard_of_sandbox_decodes(sandbox: dict[str, Any]) -> None:
    text = json.dumps({"path": "/a", "sandbox": sandbox})
    assert msgspec.json.decode(text, type=v1.FsGetMetadataParams).sandbox == sandbox
    with pytest.raises(msgspec.ValidationError, match="sandbox"):
        msgspec.json.decode('{"path": "/a", "sandbox": "none"}', type=v1.FsGetMetadataParams)


V2_SANDBOXES: dict[str, dict[str, Any]] = {
    "0.143": {
        "permissions": {"type": "disabled"},
        "windowsSandboxLevel": "disabled",
        "windowsSandboxPrivateDesktop": False,
        "useLegacyLandlock": False,
    },
    "0.155": {
        "permissions": {"type": "external", "network": "enabled"},
        "cwd": None,
        "workspaceRoots": ["file:///srv"],
        "userHomeDir": "file:///root",
        "temporaryDirectories": None,
        "windowsSandboxLevel": "disabled",
        "windowsSandboxProxySettingsMode": None,
    },
    "0.169": {
        "permissions": {
            "type": "managed",
            "file_system": {
                "type": "restricted",
                "glob_scan_max_depth": 3,
                "entries": [
                    {
                        "path": {
                            "type": "special",
                            "value": {"kind": "project_roots", "subpath": None},
                        },
                        "access": "write",
                        "missing_path_behavior": "skip",
                    },
                    {"path": {"type": "glob_pattern", "pattern": "**/.env"}, "access": "deny"},
                    {"path": {"type": "path", "path": "file:///etc"}, "access": "read"},
                ],
            },
            "network": "restricted",
        },
        "policyContext": {"cwd": "file:///srv", "workspaceRoots": ["file:///srv"]},
        "windowsSandboxLevel": "mxc",
        "sandboxOverride": "noOverride",
    },
}


@pytest.mark.parametrize("release", V2_SANDBOXES)
def test_the_sandbox_of_every_later_release_is_typed(release: str) -> None:
    sandbox = V2_SANDBOXES[release]
    text = json.dumps({"path": "file:///a", "sandbox": sandbox})
    params = msgspec.json.decode(text, type=v2.FsReadFileParams)
    PAYLOADS["v2"].validator("Sandbox").validate(sandbox)
    assert params.sandbox is not None
    assert holds(json.loads(msgspec.json.encode(params.sandbox)), sandbox)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        ({"permissions": {"type": "open"}}, r"\$\.sandbox\.permissions"),
        ({"permissions": {"type": "external"}}, r"`network`.*\$\.sandbox\.permissions"),
        ({"workspaceRoots": ["/srv"]}, r"\$\.sandbox\.workspaceRoots"),
        ({"workspaceRoots": None}, r"\$\.sandbox\.workspaceRoots"),
        ({"sandboxOverride": None}, r"\$\.sandbox\.sandboxOverride"),
        ({"windowsSandboxLevel": "low"}, r"\$\.sandbox\.windowsSandboxLevel"),
    ],
)
def test_a_wrong_sandbox_is_refused_with_its_place(spoil: dict[str, Any], where: str) -> None:
    text = json.dumps({"path": "file:///a", "sandbox": {**V2_SANDBOXES["0.143"], **spoil}})
    with pytest.raises(msgspec.ValidationError, match=where):
        msgspec.json.decode(text, type=v2.FsReadFileParams)


@pytest.mark.parametrize("path", ["/srv", "srv", "", "~/srv"])
def test_a_native_path_is_refused_for_an_older_revision_to_take(path: str) -> None:
    start = {"processId": "p", "argv": [], "cwd": path, "env": {}, "tty": False}
    with pytest.raises(msgspec.ValidationError, match=r"\$\.cwd"):
        msgspec.json.decode(json.dumps(start), type=v2.ProcessStartParams)
    watch = {"watchId": 1, "missing": ["file:///a", path]}
    with pytest.raises(msgspec.ValidationError, match=r"\$\.missing\[1\]"):
        msgspec.json.decode(json.dumps(watch), type=v2.FsWatchMissingParams)


def test_what_a_server_does_not_tell_is_left_out() -> None:
    info = v2.EnvironmentInfoResult(shell=v2.Shell(name="sh", path="/bin/sh"))
    told = {"shell": {"name": "sh", "path": "/bin/sh"}}
    assert json.loads(msgspec.json.encode(info)) == told
    assert json.loads(msgspec.json.encode(v2.InitializeResult(session_id="s"))) == {
        "sessionId": "s"
    }
    whole = msgspec.json.decode(
        json.dumps({**told, "capabilities": {"later": True}}), type=type(info)
    )
    assert isinstance(whole.capabilities, v2.EnvironmentCapabilities)
    assert not any(msgspec.structs.asdict(whole.capabilities).values())


def test_the_answers_of_a_release_without_the_later_members_decode() -> None:
    exited = msgspec.json.decode(
        '{"processId": "p", "seq": 1, "exitCode": 0}', type=v2.ProcessExitedParams
    )
    assert exited.sandbox_denied is False
    started = msgspec.json.decode('{"processId": "p"}', type=v2.ProcessStartResult)
    assert started.sandbox_type is msgspec.UNSET


def test_the_bundled_schema_holds_every_model() -> None:
    for revision, name in models():
        assert name in load(revision, "schema.json")["$defs"]
