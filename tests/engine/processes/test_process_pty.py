"""Processes on a terminal (v1, process/start with tty)."""

from __future__ import annotations

import os
import pwd
import re
import signal

import pytest

from exec_server.engine.processes.process_state import ExitStatus
from exec_server.errors import InvalidArgument
from tests.support.process_harness import ENV, Bench, asynchronous, is_running


@asynchronous
async def test_all_three_streams_are_one_terminal_of_24_by_80() -> None:
    """And the controlling one of a new session."""
    async with Bench() as bench:
        process = bench.shell(
            "test -t 0 && test -t 1 && test -t 2 && stty size; tty; tty <&1; tty <&2;"
            "echo via /dev/tty >/dev/tty; ls /proc/self/fd | tr '\\n' ' '; echo err >&2",
            tty=True,
        )
        told = await bench.has_closed(process)
        lines = told.text().decode().split("\r\n")
        assert lines[0] == "24 80"
        assert len(set(lines[1:4])) == 1
        assert re.fullmatch("/dev/pts/[0-9]+", lines[1])
        # The fourth descriptor is that of the listing itself.
        assert lines[4:] == ["via /dev/tty", "0 1 2 3 err", ""]
        assert told.text("pty") == told.text()


@asynchronous
async def test_the_size_can_be_chosen() -> None:
    """Within what a terminal can have."""
    async with Bench() as bench:
        assert await bench.run("stty size", tty=True, rows=50, cols=132) == b"50 132\r\n"
        with pytest.raises(InvalidArgument, match="0 to 65535 rows and columns"):
            bench.start("true", tty=True, rows=65536)
        with pytest.raises(InvalidArgument, match="0 to 65535 rows and columns"):
            bench.start("true", tty=True, cols=-1)


@asynchronous
async def test_the_modes_are_the_kernels_own() -> None:
    """Lines are edited and echoed, newlines become CR LF."""
    async with Bench() as bench:
        modes = set((await bench.run("stty -a", tty=True)).split())
        assert modes >= {b"echo", b"icanon", b"isig", b"onlcr", b"opost", b"-iutf8"}


@asynchronous
async def test_each_process_has_a_terminal_of_its_own() -> None:
    """At the same time, different names."""
    async with Bench() as bench:
        processes = [bench.shell("tty; echo .; read x", tty=True) for _ in range(3)]
        names = set()
        for process in processes:
            await bench.has_output(process, b".")
            names.add(bench.told(process).text())
        assert len(names) == 3


@asynchronous
async def test_input_is_echoed_and_read_by_line() -> None:
    """The terminal echoes input before the output of the program."""
    async with Bench() as bench:
        process = bench.shell("read line; echo got $line", tty=True)
        assert await process.write(b"hello\n") == "accepted"
        assert (await bench.has_closed(process)).text() == b"hello\r\ngot hello\r\n"


@asynchronous
async def test_interrupt_and_end_of_input() -> None:
    """Control characters act through the terminal."""
    async with Bench() as bench:
        process = bench.shell("trap 'echo interrupted; exit 3' INT; echo .; read x", tty=True)
        await bench.has_output(process, b".")
        await process.write(b"\x03")
        told = await bench.has_closed(process)
        assert b"interrupted" in told.text()
        assert told.status == ExitStatus(3, None)

        process = bench.start("sleep 1000", tty=True)
        await process.write(b"\x03")
        assert (await bench.has_closed(process)).status == ExitStatus(None, signal.SIGINT)

        process = bench.start("cat", tty=True)
        await process.write(b"x\n\x04")
        told = await bench.has_closed(process)
        assert told.text() == b"x\r\nx\r\n"
        assert told.status == ExitStatus(0, None)


@asynchronous
async def test_the_environment_gains_a_shell_and_nothing_else() -> None:
    """The user's login shell, unless the client gave one; no TERM."""
    async with Bench() as bench:
        shell = pwd.getpwuid(os.getuid()).pw_shell
        process = bench.start("/usr/bin/env", tty=True, env={"A": "1"})
        told = await bench.has_closed(process)
        assert sorted(told.text().decode().split()) == ["A=1", f"SHELL={shell}"]
        process = bench.start("/usr/bin/env", tty=True, env={"SHELL": "/mine"})
        assert (await bench.has_closed(process)).text() == b"SHELL=/mine\r\n"
        process = bench.start("/usr/bin/env", env={"A": "1"})
        assert (await bench.has_closed(process)).text() == b"A=1\n"


@asynchronous
async def test_the_shell_of_an_unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the plain one, and is looked up again the next time."""
    async with Bench() as bench:

        def unknown(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: 4_000_000)
            patch.setattr(pwd, "getpwuid", unknown)
            first = bench.start("/usr/bin/env", tty=True, env={})
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: 4_000_000)
            entry = pwd.struct_passwd(("u", "x", 4_000_000, 1, "", "/", "/bin/zsh"))
            patch.setattr(pwd, "getpwuid", lambda _: entry)
            second = bench.start("/usr/bin/env", tty=True, env={})
        assert (await bench.has_closed(first)).text() == b"SHELL=/bin/sh\r\n"
        assert (await bench.has_closed(second)).text() == b"SHELL=/bin/zsh\r\n"


@asynchronous
async def test_background_jobs_die_with_the_terminal_or_hold_it() -> None:
    """The hang-up ends those of the session; one in another session keeps the output open."""
    async with Bench() as bench:
        process = bench.shell("sleep 1000 & exit 0", tty=True)
        await bench.has_closed(process)

        process = bench.shell("setsid sh -c 'echo $$.; exec sleep 1000' & read x; exit 0", tty=True)
        await bench.has_output(process, b".")
        holder = int(bench.told(process).text().split(b".")[0])
        try:
            await process.write(b"\n")
            await bench.has_exited(process)
            await bench.turns()
            assert is_running(holder)
            assert not process.closed
        finally:
            os.kill(holder, signal.SIGKILL)
        await bench.has_closed(process)


@asynchronous
async def test_a_process_that_closes_its_terminal_goes_on() -> None:
    """The end of the output is not the end of the process."""
    async with Bench() as bench:
        process = bench.shell("exec sh -c 'exec <&- >&- 2>&-; sleep 0.05; exit 9'", tty=True)
        told = await bench.has_closed(process)
        assert told.status == ExitStatus(9, None)


@asynchronous
async def test_a_flood_arrives_whole() -> None:
    """In chunks that are worth a message."""
    async with Bench() as bench:
        told = await bench.has_closed(
            bench.shell("stty raw; head -c 5000000 /dev/zero", tty=True, env=ENV)
        )
        assert told.text() == bytes(5_000_000)
        assert len(told.chunks) < 5_000_000 // 4096


@asynchronous
async def test_a_large_input_passes_a_terminal_in_raw_mode() -> None:
    """In pieces, as the terminal takes them."""
    async with Bench() as bench:
        process = bench.shell("stty raw -echo; echo .; head -c 500000 | cksum", tty=True)
        await bench.has_output(process, b".")
        assert await process.write(b"x" * 500_000) == "accepted"
        told = await bench.has_closed(process)
        assert told.text().split()[-1] == b"500000"
