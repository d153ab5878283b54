"""``exec-server cp``, ``ls``, ``cat`` and ``info``, and what goes wrong before any of them."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import terminals
from tests.support.terminals import SERVER, Terminal
from tests.support.waiting import PATIENCE

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


def make_tree(top: Path) -> None:
    """A tree with everything that a copy keeps."""
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_bytes(b"1")
    (top / "private").write_bytes(b"secret")
    (top / "private").chmod(0o600)
    (top / "deep" / "er" / "large").write_bytes(bytes(3_000_000))
    (top / "deep" / "link").symlink_to("../file")
    (top / "dangling").symlink_to("nowhere")
    (top / "deep" / "hard").hardlink_to(top / "file")
    Path(os.fsdecode(os.fsencode(top) + b"/m\xe9")).write_bytes(b"2")
    Path(f"{top}/{'long' * 50}").write_bytes(b"3")
    os.utime(top / "file", ns=(10**18, 10**18 + 123456789))
    (top / "deep").chmod(0o750)
    for path in (top / "deep", top / "empty", top):
        os.utime(path, ns=(10**18, 10**18 + 5))


def description(top: Path) -> dict[str, tuple[object, ...]]:
    """Kind, mode, time and content of everything below a directory."""
    found = {}
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        found[str(path.relative_to(top))] = (
            stat.filemode(status.st_mode),
            None if path.is_symlink() else status.st_mtime_ns,
            content,
        )
    return found


SERVERS = pytest.mark.parametrize(
    "name", ["ours draft", "ours v2", "ours v1", "codex 0.139.0", "codex 0.171.0"]
)


def server_url(name: str) -> str:
    kind, _, release = name.partition(" ")
    if kind == "codex":
        return f"stdio:{shlex.join(terminals.codex(release))} --listen stdio"
    return f"stdio:{SERVER} --protocol {'auto' if release == 'draft' else release}"


@SERVERS
def test_cp_keeps_modes_times_links_and_names(name: str, tmp_path: Path) -> None:
    """A round trip through the server changes nothing, and copying again changes nothing."""
    url = server_url(name)
    source = tmp_path / "source"
    make_tree(source)
    expected = description(source)
    (tmp_path / "down").mkdir()
    for _ in range(2):
        for arguments in (("source", f":{tmp_path}/up"), (f":{tmp_path}/up", "down")):
            (tmp_path / "up").mkdir(exist_ok=True)
            paths = [str(tmp_path / p) if p[0] != ":" else p for p in arguments]
            done = terminals.run("cp", "-a", *paths, url=url)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert description(tmp_path / "up" / "source") == expected
        assert description(tmp_path / "down" / "up" / "source") == expected
    linked = tmp_path / "down" / "up" / "source"
    assert (linked / "file").samefile(linked / "deep" / "hard")
    assert not list(tmp_path.rglob(".exec-server-*"))


NO_TAR = f"stdio:env PATH=/nonexistent {SERVER}"


@pytest.mark.parametrize(("here", "there"), [("", ":"), (":", "")], ids=["up", "down"])
def test_cp_without_tar_reports_what_it_skips(here: str, there: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "file").write_bytes(b"1")
    (source / "deep" / "large").write_bytes(bytes(3_000_000))
    (source / "deep" / "link").symlink_to("../file")
    for target, copy in (("new", tmp_path / "new"), ("new", tmp_path / "new" / "source")):
        paths = (f"{here}{source}", f"{there}{tmp_path}/{target}")
        done = terminals.run("cp", "-r", *paths, url=NO_TAR)
        assert (done.returncode, done.stdout) == (1, b"")
        skipped = f"{source}/deep/link: skipped: neither a regular file nor a directory"
        assert done.stderr.decode() == f"exec-server: {skipped}\n"
        paths_there = {str(path.relative_to(copy)) for path in copy.rglob("*")}
        assert {"deep", "deep/large", "empty", "file"} <= paths_there
        assert (copy / "deep" / "large").read_bytes() == bytes(3_000_000)
    done = terminals.run("cp", "-p", f"{here}{source}/file", f"{there}{tmp_path}/f", url=NO_TAR)
    assert (done.returncode, b"modes and times are not kept" in done.stderr) == (1, True)


def test_cp_without_tar_makes_no_private_file_readable(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(0o600)
    done = terminals.run("cp", str(tmp_path / "key"), f":{tmp_path}/copy", url=NO_TAR)
    assert done.returncode == 1
    assert b"it would become readable by others" in done.stderr
    assert not (tmp_path / "copy").exists()


FORMS = [
    "file new",
    "file file2",
    "file dir",
    "file dir/",
    "file ./dir/.",
    "file new/",
    "file nodir/new",
    "file file2 dir",
    "file file2 new",
    "file file2 file3",
    "file nofile dir",
    "nofile new",
    "file/ new",
    "link new",
    "link dir",
    "-r link new",
    "-r link dir",
    "tree new",
    "tree dir",
    "-r tree new",
    "-r tree new/",
    "-r tree/ new",
    "-r tree dir",
    "-r tree/ dir",
    "-r tree/. dir",
    "-r tree/. new",
    "-r tree dir/",
    "-r tree file",
    "-r tree file dir",
    "-r tree full",
    "-a tree new",
    "-a treelink new",
    "-r treelink/ new",
    "-p file new",
]
"""Command lines that cp(1) and ``exec-server cp`` take alike."""


def make_operands(top: Path) -> None:
    top.mkdir()
    for name in ("file", "file2", "file3"):
        (top / name).write_text(name)
    for name in ("dir", "tree/sub", "full/tree"):
        (top / name).mkdir(parents=True)
    (top / "tree" / "sub" / "leaf").write_text("leaf")
    (top / "full" / "tree" / "old").write_text("old")
    (top / "link").symlink_to("file")
    (top / "treelink").symlink_to("tree")


def shape(top: Path) -> dict[str, object]:
    return {
        str(path.relative_to(top)): os.readlink(path)
        if path.is_symlink()
        else path.is_file() and path.read_text()
        for path in top.rglob("*")
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_cp_is_like_cp(form: str, direction: str, tmp_path: Path) -> None:
    """Each form leaves the same files as cp(1), and fails where it fails."""
    words = form.split()
    options = [word for word in words if word.startswith("-")]
    *sources, target = words[len(options) :]
    make_operands(tmp_path / "expected")
    model = subprocess.run(
        ["cp", *options, *sources, target],
        cwd=tmp_path / "expected",
        capture_output=True,
        check=False,
    )
    ours = tmp_path / "ours"
    make_operands(ours)
    here, there = ("", ":") if direction == "up" else (":", "")
    done = terminals.run(
        "cp",
        *options,
        *(f"{here}{ours}/{source}" for source in sources),
        f"{there}{ours}/{target}",
    )
    assert b"Traceback" not in done.stderr
    assert (done.returncode != 0) == (model.returncode != 0), (done.stderr, model.stderr)
    assert shape(ours) == shape(tmp_path / "expected")


def test_an_interrupted_cp_leaves_the_old_file(tmp_path: Path) -> None:
    """Ctrl-C during an upload or a download leaves neither part of the new file nor leftovers."""
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(4 * 1024**3)
    for here, there in (("", ":"), (":", "")):
        (target / "there").mkdir(parents=True, exist_ok=True)
        (target / "there" / "source").write_bytes(b"old")
        arguments = ("cp", f"{here}{source}", f"{there}{target}/there")
        with Terminal(*arguments) as terminal:
            terminal.expect(b"MiB/s")
            terminal.signal(signal.SIGINT)
            assert terminal.end() == 128 + signal.SIGINT
        assert [path.name for path in (target / "there").iterdir()] == ["source"]
        assert (target / "there" / "source").read_bytes() == b"old"


def test_cp_from_and_to_the_standard_streams(tmp_path: Path) -> None:
    done = terminals.run("cp", "-", f":{tmp_path}/file", input=b"content")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "file").read_bytes() == b"content"
    done = terminals.run("cp", f":{tmp_path}/file", "-")
    assert (done.returncode, done.stdout) == (0, b"content")


def test_cp_relative_to_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    url = f"stdio:env HOME={tmp_path} {SERVER}"
    terminals.run("cp", ":~/file", f"{tmp_path}/copy", url=url)
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_ls_reports_what_has_no_status(tmp_path: Path) -> None:
    """A name that the protocol cannot carry does not hide the others."""
    for name in (b"a", b"m\xe9", b"z"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    done = terminals.run("ls", "-l", str(tmp_path))
    assert done.returncode == 1
    assert [line.split()[-1] for line in done.stdout.splitlines()][::2] == [b"a", b"z"]
    assert done.stderr.count(b"\n") == 1


def test_cp_of_directories_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = terminals.run("cp", str(tmp_path / "folder"), f":{tmp_path}/copy")
    assert (done.returncode, done.stderr) == (
        1,
        f"exec-server: {tmp_path}/folder: Is a directory; use -r\n".encode(),
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
        (("run",), 125, "exec-server run: a program to run is expected"),
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
