"""Denied and protected paths whose files are replaced while a sandbox is in use.

By the server itself, or by a program outside; under a program that runs, or between two calls that
one confined worker may serve.
"""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer
from tests.support.sandboxes import READ_ALL, entry, glob, needs_sandbox, plain, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs_sandbox

DENIED = (-32600, "Permission denied (os error 13)")


@pytest.fixture
def client(servers: peer.Servers) -> Iterator[peer.Client]:
    """A client of v2 that is ready."""
    with servers.client("ws", "v2") as client:
        client.initialize()
        yield client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory for writing, with a secret, and a new one beside it."""
    root = tmp_path / "root"
    (root / "vault").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "secret").write_text("old secret")
    (root / "vault/secret").write_text("old secret")
    (tmp_path / "new").write_text("new secret")
    (tmp_path / "tree/vault").mkdir(parents=True)
    (tmp_path / "tree/vault/secret").write_text("new secret")
    (tmp_path / "link").symlink_to("tree/vault/secret")
    return root


def rules(root: Path, *, access: str = "write", skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """The secrets of a directory are denied, the rest may be written, or only read."""
    denied = [root / name for name in ("secret", "vault") if name not in skip]
    return sandbox(
        READ_ALL,
        entry(plain(root), access),
        *(entry(plain(path), "deny") for path in denied),
    )


class Program:
    """A confined program that tries something as often as it is asked to."""

    def __init__(self, client: peer.Client, script: str, restricted: dict[str, Any]) -> None:
        self._client = client
        self._count = 0
        loop = f"while read line; do {script}; echo :$line:; done 2>&1"
        started = client.call(
            "process/start",
            peer.start_params(
                "program", "sh", "-c", loop, cwd="file:///", sandbox=restricted, pipeStdin=True
            ),
        )
        assert started["sandboxType"] == "linuxSeccomp"

    def says(self) -> str:
        """What it finds now."""
        self._count += 1
        line = base64.b64encode(b"%d\n" % self._count).decode()
        write = {"processId": "program", "writeId": str(self._count), "chunk": line}
        assert self._client.call("process/write", write) == {"status": "accepted"}
        mark = f":{self._count}:\n"
        self._client.wait(lambda: self._output().endswith(mark))
        return self._output().removesuffix(mark).rpartition(f":{self._count - 1}:\n")[2]

    def _output(self) -> str:
        return b"".join(
            base64.b64decode(event["params"]["chunk"])
            for event in self._client.events("program")
            if event["method"] == "process/output"
        ).decode()

    def end(self) -> None:
        self._client.call("process/terminate", {"processId": "program"})
        self._client.closed("program")


def reading(path: Path) -> str:
    return f"cat {path}"


def write(client: peer.Client, path: Path, **more: Any) -> None:
    data = base64.b64encode(b"new secret").decode()
    client.call("fs/writeFile", {"path": path.as_uri(), "dataBase64": data, **more})


def copy(client: peer.Client, source: Path, target: Path, **more: Any) -> None:
    pair = {"sourcePath": source.as_uri(), "destinationPath": target.as_uri(), "recursive": True}
    client.call("fs/copy", {**pair, **more})


def stream(client: peer.Client, path: Path, **more: Any) -> None:
    """Write through a handle."""
    opening = {"handleId": "h", "path": path.as_uri(), "mode": "replace", **more}
    client.call("fs/open", opening)
    chunk = base64.b64encode(b"new secret").decode()
    client.call("fs/writeBlock", {"handleId": "h", "offset": 0, "chunk": chunk})
    client.call("fs/close", {"handleId": "h"})


def remove(client: peer.Client, path: Path, **more: Any) -> None:
    client.call("fs/remove", {"path": path.as_uri(), "recursive": True, "force": False, **more})


def make(client: peer.Client, path: Path, **more: Any) -> None:
    client.call("fs/createDirectory", {"path": path.as_uri(), "recursive": True, **more})


FILE_WRITES: dict[str, Callable[[peer.Client, Path], None]] = {
    "fs/writeFile": lambda client, root: write(client, root / "secret"),
    "fs/copy": lambda client, root: copy(client, root.parent / "new", root / "secret"),
    "fs/open": lambda client, root: stream(client, root / "secret"),
    "confined": lambda client, root: write(
        client, root / "secret", sandbox=rules(root, skip=("secret",))
    ),
    "confined copy": lambda client, root: copy(
        client,
        root.parent / "new",
        root / "secret",
        sandbox=rules(root, skip=("secret",)),
    ),
    "through a link": lambda client, root: write(client, root.parent / "way/secret"),
}


@pytest.mark.parametrize("how", FILE_WRITES)
@pytest.mark.parametrize("access", ["read", "write"])
def test_a_running_program_does_not_read_what_the_server_writes(
    client: peer.Client, root: Path, how: str, access: str
) -> None:
    """The file is written in place, so the mount upon it stays."""
    (root.parent / "way").symlink_to("root")
    program = Program(client, reading(root / "secret"), rules(root, access=access))
    assert "Permission denied" in program.says()
    FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "new secret"
    assert "Permission denied" in program.says()
    program.end()


def test_a_running_program_does_not_read_a_match_of_a_pattern_that_is_written(
    client: peer.Client, root: Path
) -> None:
    restricted = sandbox(READ_ALL, entry(glob(f"{root}/**/secret"), "deny"))
    program = Program(client, reading(root / "vault/secret"), restricted)
    write(client, root / "vault/secret")
    assert "Permission denied" in program.says()
    program.end()


CREATIONS: dict[str, Callable[[peer.Client, Path], None]] = {
    "fs/writeFile": lambda client, root: write(client, root / "secret"),
    "fs/copy": lambda client, root: copy(client, root.parent / "new", root / "secret"),
    "fs/copy of a link": lambda client, root: copy(client, root.parent / "link", root / "secret"),
    "fs/open": lambda client, root: stream(client, root / "secret"),
    "fs/createDirectory": lambda client, root: make(client, root / "vault/below"),
    "fs/copy of a tree": lambda client, root: copy(client, root.parent / "tree", root),
    "confined": lambda client, root: write(
        client, root / "secret", sandbox=rules(root, skip=("secret", "vault"))
    ),
    "confined directory": lambda client, root: make(
        client, root / "vault", sandbox=rules(root, skip=("secret", "vault"))
    ),
}


@pytest.mark.parametrize("how", CREATIONS)
@pytest.mark.parametrize("removed_by", ["server", "program"])
def test_what_was_denied_is_not_created_anew_while_a_program_runs(
    client: peer.Client, root: Path, how: str, removed_by: str
) -> None:
    script = f"{reading(root / 'secret')}; {reading(root / 'vault/secret')}"
    program = Program(client, script, rules(root))
    program.says()
    for path in (root / "secret", root / "vault"):
        if removed_by == "server":
            remove(client, path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
        CREATIONS[how](client, root)
    assert "new secret" not in program.says()
    assert not (root / "secret").exists()
    assert not (root / "vault").exists()
    program.end()
    CREATIONS[how](client, root)


@pytest.mark.parametrize("how", FILE_WRITES)
def test_the_server_does_not_write_where_a_program_has_replaced_what_is_denied(
    client: peer.Client, root: Path, how: str
) -> None:
    """The mount is gone then, and everything written could be read. The new file often has the
    inode of the old one."""
    (root.parent / "way").symlink_to("root")
    program = Program(client, reading(root / "secret"), rules(root))
    program.says()
    (root / "secret").unlink()
    (root / "secret").write_text("by a program")
    with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
        FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "by a program"
    assert program.says() == "by a program"  # which no mount can prevent
    program.end()
    FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "new secret"


def test_other_files_can_be_written_meanwhile(client: peer.Client, root: Path) -> None:
    """Also by a call to which /proc is closed, so that it cannot ask for the name of a file."""
    (root / "other").write_text("old")
    program = Program(client, reading(root / "secret"), rules(root))
    closed = sandbox(READ_ALL, entry(plain(root), "write"), entry(plain(Path("/proc")), "deny"))
    write(client, root / "other", sandbox=closed)
    assert (root / "other").read_text() == "new secret"
    (root / "secret").unlink()
    (root / "secret").write_text("by a program")
    with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
        write(client, root / "secret", sandbox=closed)
    program.end()


def test_what_is_denied_and_missing_is_not_created_while_a_program_runs(
    client: peer.Client, root: Path
) -> None:
    missing = root.parent / "missing"
    restricted = sandbox(READ_ALL, entry(plain(missing / "secret"), "deny"))
    program = Program(client, reading(missing / "secret"), restricted)
    assert "No such file" in program.says()
    make(client, missing)
    for create in (write, stream, make):
        with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
            create(client, missing / "secret")
    write(client, missing / "other")
    assert "No such file" in program.says()
    program.end()
    write(client, missing / "secret")


@pytest.mark.parametrize("exists", [True, False])
def test_what_is_protected_is_not_removed_while_a_program_runs(
    client: peer.Client, root: Path, exists: bool
) -> None:
    """The program could create its own then."""
    git = root / ".git"
    if not exists:
        git.rmdir()
    program = Program(client, f"mkdir -p {git}/hooks && echo made", rules(root))
    assert "made" not in program.says()
    other = rules(root.parent, access="write", skip=("secret", "vault"))
    for more in ({}, {"sandbox": other}):
        with pytest.raises(AssertionError, match="read-only for a sandboxed process"):
            remove(client, git, **more)
    write(client, git / "config")
    assert "made" not in program.says()
    program.end()
    remove(client, git)
    assert not git.exists()


def test_a_whole_workspace_can_be_removed_while_a_program_runs(
    client: peer.Client, root: Path
) -> None:
    program = Program(client, f"mkdir -p {root}/.git && echo made", rules(root))
    assert program.says() == "made\n"
    remove(client, root)
    make(client, root)
    assert "made" not in program.says()
    program.end()


def by_rename(path: Path) -> None:
    os.replace(path.parent.parent / "new", path)


def by_creation(path: Path) -> None:
    path.unlink()
    path.write_text("new secret")


def by_another_name(path: Path) -> None:
    """The same inode, but another entry of the directory."""
    other = path.with_name("other")
    os.link(path, other)
    path.unlink()
    other.rename(path)


OUTSIDE = [by_rename, by_creation, by_another_name]


@pytest.mark.parametrize("replace", OUTSIDE)
@pytest.mark.parametrize("access", ["read", "write"])
def test_a_file_call_is_denied_after_a_program_has_replaced_the_file(
    client: peer.Client, root: Path, replace: Callable[[Path], None], access: str
) -> None:
    call = {"path": (root / "secret").as_uri(), "sandbox": rules(root, access=access)}
    for _ in range(2):
        error = client.error("fs/readFile", call)
        assert (error["code"], error["message"]) == DENIED
    replace(root / "secret")
    error = client.error("fs/readFile", call)
    assert (error["code"], error["message"]) == DENIED


@pytest.mark.parametrize("how", FILE_WRITES)
def test_a_file_call_is_denied_after_the_server_has_written_the_file(
    client: peer.Client, root: Path, how: str
) -> None:
    (root.parent / "way").symlink_to("root")
    call = {"path": (root / "secret").as_uri(), "sandbox": rules(root)}
    assert client.error("fs/readFile", call)["code"] == -32600
    FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "new secret"
    assert client.error("fs/readFile", call)["code"] == -32600


@pytest.mark.parametrize("how", CREATIONS)
def test_a_file_call_is_denied_after_the_server_has_created_the_file_anew(
    client: peer.Client, root: Path, how: str
) -> None:
    """Which is not refused, because a call is all that was confined."""
    paths = root / "secret", root / "vault/secret"
    calls = [{"path": path.as_uri(), "sandbox": rules(root)} for path in paths]
    for path, call in zip(paths, calls, strict=True):
        assert client.error("fs/readFile", call)["code"] == -32600
        remove(client, path)
    (root / "vault").rmdir()
    CREATIONS[how](client, root)
    for call in calls:
        answer = client.answer(client.request("fs/readFile", call))
        assert "result" not in answer


def test_a_directory_of_the_same_number_is_protected_too(client: peer.Client, root: Path) -> None:
    """A directory that is made anew often has the inode of the old one."""
    call = {"path": (root / ".git/config").as_uri(), "dataBase64": "", "sandbox": rules(root)}
    for _ in range(20):
        assert (
            client.error("fs/writeFile", call)["message"] == "Read-only file system (os error 30)"
        )
        (root / ".git").rmdir()
        (root / ".git").mkdir()
    client.error("fs/writeFile", call)
    assert not (root / ".git/config").exists()


@pytest.mark.parametrize("replace", OUTSIDE)
def test_a_start_is_denied_after_a_program_has_replaced_the_file(
    client: peer.Client, root: Path, replace: Callable[[Path], None]
) -> None:
    """While another program runs that had its own mount upon the old one."""
    old = Program(client, reading(root / "secret"), rules(root))
    old.says()
    replace(root / "secret")
    client.start("new", "sh", "-c", reading(root / "secret"), cwd="file:///", sandbox=rules(root))
    said = [event["params"] for event in client.closed("new")]
    (exited,) = (params for params in said if "exitCode" in params)
    assert exited["exitCode"] == 1
    old.end()
