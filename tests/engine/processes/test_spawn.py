"""Starting children: directory, program, arguments, environment, what they inherit."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.errors import InvalidArgument, OperationFailed
from tests.support.process_harness import ENV, Bench, asynchronous
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

both_kinds = pytest.mark.parametrize("tty", [False, True])


def script(path: Path, text: str = "#!/bin/sh\necho $0 ran\n", mode: int = 0o755) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def start_error(bench: Bench, argv: list[str], **spec: Any) -> int | None:
    """The errno with which a start fails; afterwards this process is where it was."""
    here = os.getcwd()
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the caller looks at the errno)
        bench.start(argv, **spec)
    assert os.getcwd() == here
    return caught.value.errno


@both_kinds
@asynchronous
async def test_the_directory_is_the_childs_alone(tty: bool, tmp_path: Path) -> None:
    """It runs there, and this process stays where it was."""
    async with Bench() as bench:
        here = os.getcwd()
        process = bench.start("pwd", cwd=str(tmp_path), tty=tty)
        assert os.getcwd() == here
        assert (await bench.has_closed(process)).text().split() == [str(tmp_path).encode()]


@asynchronous
async def test_a_relative_directory_is_relative_to_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the current directory; the kernel resolves the dots."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    async with Bench() as bench:
        for cwd in ("a/b", "./a/../a/b"):
            output = await bench.run("pwd -P", cwd=cwd)
            assert output.decode().strip() == str((tmp_path / "a" / "b").resolve())


@both_kinds
@asynchronous
async def test_an_impossible_directory_is_an_error(tty: bool, tmp_path: Path) -> None:
    """Missing, empty, or a file; also where the program would be missing as well."""
    async with Bench() as bench:
        file = script(tmp_path / "file")
        for program in ("true", "/bin/true", "/does/not/exist"):
            for cwd, number in (
                (str(tmp_path / "missing"), errno.ENOENT),
                ("", errno.ENOENT),
                (str(file), errno.ENOTDIR),
                ("~", errno.ENOENT),
            ):
                assert start_error(bench, [program], cwd=cwd, tty=tty) == number


@both_kinds
@asynchronous
async def test_an_impossible_program_is_an_error(tty: bool, tmp_path: Path) -> None:
    """With the errno of the exec, on a terminal as on pipes, from the path or found in PATH."""
    script(tmp_path / "data", mode=0o644)
    script(tmp_path / "plain", "echo no interpreter\n")
    script(tmp_path / "lost", "#!/no/such/interpreter\n")
    (tmp_path / "directory").mkdir()
    async with Bench() as bench:
        for name, number in (
            ("missing", errno.ENOENT),
            ("data", errno.EACCES),
            ("directory", errno.EACCES),
            ("plain", errno.ENOEXEC),
            ("lost", errno.ENOENT),
        ):
            path = str(tmp_path / name)
            assert start_error(bench, [path], tty=tty) == number
            assert start_error(bench, [name], env={"PATH": str(tmp_path)}, tty=tty) == number
        assert start_error(bench, [f"{tmp_path}/data/x"], tty=tty) == errno.ENOTDIR
        assert start_error(bench, ["x"], env={"PATH": f"{tmp_path}/data"}, tty=tty) == errno.ENOENT
        assert start_error(bench, ["true", "x" * 3_000_000], tty=tty) == errno.E2BIG
        assert start_error(bench, ["x" * 5000], tty=tty) == errno.ENOENT
        assert start_error(bench, ["/" + "x" * 5000], tty=tty) == errno.ENAMETOOLONG


@asynchronous
async def test_the_program_is_looked_up_along_the_childs_path(tmp_path: Path) -> None:
    """Its first executable match; files that are none and missing directories are passed over."""
    script(tmp_path / "0" / "tool", mode=0o644)
    (tmp_path / "1" / "tool").mkdir(parents=True)
    script(tmp_path / "2" / "tool", "#!/no/such/interpreter\n")
    good = script(tmp_path / "3" / "tool")
    script(tmp_path / "4" / "tool", "#!/bin/sh\necho wrong\n")
    path = ":".join(str(tmp_path / name) for name in ("none", "0", "1", "2", "3", "4"))
    async with Bench() as bench:
        told = await bench.has_closed(bench.start("tool", env={"PATH": path}))
        assert told.text() == f"{good} ran\n".encode()
        good.unlink()
        told = await bench.has_closed(bench.start("tool", env={"PATH": path}))
        assert told.text() == b"wrong\n"
        assert start_error(bench, ["tool"], env={"PATH": str(tmp_path / "none")}) == errno.ENOENT


@asynchronous
async def test_relative_entries_of_path_are_seen_from_the_childs_directory(tmp_path: Path) -> None:
    """An empty one is that directory itself."""
    script(tmp_path / "tool")
    script(tmp_path / "sub" / "deeper")
    async with Bench() as bench:
        for path, program in (("", "tool"), ("/none:", "tool"), (".", "tool"), ("sub", "deeper")):
            process = bench.start(program, cwd=str(tmp_path), env={"PATH": path})
            assert (await bench.has_closed(process)).text().endswith(b"ran\n")
        process = bench.start("./tool", cwd=str(tmp_path))
        assert (await bench.has_closed(process)).text() == b"./tool ran\n"
        assert start_error(bench, ["./tool"], cwd="/") == errno.ENOENT


@both_kinds
@asynchronous
async def test_without_a_path_the_usual_places_are_searched(tty: bool) -> None:
    """As execvp does it."""
    async with Bench() as bench:
        told = await bench.has_closed(bench.start("echo found", env={}, tty=tty))
        assert told.text().strip() == b"found"


@both_kinds
@asynchronous
async def test_an_empty_program_is_refused(tty: bool) -> None:
    """In the words of the real servers."""
    async with Bench() as bench:
        kind = "PTY" if tty else "pipe"
        with pytest.raises(OperationFailed, match=f"^missing program for {kind} spawn$"):
            bench.start([""], tty=tty)


@both_kinds
@pytest.mark.parametrize(
    "spec",
    [
        {"argv": ["echo", "a\0b"]},
        {"argv": ["ec\0ho"]},
        {"argv": ["/bin/ec\0ho"]},
        {"cwd": "/\0"},
        {"arg0": "\0"},
        {"env": {"A": "\0"}},
        {"env": {"A\0": ""}},
        {"env": {"PATH": "\0"}},
        {"env": {"=A": "B"}, "argv": ["/bin/echo", "\0"]},
    ],
)
@asynchronous
async def test_nul_bytes_are_refused(tty: bool, spec: dict[str, Any]) -> None:
    """Without leaving their directory."""
    async with Bench() as bench:
        here = os.getcwd()
        arguments: dict[str, Any] = {"argv": ["echo"], "tty": tty} | spec
        with pytest.raises(OperationFailed, match=r"^nul byte found in provided data$"):
            bench.start(**arguments)
        assert os.getcwd() == here


@asynchronous
async def test_text_that_cannot_be_encoded_is_refused() -> None:
    """Half of a surrogate pair."""
    async with Bench() as bench:
        with pytest.raises(OperationFailed, match="not valid Unicode"):
            bench.start(["echo", "\ud800"])


@both_kinds
@asynchronous
async def test_arg0_is_what_the_program_sees(tty: bool) -> None:
    """``argv[0]`` is what is executed, on terminals too."""
    async with Bench() as bench:
        process = bench.start(["sh", "-c", 'echo "$0"'], arg0="other", tty=tty)
        assert (await bench.has_closed(process)).text().split() == [b"other"]
        process = bench.start(["cat", "/proc/self/cmdline"], arg0="/bin/false", tty=tty)
        told = await bench.has_closed(process)
        assert told.text().replace(b"^@", b"\0") == b"/bin/false\0/proc/self/cmdline\0"
        with pytest.raises(InvalidArgument, match="arg0 must not be empty"):
            bench.start("true", arg0="", tty=tty)


@asynchronous
async def test_arguments_and_environment_arrive_as_they_are() -> None:
    """Empty, blank, non-ASCII, with line breaks; nothing is added or inherited."""
    arguments = ["", " ", "a b", "Ä\n€", "*", "$HOME", "\udcff"]
    env = {"A": "", "B": "x=y", "Ü": "ö\n", "lower case": "1"}
    async with Bench() as bench:
        told = await bench.has_closed(bench.start(["printf", "%s\\0", *arguments]))
        assert told.text().split(b"\0")[:-1] == [os.fsencode(text) for text in arguments]
        told = await bench.has_closed(bench.start(["/usr/bin/env", "-0"], env=env))
        variables = told.text().split(b"\0")[:-1]
        assert variables == [os.fsencode(f"{name}={value}") for name, value in env.items()]


@asynchronous
async def test_odd_names_of_variables_are_passed_on_as_far_as_they_mean_anything() -> None:
    """With an equals sign the text is the same; a nameless one is left out."""
    env = {"A=B": "C", "": "x", "=D": "E", "F": "G"}
    async with Bench() as bench:
        told = await bench.has_closed(bench.start(["/usr/bin/env", "-0"], env=env))
        assert sorted(told.text().split(b"\0")[:-1]) == [b"=D=E", b"A=B=C", b"F=G"]


@both_kinds
@asynchronous
async def test_a_child_leads_its_own_session_and_group(tty: bool) -> None:
    """And is a child of this process."""
    async with Bench() as bench:
        process = bench.shell("ps -o pid=,ppid=,pgid=,sid= -p $$", tty=tty)
        told = await bench.has_closed(process)
        pids = [int(word) for word in told.text().split()]
        assert pids == [process.pid, os.getpid(), process.pid, process.pid]


@both_kinds
@asynchronous
async def test_a_child_inherits_no_signal_settings(tty: bool) -> None:
    """Nothing ignored, caught or blocked, though Python ignores SIGPIPE."""
    async with Bench() as bench:
        told = await bench.has_closed(bench.start("cat /proc/self/status", tty=tty))
        masks = dict(re.findall(r"Sig(Blk|Ign|Cgt):\s*(\w+)", told.text().decode()))
        # 32 and 33 are the C library's own, out of every program's reach.
        settings = {name: int(mask, 16) & ~(3 << 31) for name, mask in masks.items()}
        assert settings == {"Blk": 0, "Ign": 0, "Cgt": 0}


@asynchronous
async def test_a_child_has_three_descriptors() -> None:
    """/dev/null or a pipe to read from, and two different pipes to write to."""
    async with Bench() as bench:
        other = bench.start("sleep 1000", pipe_stdin=True)
        for pipe_stdin in (False, True):
            output = await bench.run("ls -l /proc/self/fd", pipe_stdin=pipe_stdin)
            targets = re.findall(rb"(\d+) -> (\S+)", output)
            assert [number for number, _ in targets] == [b"0", b"1", b"2", b"3"]
            stdin, stdout, stderr, listing = (target for _, target in targets)
            assert stdin.startswith(b"pipe:") if pipe_stdin else stdin == b"/dev/null"
            assert stdout.startswith(b"pipe:")
            assert stderr.startswith(b"pipe:")
            assert stdout != stderr
            assert listing.startswith(b"/proc/")
        other.terminate()
        await bench.has_closed(other)


@asynchronous
async def test_standard_input_is_empty_without_a_pipe() -> None:
    """A reader finds its end at once."""
    async with Bench() as bench:
        assert await bench.run("cat; echo end") == b"end\n"


SERVER_IN_ODD_CIRCUMSTANCES = """
    import asyncio, os, resource, sys
    from exec_server.engine.processes.spawn import SpawnSpec
    from exec_server.engine.processes.table import ProcessTable

    class Listener:
        def __init__(self):
            self.output = {"stdout": b"", "stderr": b""}
            self.closed = asyncio.Event()
        def on_output(self, process, chunk):
            self.output[chunk.stream] += chunk.data
        def on_exited(self, process, seq, status):
            pass
        def on_closed(self, process, seq):
            self.closed.set()

    async def main():
        for fd in (0, 1, 2):
            os.close(fd)
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        listener = Listener()
        table = ProcessTable(listener, loop=asyncio.get_running_loop())
        process = table.start("p", SpawnSpec(
            argv=["/bin/sh", "-c", "read x; echo $x; ls /proc/self/fd; ulimit -c; echo err >&2"],
            cwd="/", env={}, pipe_stdin=True), context=None)
        await process.write(b"in\\n")
        await listener.closed.wait()
        await table.aclose()
        with open(sys.argv[1], "w") as result:
            print(listener.output, file=result)

    asyncio.run(main())
"""


def test_odd_circumstances_of_this_process_do_not_reach_a_child(tmp_path: Path) -> None:
    """Closed standard streams, a descriptor that its parent left open, core dumps allowed."""
    result = tmp_path / "result"
    left_open = os.open("/dev/null", os.O_RDONLY)
    try:
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SERVER_IN_ODD_CIRCUMSTANCES), str(result)],
            check=True,
            timeout=PATIENCE,
            pass_fds=[left_open],
            env=os.environ | ENV,
        )
    finally:
        os.close(left_open)
    output = {"stdout": b"in\n0\n1\n2\n3\n0\n", "stderr": b"err\n"}
    assert result.read_text() == f"{output}\n"
