"""``exec-server cp``, ``ls``, ``cat`` and ``info``, and what goes wrong before any of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import terminals
from tests.support.terminals import SERVER, Terminal
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

V1 = f"stdio:{SERVER} --protocol v1"
REVISIONS = pytest.mark.parametrize("url", [f"stdio:{SERVER}", V1], ids=["draft", "v1"])


@REVISIONS
@pytest.mark.parametrize("size", [0, 10, 20_000_000])
def test_cp_both_ways(size: int, url: str, tmp_path: Path) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    here.write_bytes(data)
    assert terminals.run("cp", str(here), f":{there}", url=url).stderr == b""
    assert there.read_bytes() == data
    assert terminals.run("cp", f":{there}", str(back), url=url).stderr == b""
    assert back.read_bytes() == data


def test_cp_into_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for name in ("up", "down"):
        (tmp_path / name).mkdir()
    terminals.run("cp", str(tmp_path / "file"), f":{tmp_path}/up")
    terminals.run("cp", f":{tmp_path}/up/file", str(tmp_path / "down"))
    assert (tmp_path / "down" / "file").read_bytes() == b"content"


@REVISIONS
@pytest.mark.parametrize(("here", "there"), [("", ":"), (":", "")], ids=["up", "down"])
def test_cp_of_directories(here: str, there: str, url: str, tmp_path: Path) -> None:
    """Into a new directory and into one that is there; links are named."""
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "file").write_bytes(b"1")
    (source / "deep" / "er" / "large").write_bytes(bytes(3_000_000))
    (source / "deep" / "link").symlink_to("../file")
    (source / "up").symlink_to("..")
    (tmp_path / "old").mkdir()
    for target, copy in (("new", tmp_path / "new"), ("old", tmp_path / "old" / "source")):
        done = terminals.run("cp", "-r", f"{here}{source}", f"{there}{tmp_path}/{target}", url=url)
        assert (done.returncode, done.stdout) == (0, b"")
        assert done.stderr.decode().splitlines() == [
            f"exec-server: {source}/{name} is left out: neither a regular file nor a directory"
            for name in ("up", "deep/link")
        ]
        paths = sorted(str(path.relative_to(copy)) for path in copy.rglob("*"))
        assert paths == ["deep", "deep/er", "deep/er/large", "empty", "file"]
        assert (copy / "deep" / "er" / "large").read_bytes() == bytes(3_000_000)


def test_cp_of_directories_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = terminals.run("cp", str(tmp_path / "folder"), f":{tmp_path}/copy")
    assert (done.returncode, done.stderr) == (
        1,
        f"exec-server: {tmp_path}/folder: Is a directory\n".encode(),
    )


def test_cp_of_a_large_file_shows_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10_000_000))
    with Terminal("cp", str(tmp_path / "large"), f":{tmp_path}/copy") as terminal:
        terminal.expect(b"100% 9.5 MiB")
        assert terminal.end() == 0
    assert (tmp_path / "copy").stat().st_size == 10_000_000


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("cp", "a", "b"), 125, "remote"),
        (("cp", ":/a", ":/b"), 125, "remote"),
        (("cp", ":/no/such/file", "x"), 1, "/no/such/file: No such file or directory"),
        (("cp", "/no/such/file", ":x"), 1, "/no/such/file: No such file or directory"),
        (("cp", ":/usr", "x"), 1, "/usr: Is a directory"),
        (("cat", "/no/such/file"), 1, "/no/such/file: No such file or directory"),
        (("cat", "/usr"), 1, "/usr: Is a directory"),
        (("cat", "/dev/null"), 1, "/dev/null: not a regular file"),
        (("ls", "/no/such/directory"), 1, "/no/such/directory: No such file or directory"),
        (("run",), 125, "no program"),
        (("run", "-e", "=x", "true"), 125, "NAME=VALUE"),
        (("juggle",), 125, "invalid choice"),
        (("run", "--url", "x:", "true"), 125, "expected ws://"),
        (("run", "--url", "ws://127.0.0.1:1", "true"), 125, "127.0.0.1:1"),
        (("info", "--cmd", "no-such-server"), 125, "cannot start 'no-such-server'"),
        (("info", "--cmd", "false"), 125, "exited with 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_told_in_a_line(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = terminals.run(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr


UNDECODABLE = os.fsdecode(b"x\xff")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--", "echo", UNDECODABLE), "argv[1]: it is not UTF-8"),
        (("run", "--", UNDECODABLE), "argv[0]: it is not UTF-8"),
        (("run", "-e", f"A={UNDECODABLE}", "true"), "env['A']: it is not UTF-8"),
        (("run", "-e", f"{UNDECODABLE}=A", "true"), "env: a name: it is not UTF-8"),
        (("run", "--name", UNDECODABLE, "true"), "process_id: it is not UTF-8"),
        (("ls", f"/no/{UNDECODABLE}"), "/no/x\\xff: No such file or directory"),
        (("ls", UNDECODABLE), "x\\xff: No such file or directory"),
        (("cat", f"/no/{UNDECODABLE}"), "/no/x\\xff: No such file or directory"),
        (("cp", f":/no/{UNDECODABLE}", "x"), "/no/x\\xff: No such file or directory"),
        (("cp", f"/no/{UNDECODABLE}", ":/x"), "/no/x\\xff: No such file or directory"),
        (("info", "--url", UNDECODABLE), "target: it is not UTF-8"),
        (("info", "--url", f"ws://{UNDECODABLE}:1"), "url"),
        (("info", "--url", "ws://127.0.0.1:bad"), "the port is invalid"),
        (("info", "--url", "ws://127.0.0.1:99999"), "the port is invalid"),
        (("info", "--url", "ws://[::1"), "the host is invalid"),
        (("info", "--url", "ws://[zz]:1"), "the host is invalid"),
        (("info", "--url", f"ws://{'x' * 70}.invalid"), "the host is invalid"),
        (("info", "--url", "ws://"), "hostname"),
        (("info", "--url", "unix:///" + "x" * 200), "AF_UNIX path too long"),
        (("info", "--cmd", "'"), "No closing quotation"),
        ((UNDECODABLE,), "invalid choice"),
        (("run", f"--{UNDECODABLE}", "true"), "unrecognized arguments: --x\\xff"),
    ],
    ids=ascii,
)
def test_nothing_ends_with_a_traceback(arguments: tuple[str, ...], words: str) -> None:
    done = terminals.run(*arguments)
    errors = done.stderr.decode()
    assert done.returncode in (1, 2, 125), errors
    assert words in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1 or errors.startswith("usage: ")


@pytest.mark.parametrize(
    "arguments", [("ls", "/usr/bin"), ("info",), ("--help",), ("ls", "--json", "/")], ids=" ".join
)
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:
        done = subprocess.run(
            [terminals.SCRIPT, *arguments],
            stdout=gone,
            stderr=subprocess.PIPE,
            env=terminals.environment(EXEC_SERVER_URL=f"stdio:{SERVER}", PYTHONUNBUFFERED=""),
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [terminals.SCRIPT, "ls", "/"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=terminals.environment(EXEC_SERVER_URL=f"stdio:{SERVER}", PYTHONUNBUFFERED=""),
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"exec-server: standard output: No space left on device\n"


def test_names_that_the_locale_lacks(tmp_path: Path) -> None:
    (tmp_path / "日本").write_bytes(b"")
    (tmp_path / "u").write_bytes(b"")
    done = terminals.run("ls", str(tmp_path), PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout) == (0, b"u\n\\u65e5\\u672c\n")


def test_without_a_server() -> None:
    done = terminals.run("info", url=None)
    assert done.returncode == 125
    assert b"EXEC_SERVER_URL" in done.stderr


@REVISIONS
def test_ls(url: str, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12345")
    (tmp_path / "a").mkdir()
    assert terminals.run("ls", str(tmp_path), url=url).stdout == b"a\nb\n"
    listed = json.loads(terminals.run("ls", "--json", str(tmp_path), url=url).stdout)
    assert listed == [{"name": "a", "kind": "directory"}, {"name": "b", "kind": "file"}]
    detailed = json.loads(terminals.run("ls", "-l", "--json", f"{tmp_path}/b", url=url).stdout)
    assert detailed[0]["size"] == (None if url == V1 else 5)
    assert detailed[0]["modified"] == pytest.approx((tmp_path / "b").stat().st_mtime, abs=0.01)
    lines = terminals.run("ls", "-l", str(tmp_path), url=url).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["directory", "file"]


def test_cat(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1\xff")
    (tmp_path / "two").write_bytes(bytes(3_000_000))
    done = terminals.run("cat", str(tmp_path / "one"), str(tmp_path / "two"))
    assert done.stdout == b"1\xff" + bytes(3_000_000)


def test_info() -> None:
    told = json.loads(terminals.run("info", "--json").stdout)
    assert told["revision"] == "draft"
    assert "processResize" in told["capabilities"]
    assert "revision:     draft" in terminals.run("info").stdout.decode().splitlines()
    old = json.loads(terminals.run("info", "--json", url=V1).stdout)
    assert (old["revision"], old["capabilities"]) == ("v1", [])


def test_a_listening_server_and_its_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("open sesame")
    server = subprocess.Popen(
        [
            *(SERVER, "--listen", "ws://127.0.0.1:0"),
            *("--ws-auth", "capability-token", "--ws-token-file", str(tmp_path / "token")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().decode().strip()
            done = terminals.run("run", "echo", "in", url=url, EXEC_SERVER_TOKEN="open sesame")
            assert (done.returncode, done.stdout) == (0, b"in\n")
            refused = terminals.run("run", "echo", "in", url=url)
            assert (refused.returncode, refused.stdout) == (125, b"")
        finally:
            server.terminate()
            server.wait(PATIENCE)
