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
    """An initialized client of v2."""
    with servers.client("ws", "v2") as client:
        client.initialize()
        yield client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A writable directory with a secret, and a replacement beside it."""
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
    """Return a sandbox that denies the secrets of a directory, and allows access to the rest."""
    denied = [root / name for name in ("secret", "vault") if name not in skip]
    return sandbox(
        READ_ALL,
        entry(plain(root), access),
        *(entry(plain(path), "deny") for path in denied),
    )


class Program:
    """A sandboxed program that repeats an action on request."""

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

    def result(self) -> str:
        """Return the output of the next attempt."""
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
def test_a_running_program_cannot_read_a_denied_file_that_the_server_writes(
    client: peer.Client, root: Path, how: str, access: str
) -> None:
    """The file is written in place, so the mount on it stays."""
    (root.parent / "way").symlink_to("root")
    program = Program(client, reading(root / "secret"), rules(root, access=access))
    assert "Permission denied" in program.result()
    FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "new secret"
    assert "Permission denied" in program.result()
    program.end()


def test_a_running_program_cannot_read_a_match_that_the_server_writes(
    client: peer.Client, root: Path
) -> None:
    restricted = sandbox(READ_ALL, entry(glob(f"{root}/**/secret"), "deny"))
    program = Program(client, reading(root / "vault/secret"), restricted)
    write(client, root / "vault/secret")
    assert "Permission denied" in program.result()
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
def test_a_denied_file_is_not_created_anew_while_a_program_runs(
    client: peer.Client, root: Path, how: str, removed_by: str
) -> None:
    script = f"{reading(root / 'secret')}; {reading(root / 'vault/secret')}"
    program = Program(client, script, rules(root))
    program.result()
    for path in (root / "secret", root / "vault"):
        if removed_by == "server":
            remove(client, path)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
        CREATIONS[how](client, root)
    assert "new secret" not in program.result()
    assert not (root / "secret").exists()
    assert not (root / "vault").exists()
    program.end()
    CREATIONS[how](client, root)


@pytest.mark.parametrize("how", FILE_WRITES)
def test_the_server_does_not_write_to_the_replacement_of_a_denied_file(
    client: peer.Client, root: Path, how: str
) -> None:
    """The mount is lost, so the new contents could be read. The new file often has the
    inode of the old one."""
    (root.parent / "way").symlink_to("root")
    program = Program(client, reading(root / "secret"), rules(root))
    program.result()
    (root / "secret").unlink()
    (root / "secret").write_text("by a program")
    with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
        FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "by a program"
    assert program.result() == "by a program"  # which no mount can prevent
    program.end()
    FILE_WRITES[how](client, root)
    assert (root / "secret").read_text() == "new secret"


def test_other_files_can_be_written_meanwhile(client: peer.Client, root: Path) -> None:
    """Also by a call to which /proc is denied, so that it cannot look up the name of a file."""
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


def test_a_missing_denied_file_is_not_created_while_a_program_runs(
    client: peer.Client, root: Path
) -> None:
    missing = root.parent / "missing"
    restricted = sandbox(READ_ALL, entry(plain(missing / "secret"), "deny"))
    program = Program(client, reading(missing / "secret"), restricted)
    assert "No such file" in program.result()
    make(client, missing)
    for create in (write, stream, make):
        with pytest.raises(AssertionError, match="is denied to a sandboxed process"):
            create(client, missing / "secret")
    write(client, missing / "other")
    assert "No such file" in program.result()
    program.end()
    write(client, missing / "secret")


@pytest.mark.parametrize("exists", [True, False])
def test_a_protected_path_is_not_removed_while_a_program_runs(
    client: peer.Client, root: Path, exists: bool
) -> None:
    """The program could then create it anew."""
    git = root / ".git"
    if not exists:
        git.rmdir()
    program = Program(client, f"mkdir -p {git}/hooks && echo made", rules(root))
    assert "made" not in program.result()
    other = rules(root.parent, access="write", skip=("secret", "vault"))
    for more in ({}, {"sandbox": other}):
        with pytest.raises(AssertionError, match="read-only for a sandboxed process"):
            remove(client, git, **more)
    write(client, git / "config")
    assert "made" not in program.result()
    program.end()
    remove(client, git)
    assert not git.exists()


def test_a_whole_workspace_can_be_removed_while_a_program_runs(
    client: peer.Client, root: Path
) -> None:
    program = Program(client, f"mkdir -p {root}/.git && echo made", rules(root))
    assert program.result() == "made\n"
    remove(client, root)
    make(client, root)
    assert "made" not in program.result()
    program.end()


def by_rename(path: Path) -> None:
    os.replace(path.parent.parent / "new", path)


def by_creation(path: Path) -> None:
    path.unlink()
    path.write_text("new secret")


def by_another_name(path: Path) -> None:
    """Create the same inode under another directory entry."""
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
    """Creation is not refused, because only a file call was sandboxed."""
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


def test_a_denied_directory_with_a_reused_inode_is_protected(
    client: peer.Client, root: Path
) -> None:
    """A directory that is created anew often has the inode of the old one."""
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
    """While another program runs that had a mount on the old file."""
    old = Program(client, reading(root / "secret"), rules(root))
    old.result()
    replace(root / "secret")
    client.start("new", "sh", "-c", reading(root / "secret"), cwd="file:///", sandbox=rules(root))
    said = [event["params"] for event in client.closed("new")]
    (exited,) = (params for params in said if "exitCode" in params)
    assert exited["exitCode"] == 1
    old.end()
