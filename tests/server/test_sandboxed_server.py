"""Sandboxes of requests: enforced for processes and file operations, or refused."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer
from tests.support.sandboxes import READ_ALL, entry, glob, needs_sandbox, place, plain, run, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["stdio", "ws"])
def client(request: pytest.FixtureRequest, servers: peer.Servers) -> Iterator[peer.Client]:
    """An initialized client of v2."""
    with servers.client(request.param, "v2") as client:
        client.initialize()
        yield client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for name in ("file", "sub/file", "key.pem"):
        (root / name).write_text(name)
    return root


UNRESTRICTED = {
    "permissions": {
        "type": "managed",
        "file_system": {"type": "unrestricted"},
        "network": "restricted",
    },
    "windowsSandboxLevel": "disabled",
}


@needs_sandbox
@pytest.mark.parametrize(
    ("place_entry", "context"),
    [
        (entry(place("project_roots"), "write"), {"workspaceRoots": ["{root}"]}),
        (
            entry(place("project_roots"), "write"),
            {"policyContext": {"cwd": "{root}", "workspaceRoots": ["{root}"]}},
        ),
        (entry(place("project_roots", subpath="root"), "write"), {"workspaceRoots": ["{above}"]}),
        (entry(place("current_working_directory"), "write"), {}),
        (entry(place("current_working_directory"), "write"), {"cwd": "{root}"}),
        (
            entry(place("current_working_directory", subpath="root"), "write"),
            {"cwd": "{above}"},
        ),
        (entry(place("tmpdir"), "write"), {"temporaryDirectories": ["{root}"]}),
    ],
)
def test_special_paths_are_resolved(
    client: peer.Client, root: Path, place_entry: dict[str, Any], context: dict[str, Any]
) -> None:
    filled = _fill(context, {"{root}": root.as_uri(), "{above}": root.parent.as_uri()})
    script = "echo x > new; echo x > ../new"
    output, exited = run(client, script, sandbox(READ_ALL, place_entry, **filled), root)
    assert (output.count("Read-only file system"), exited["sandboxDenied"]) == (1, True)
    assert (root / "new").exists()
    assert not (root.parent / "new").exists()


def _fill(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _fill(one, values) for name, one in value.items()}
    if isinstance(value, list):
        return [_fill(one, values) for one in value]
    return values.get(value, value)


@needs_sandbox
def test_tmpdir_is_taken_from_the_environment_of_the_command(
    client: peer.Client, root: Path
) -> None:
    env = {"PATH": "/usr/bin:/bin", "TMPDIR": str(root)}
    run(
        client,
        "touch $TMPDIR/new",
        sandbox(READ_ALL, entry(place("tmpdir"), "write")),
        root,
        env=env,
    )
    assert (root / "new").exists()


@needs_sandbox
@pytest.mark.parametrize("access", ["deny", "none"])
def test_rules_and_patterns_deny(client: peer.Client, root: Path, access: str) -> None:
    denying = entry(plain(root / "sub"), access), entry(glob("*.pem"), access)
    output, exited = run(
        client, "cat sub/file; cat file; echo; cat key.pem", sandbox(READ_ALL, *denying), root
    )
    assert output.count("Permission denied") == 2
    assert "file" in output.splitlines()
    assert exited == {**exited, "exitCode": 1, "sandboxDenied": True}


@needs_sandbox
def test_only_the_network_can_be_restricted(client: peer.Client, root: Path) -> None:
    probe = "python3 -c 'import socket; socket.socket()'"
    output, exited = run(client, f"touch new && {probe}", UNRESTRICTED, root)
    assert (root / "new").exists()
    assert "Operation not permitted" in output
    assert exited["sandboxDenied"] is True
    output, exited = run(client, probe, sandbox(READ_ALL, network="enabled"), root)
    assert (output, exited["exitCode"], exited["sandboxDenied"]) == ("", 0, False)


@needs_sandbox
def test_only_failed_commands_are_reported_as_denied(client: peer.Client, root: Path) -> None:
    restricted = sandbox(READ_ALL)
    assert run(client, "echo Permission denied", restricted, root)[1]["sandboxDenied"] is False
    assert run(client, "exit 3", restricted, root)[1]["sandboxDenied"] is False
    client.start("free", "sh", "-c", "echo Permission denied; exit 1", cwd=root.as_uri())
    (exited,) = (e["params"] for e in client.closed("free") if e["method"] == "process/exited")
    assert (exited["exitCode"], exited["sandboxDenied"]) == (1, False)


@needs_sandbox
def test_a_command_that_cannot_be_executed_exits_with_101(client: peer.Client, root: Path) -> None:
    params = peer.start_params("p", "nonesuch", cwd=root.as_uri(), sandbox=sandbox(READ_ALL))
    assert client.call("process/start", params)["sandboxType"] == "linuxSeccomp"
    (exited,) = (e["params"] for e in client.closed("p") if e["method"] == "process/exited")
    assert (exited["exitCode"], exited["sandboxDenied"]) == (101, True)


@needs_sandbox
def test_terminals_work(client: peer.Client, root: Path) -> None:
    client.call(
        "process/start",
        peer.start_params("p", "cat", cwd=root.as_uri(), tty=True, sandbox=sandbox(READ_ALL)),
    )
    chunk = base64.b64encode(b"\x03").decode()
    client.call("process/write", {"processId": "p", "writeId": "1", "chunk": chunk})
    (exited,) = (e["params"] for e in client.closed("p") if e["method"] == "process/exited")
    assert exited["exitCode"] == 130


@needs_sandbox
def test_file_calls_are_sandboxed(client: peer.Client, root: Path) -> None:
    restricted = sandbox(
        READ_ALL,
        entry(place("project_roots"), "write"),
        entry(plain(root / "sub"), "deny"),
        entry(glob("**/*.pem"), "deny"),
        cwd=root.as_uri(),
        workspaceRoots=[root.as_uri()],
    )

    def uri(name: str) -> str:
        return (root / name).as_uri()

    def code(method: str, name: str, **params: Any) -> int:
        found: int = client.error(method, {"path": uri(name), "sandbox": restricted, **params})[
            "code"
        ]
        return found

    data = base64.b64encode(b"data").decode()
    (root / "link").symlink_to("../outside")
    (root.parent / "outside").write_text("outside")
    for name in ("../new", "link", ".git/config"):
        assert code("fs/writeFile", name, dataBase64=data) == -32603
    for name in ("sub/file", "key.pem"):
        assert code("fs/readFile", name) == -32600
        assert code("fs/open", name, handleId="h") == -32600
    assert code("fs/readDirectory", "sub") == -32600
    assert code("fs/readFile", "missing") == -32004
    confined = {"sandbox": restricted}
    client.call("fs/writeFile", {"path": uri("new"), "dataBase64": data, **confined})
    assert client.call("fs/readFile", {"path": uri("new"), **confined}) == {"dataBase64": data}
    found = client.call("fs/getMetadata", {"path": uri("sub"), **confined})
    assert found["isDirectory"] is True
    opening = {"handleId": "w", "path": uri("streamed"), "mode": "replace", **confined}
    client.call("fs/open", opening)
    client.call("fs/writeBlock", {"handleId": "w", "offset": 0, "chunk": data})
    client.call("fs/close", {"handleId": "w"})
    assert (root / "streamed").read_bytes() == b"data"
    copying = {"sourcePath": uri("new"), "destinationPath": uri("copy"), "recursive": False}
    client.call("fs/copy", {**copying, **confined})
    client.call("fs/remove", {"path": uri("new"), **confined})
    walk = {"maxDepth": 3, "maxDirectories": 9, "maxEntries": 99, "followDirectorySymlinks": False}
    walked = client.call("fs/walk", {"path": uri(""), "options": walk, **confined})
    names = {os.path.basename(one["path"]) for one in walked["entries"]}
    assert {"copy", "streamed", "sub", ".git"} <= names
    assert [one["message"] for one in walked["errors"]] == ["Permission denied (os error 13)"]
    assert (root.parent / "outside").read_text() == "outside"


@needs_sandbox
def test_a_large_file_is_read_and_written_completely(client: peer.Client, root: Path) -> None:
    data = base64.b64encode(os.urandom(3_000_000)).decode()
    restricted = sandbox(READ_ALL, entry(plain(root), "write"))
    target = {"path": (root / "large").as_uri(), "sandbox": restricted}
    client.call("fs/writeFile", {**target, "dataBase64": data})
    assert client.call("fs/readFile", target)["dataBase64"] == data


@pytest.mark.parametrize(
    ("restricted", "code", "words"),
    [
        (sandbox(READ_ALL, useLegacyLandlock=True), -32600, "Landlock"),
        (sandbox(READ_ALL, entry(place("unknown", path="x"), "deny")), -32600, "cannot be denied"),
        (sandbox(READ_ALL, entry(place("unknown", path="x"), "none")), -32600, "cannot be denied"),
        pytest.param(
            sandbox(READ_ALL, entry({"type": "path", "path": "file:///proc/1/environ"}, "deny")),
            -32600,
            "a process outside",
            marks=needs_sandbox,
        ),
        (
            sandbox(entry(place("project_roots", subpath="../x"), "write"), cwd="file:///"),
            -32602,
            "subpath",
        ),
    ],
)
def test_sandboxes_that_cannot_be_enforced_are_refused(
    client: peer.Client, restricted: dict[str, Any], code: int, words: str
) -> None:
    restricted = {**restricted, "workspaceRoots": ["file:///"]}
    for method, params in (
        ("fs/readFile", {"path": "file:///etc/passwd"}),
        ("process/start", peer.start_params("p", "true", cwd="file:///")),
    ):
        error = client.error(method, {**params, "sandbox": restricted})
        assert (error["code"], words in error["message"]) == (code, True), error


def test_paths_of_other_systems_are_refused(client: peer.Client) -> None:
    restricted = sandbox(entry({"type": "path", "path": "file://host/x"}, "read"), cwd="file:///")
    start = peer.start_params("p", "true", cwd="file:///")
    for method, params, code in (
        ("fs/readFile", {"path": "file:///etc/passwd"}, -32600),
        ("process/start", start, -32602),
    ):
        error = client.error(method, {**params, "sandbox": restricted})
        assert (error["code"], "is invalid on 'linux'" in error["message"]) == (code, True)


def test_special_paths_of_file_calls_require_a_cwd(client: peer.Client, root: Path) -> None:
    for dynamic in (place("project_roots"), place("current_working_directory"), glob("*.pem")):
        restricted = sandbox(READ_ALL, entry(dynamic, "deny"))
        error = client.error("fs/readFile", {"path": root.as_uri(), "sandbox": restricted})
        assert (error["code"], "requires cwd" in error["message"]) == (-32602, True)


@needs_sandbox
def test_a_managed_network_is_refused(client: peer.Client, root: Path) -> None:
    params = peer.start_params(
        "p", "true", cwd=root.as_uri(), sandbox=sandbox(READ_ALL), enforceManagedNetwork=True
    )
    error = client.error("process/start", params)
    assert (error["code"], "enforceManagedNetwork" in error["message"]) == (-32600, True)


@pytest.mark.parametrize("works", [pytest.param(True, marks=needs_sandbox), False])
def test_the_capability_flag_depends_on_bubblewrap(
    root: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    if not works:
        monkeypatch.setenv("PATH", str(root))
    with peer.stdio("--protocol", "v2") as client:
        client.initialize()
        info = client.call("environment/info", None)
        for flag in (
            "capabilityDiscoverySandbox",
            "sandboxedFileStreaming",
            "linuxRootWritePreservesDevices",
            "linuxApprovedRootWritePreservesRestrictions",
        ):
            assert info["capabilities"].get(flag, False) is works
        if not works:
            for method, params in (
                ("fs/readFile", {"path": "file:///etc/passwd"}),
                ("process/start", peer.start_params("p", "true", cwd="file:///")),
            ):
                error = client.error(method, {**params, "sandbox": sandbox(READ_ALL)})
                assert (error["code"], "not installed" in error["message"]) == (-32600, True)


@needs_sandbox
def test_discovery_of_a_root_respects_its_sandbox(client: peer.Client, root: Path) -> None:
    for skill in ("open", "hidden"):
        (root / skill).mkdir()
        (root / skill / "SKILL.md").write_text(skill)
    hiding = sandbox(READ_ALL, entry(plain(root / "hidden"), "deny"))
    looks = [
        {"id": "free", "path": root.as_uri()},
        {"id": "confined", "path": root.as_uri(), "sandbox": hiding},
        {"id": "shut", "path": (root / "hidden").as_uri(), "sandbox": hiding},
    ]
    found = client.call("capabilityRoots/discoverV1", {"roots": looks})["roots"]
    assert [each["id"] for each in found] == ["free", "confined", "shut"]
    assert [skill["instructions"]["contents"] for skill in found[0]["skills"]] == ["hidden", "open"]
    assert [skill["instructions"]["contents"] for skill in found[1]["skills"]] == ["open"]
    assert not found[2]["skills"]


MANY = [f"file:///w/{number}" for number in range(30)]
DEEP = "file:///" + "/".join("a" * 200)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (
            sandbox(*[entry({"type": "path", "path": "file:///w"}, "read")] * 513),
            "at most 512 rules are supported, got 513",
        ),
        (
            sandbox(
                *[entry(place("project_roots"), "read")] * 30, workspaceRoots=MANY, cwd="file:///w"
            ),
            "at most 512 rules are supported, got 513",
        ),
        (
            sandbox(*[entry({"type": "path", "path": DEEP}, "read")] * 41),
            "at most 8192 levels of paths in its rules are supported, got 8200",
        ),
        (
            sandbox(entry({"type": "path", "path": DEEP + "/a" * 57}, "read")),
            "at most 256 levels and 4095 characters, got 257 and 514",
        ),
        (
            sandbox(entry(place("project_roots", subpath="a" * 4096), "read"), cwd="file:///w"),
            "at most 4095 characters, got 4096",
        ),
        (
            sandbox(READ_ALL, *[entry(glob("/w/*"), "deny")] * 1025),
            "at most 1024 glob patterns are supported, got 1025",
        ),
        (
            sandbox(READ_ALL, workspaceRoots=MANY * 20),
            "at most 512 workspace roots are supported, got 600",
        ),
        (
            sandbox(READ_ALL, temporaryDirectories=MANY * 20),
            "at most 512 temporary directories are supported, got 600",
        ),
    ],
)
def test_sandboxes_with_too_many_rules_are_refused(
    client: peer.Client, root: Path, asked: dict[str, Any], problem: str
) -> None:
    params = {"path": (root / "file").as_uri(), "sandbox": asked}
    assert problem in client.error("fs/getMetadata", params)["message"]
    start = peer.start_params("p", "true", cwd=root.as_uri(), sandbox=asked)
    assert problem in client.error("process/start", start)["message"]
    assert client.call("fs/getMetadata", {"path": (root / "file").as_uri()})["isFile"]


@needs_sandbox
def test_discovery_of_user_plugins_respects_the_sandbox(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = root / os.fsdecode(b"no \xff UTF-8")
    for skill in ("open", "hidden"):
        (home / "skills" / skill).mkdir(parents=True)
        (home / "skills" / skill / "SKILL.md").write_text("---\ndescription: it\n---\n")
    plugin = home / "plugins" / "cache" / "market" / "plug" / "1.0.0" / ".codex-plugin"
    plugin.mkdir(parents=True)
    (plugin / "plugin.json").write_text("{}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CODEX_HOME", str(home))

    with peer.stdio("--protocol", "v2") as client:
        client.initialize()

        def seen(*rules: dict[str, Any]) -> tuple[list[str], list[str], int]:
            cwd = root.as_uri()
            found = client.call(
                "capabilities/discoverV2", {"cwd": cwd, "sandbox": sandbox(*rules, cwd=cwd)}
            )
            skills = [
                skill["name"]
                for skill in found["skills"]
                if skill["discoveryRoot"]["id"] == "codex-home-skills"
            ]
            return [plugin["id"] for plugin in found["plugins"]], skills, len(found["warnings"])

        assert seen(READ_ALL) == (["plug@market"], ["hidden", "open"], 0)
        hidden = entry(plain(home / "skills" / "hidden"), "deny")
        assert seen(READ_ALL, hidden) == (["plug@market"], ["open"], 1)
        assert seen(entry(plain(home / "skills"), "read")) == ([], ["hidden", "open"], 0)
        assert seen(entry(plain(plugin), "read")) == (["plug@market"], [], 0)
        assert seen() == ([], [], 0)


V1_SHAPES = {
    "policy of 0.121": lambda root: {
        "sandboxPolicy": {
            "type": "workspace-write",
            "writable_roots": [str(root)],
            "exclude_slash_tmp": True,
            "exclude_tmpdir_env_var": True,
        }
    },
    "permissions of 0.124": lambda root: {
        "permissions": {
            "network": None,
            "file_system": {
                "entries": [
                    READ_ALL,
                    entry({"type": "path", "path": str(root)}, "write"),
                ]
            },
        }
    },
    "lists of 0.124": lambda root: {
        "permissions": {"file_system": {"read": ["/"], "write": [str(root)]}}
    },
    "permissions of 0.128": lambda root: {
        "permissions": {
            "type": "managed",
            "file_system": {
                "type": "restricted",
                "entries": [READ_ALL, entry(place("project_roots"), "write")],
            },
            "network": "restricted",
        },
        "cwd": str(root),
    },
}


@needs_sandbox
@pytest.mark.parametrize("shape", V1_SHAPES)
def test_all_forms_of_v1_restrict_file_calls(shape: str, root: Path) -> None:
    restricted = {**V1_SHAPES[shape](root), "windowsSandboxLevel": "disabled"}
    data = base64.b64encode(b"data").decode()
    with peer.stdio() as client:
        client.initialize()

        def write(path: Path) -> dict[str, Any]:
            return {"path": str(path), "dataBase64": data, "sandbox": restricted}

        client.call("fs/writeFile", write(root / "new"))
        for path in (root.parent / "new", root / ".git/config"):
            assert client.error("fs/writeFile", write(path))["code"] == -32603
        read = {"path": str(root / "new"), "sandbox": restricted}
        assert client.call("fs/readFile", read) == {"dataBase64": data}
    assert not (root.parent / "new").exists()


@needs_sandbox
def test_policies_of_v1_can_hide_files(root: Path) -> None:
    access = {"type": "restricted", "readable_roots": [str(root)]}
    restricted = {"sandboxPolicy": {"type": "read-only", "access": access}}
    with peer.stdio() as client:
        client.initialize()
        for path, code in ((root.parent, -32004), ("/root", -32004)):
            params = {"path": f"{path}/missing", "sandbox": restricted}
            assert client.error("fs/getMetadata", params)["code"] == code
        found = client.call("fs/getMetadata", {"path": str(root / "file"), "sandbox": restricted})
        assert found["isFile"] is True
        error = client.error(
            "fs/writeFile", {"path": str(root / "x"), "dataBase64": "", "sandbox": restricted}
        )
        assert error["code"] == -32603


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, -32602),
        ({"permissions": 1}, -32602),
        ({"permissions": {"type": "other"}}, -32602),
        ({"permissions": {"type": "managed"}}, -32602),
        ({"sandboxPolicy": {"type": "other"}}, -32602),
        ({"sandboxPolicy": {"type": "workspace-write", "writable_roots": ["relative"]}}, -32602),
        ({"permissions": {"file_system": {"read": ["/"]}}, "cwd": 1}, -32602),
        ({"sandboxPolicy": {"type": "read-only"}, "useLegacyLandlock": True}, -32600),
        (
            {"permissions": {"file_system": {"entries": [entry(place("project_roots"), "read")]}}},
            -32600,
        ),
    ],
)
def test_invalid_sandboxes_of_v1_are_refused(given: dict[str, Any], code: int) -> None:
    with peer.stdio() as client:
        client.initialize()
        params = {"path": "/etc/passwd", "sandbox": given}
        assert client.error("fs/readFile", params)["code"] == code


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"permissions": {"type": "disabled"}},
        {"permissions": {"type": "external", "network": "enabled"}},
        {"sandboxPolicy": {"type": "danger-full-access"}},
        {"sandboxPolicy": {"type": "external-sandbox"}},
        {"permissions": {"file_system": {"write": ["/"]}}},
    ],
)
def test_unrestricted_sandboxes_of_v1_give_direct_access(
    root: Path, given: dict[str, Any] | None
) -> None:
    with peer.stdio() as client:
        client.initialize()
        client.call(
            "fs/writeFile", {"path": str(root / ".git"), "dataBase64": "", "sandbox": given}
        )
    assert (root / ".git").exists()


@needs_sandbox
def test_reading_creates_no_placeholders(client: peer.Client, root: Path) -> None:
    confined = {"sandbox": sandbox(READ_ALL, entry(plain(root), "write"))}
    present = sorted(os.listdir(root))
    for name in (".git", ".agents", ".codex", ".aws"):
        params = {"path": (root / name).as_uri(), **confined}
        assert client.error("fs/getMetadata", params)["code"] == -32004
    listed = client.call("fs/readDirectory", {"path": root.as_uri(), **confined})["entries"]
    assert sorted(one["fileName"] for one in listed) == present == sorted(os.listdir(root))
    (root / ".git").symlink_to("sub")
    target = {"path": (root / "file").as_uri(), **confined}
    assert base64.b64decode(client.call("fs/readFile", target)["dataBase64"]) == b"file"
    error = client.error("fs/writeFile", {**target, "dataBase64": ""})
    assert (error["code"], "is a symbolic link" in error["message"]) == (-32600, True)
