"""Servers that mean harm: names that lead elsewhere, and texts that a terminal would obey."""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import terminals
from tests.support.checkout import ROOT
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    from pathlib import Path

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b"
LYING = ROOT / "tests/support/lying_server.py"


def entry(name: str, *, is_dir: bool = False) -> dict[str, Any]:
    return {"fileName": name, "isDirectory": is_dir, "isFile": not is_dir}


def status(*, is_dir: bool) -> dict[str, Any]:
    times = {"createdAtMs": 0, "modifiedAtMs": 0, "size": 6}
    return {"isDirectory": is_dir, "isFile": not is_dir, "isSymlink": False, **times}


def lying(**answers: Any) -> str:
    """The URL of a server that gives these answers, and a file's content for every file."""
    environment = {"shell": {"name": "sh", "path": f"/bin/sh{ESCAPE}"}, "cwd": "file:///srv"}
    environment |= {"executorVersion": f"1{ESCAPE}", "platformOs": f"linux{ESCAPE}"}
    defaults = {
        "initialize": {"*": {"sessionId": "s", "environmentInfo": environment}},
        "fs/getMetadata": {"*": status(is_dir=False)},
        "fs/open": {"*": {"handleId": "h"}},
        "fs/readBlock": {"*": {"chunk": base64.b64encode(b"OWNED\n").decode(), "eof": True}},
        "fs/close": {"*": {}},
        "error": f"no{ESCAPE}\nexec-server: all is well",
    }
    given = {name.replace("_", "/"): answer for name, answer in answers.items()}
    return f"stdio:{shlex.join([sys.executable, str(LYING), json.dumps(defaults | given)])}"


def tree(*entries: dict[str, Any], **below: list[dict[str, Any]]) -> str:
    """The URL of a server with a directory /srv/tree, and directories below it."""
    listings = {"file:///srv/tree": {"entries": list(entries)}}
    listings |= {f"file:///srv/tree/{name}": {"entries": found} for name, found in below.items()}
    directories = {uri: status(is_dir=True) for uri in listings}
    return lying(
        fs_readDirectory=listings,
        fs_getMetadata={"*": status(is_dir=False), **directories},
    )


def written(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


@pytest.mark.parametrize("is_dir", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize(
    "name", ["..", ".", "", "../up", "a/../../up", "/tmp/absolute", "sub/file", "nul\0"], ids=repr
)
def test_cp_takes_no_name_that_leads_elsewhere(name: str, is_dir: bool, tmp_path: Path) -> None:
    target = tmp_path / "x" / "local"
    target.mkdir(parents=True)
    below = {name: [entry("planted")]} if is_dir else {}
    url = tree(entry(name, is_dir=is_dir), **below)
    done = terminals.run("cp", "-r", ":/srv/tree", str(target), url=url)
    assert done.returncode == 125
    assert b"is not a file name" in done.stderr
    assert written(tmp_path) == []


def test_cp_follows_no_link_below_its_target(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    target = tmp_path / "tree"
    outside.mkdir()
    target.mkdir()
    (outside / "file").write_bytes(b"mine")
    (target / "sub").symlink_to(outside)
    (target / "link").symlink_to(outside / "file")
    for url in (tree(entry("sub", is_dir=True), sub=[entry("file")]), tree(entry("link"))):
        done = terminals.run("cp", "-r", ":/srv/tree", str(tmp_path), url=url)
        assert done.returncode == 1
        assert b"a symbolic link exists, which a copy does not follow" in done.stderr
    assert (outside / "file").read_bytes() == b"mine"


def test_cp_waits_for_no_fifo(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "file")
    done = terminals.run("cp", "-r", ":/srv/tree", str(tmp_path), url=tree(entry("file")))
    assert done.returncode == 1
    assert str(tmp_path / "tree" / "file").encode() in done.stderr


def test_cp_tells_names_that_collide(tmp_path: Path) -> None:
    """The first file of a name is kept, and the exit code tells that another was not copied."""
    url = tree(entry("same"), entry("same"), entry("other"))
    done = terminals.run("cp", "-r", ":/srv/tree", str(tmp_path / "copy"), url=url)
    assert done.returncode == 1
    assert b"another file of this copy has the same name" in done.stderr
    assert written(tmp_path) == ["copy/other", "copy/same"]


def test_cp_ends_with_an_endless_tree(tmp_path: Path) -> None:
    listing = {"*": {"entries": [entry("d" * 200, is_dir=True)]}}
    url = lying(fs_readDirectory=listing, fs_getMetadata={"*": status(is_dir=True)})
    done = terminals.run("cp", "-r", ":/srv/tree", str(tmp_path / "copy"), url=url)
    assert done.returncode == 1
    assert b"File name too long" in done.stderr


def test_a_copy_of_dots_stays_in_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    listings = {"*": {"entries": [entry("file")]}}
    directories = {"*": status(is_dir=False), "file:///srv/..": status(is_dir=True)}
    url = lying(fs_readDirectory=listings, fs_getMetadata=directories)
    terminals.run("cp", "-r", ":/srv/..", str(tmp_path / "target"), url=url)
    assert written(tmp_path) == ["target/file"]


LISTED = {"*": {"entries": [entry(f"file{ESCAPE}")]}}
DIRECTORY = {"file:///srv": status(is_dir=True), "*": status(is_dir=False)}


@pytest.mark.parametrize("arguments", [("ls", "/srv"), ("ls", "-l", "/srv"), ("info",)])
def test_a_terminal_is_shown_nothing_to_obey(arguments: tuple[str, ...]) -> None:
    url = lying(fs_readDirectory=LISTED, fs_getMetadata=DIRECTORY)
    with Terminal(*arguments, url=url) as terminal:
        terminal.expect(SHOWN.encode())
        assert terminal.end() == 0


def test_programs_are_given_names_as_they_are() -> None:
    url = lying(fs_readDirectory=LISTED, fs_getMetadata=DIRECTORY)
    assert terminals.run("ls", "/srv", url=url).stdout == f"file{ESCAPE}\n".encode()
    output = terminals.run("ls", "--json", "/srv", url=url).stdout
    assert json.loads(output)[0]["name"] == f"file{ESCAPE}"
    assert not any(character in output.decode() for character in "\x1b\u202e\x9b")


@pytest.mark.parametrize(
    "arguments",
    [("cat", "/srv/file"), ("cp", ":/srv/file", "x"), ("run", "true"), ("ls", "/srv")],
    ids=" ".join,
)
def test_an_error_is_one_line_with_nothing_to_obey(arguments: tuple[str, ...]) -> None:
    done = terminals.run(*arguments, url=lying(fs_getMetadata={}, fs_open={}))
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.count(b"\n") == 1
    assert f"no{SHOWN}\\x0aexec-server: all is well" in done.stderr.decode()


def test_a_long_error_is_cut() -> None:
    done = terminals.run("cat", "/srv/file", url=lying(fs_getMetadata={}, error="x" * 100_000))
    assert done.stderr.endswith(b"characters)\n")
    assert len(done.stderr) < 5000


def test_ps_shows_names_with_nothing_to_obey() -> None:
    """The clients that started the programs of a session chose their names and arguments."""
    with terminals.listening("draft") as url:
        detached = terminals.run(
            "run", "-d", "--name", f"p{ESCAPE}", "sleep", "60", ESCAPE, url=url
        )
        session = detached.stdout.decode().split()[0]
        assert detached.stdout.decode() == f"{session} p{SHOWN}\n"
        shown = terminals.run("ps", "--session", session, url=url).stdout.decode()
    assert f"p{SHOWN}" in shown
    assert "\x1b" not in shown
