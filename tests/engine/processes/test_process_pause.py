"""Back-pressure: leaving output in the pipes for a while."""

from __future__ import annotations

import hashlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.processes.process_state import ExitStatus
from tests.support.process_harness import Bench, asynchronous, is_running
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_nothing_is_lost_by_pausing(tty: bool) -> None:
    """Paused and resumed at every chunk, a large output arrives whole."""
    async with Bench() as bench:

        def pause_for_a_turn(*_: object) -> None:
            bench.table.pause_reading()
            bench.loop.call_soon(bench.table.resume_reading)

        bench.on_event = pause_for_a_turn
        count = 300_000
        mode = "stty -onlcr;" if tty else ""
        digests = []
        for process in [bench.shell(f"{mode} seq 1 {count}", tty=tty) for _ in range(2)]:
            told = await bench.has_closed(process)
            digests.append(hashlib.sha256(told.text()).hexdigest())
        expected = hashlib.sha256(b"".join(b"%d\n" % n for n in range(1, count + 1)))
        assert digests == [expected.hexdigest()] * 2


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_a_paused_child_blocks_instead_of_filling_memory(tty: bool) -> None:
    """It is stopped by its full pipe; afterwards it goes on from there."""
    async with Bench() as bench:
        bench.table.pause_reading()
        process = bench.shell("head -c 3000000 /dev/zero | tee /dev/null", tty=tty)
        assert await eventually(
            lambda: "pipe_write" in _waits(process.pid) or _all_sleep(process.pid)
        )
        await bench.turns()
        assert bench.told(process).last_seq == 0
        assert not process.exited
        bench.table.resume_reading()
        told = await bench.has_closed(process)
        assert len(told.text()) == 3_000_000


def _waits(pid: int) -> str:
    with open(f"/proc/{pid}/wchan") as wchan:
        return wchan.read()


def _all_sleep(pid: int) -> bool:
    """Return True if a shell and both ends of its pipeline are all waiting."""
    pids = [pid]
    with open(f"/proc/{pid}/task/{pid}/children") as listing:
        pids += map(int, listing.read().split())
    states = []
    for each in pids:
        with open(f"/proc/{each}/stat") as stat:
            states.append(stat.read().rpartition(")")[2].split()[0])
    return len(pids) == 3 and set(states) == {"S"}


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_an_exit_is_told_while_paused_and_closing_waits_for_the_output(tty: bool) -> None:
    """The exit then has a lower number than the output that was left."""
    async with Bench() as bench:
        bench.table.pause_reading()
        process = bench.shell("echo left; exit 6", tty=tty)
        assert await bench.has_exited(process) == ExitStatus(6, None)
        await bench.turns()
        assert not process.closed
        assert bench.told(process).text() == b""
        bench.table.resume_reading()
        told = await bench.has_closed(process)
        assert told.after_exit.split() == [b"left"]


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_terminating_while_paused(tty: bool, tmp_path: Path) -> None:
    """The exit is told at once; what was written follows on resume, then closed does.

    A descendant that holds the output does not keep it open.
    """
    async with Bench() as bench:
        bench.table.pause_reading()
        ready = tmp_path / "ready"
        process = bench.shell(
            f"trap '' HUP; setsid sleep 1000 & echo left; echo $! >{ready}; wait", tty=tty
        )
        assert await eventually(lambda: ready.exists() and ready.read_text().endswith("\n"))
        assert await eventually(lambda: os.getsid(int(ready.read_text())) != process.pid)
        holder = int(ready.read_text())
        try:
            assert process.terminate()
            assert await bench.has_exited(process) == ExitStatus(None, signal.SIGKILL)
            await bench.turns()
            assert not process.closed
            bench.table.resume_reading()
            told = await bench.has_closed(process)
            assert told.text().split() == [b"left"]
            assert is_running(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


@asynchronous
async def test_starting_and_writing_while_paused() -> None:
    """Only output is held back."""
    async with Bench() as bench:
        bench.table.pause_reading()
        process = bench.shell("read line; exit $line", pipe_stdin=True)
        assert await process.write(b"8\n") == "accepted"
        assert await bench.has_exited(process) == ExitStatus(8, None)
        bench.table.resume_reading()
        await bench.has_closed(process)


@asynchronous
async def test_pausing_twice_is_pausing_once() -> None:
    """And resuming without a pause does nothing."""
    async with Bench() as bench:
        bench.table.resume_reading()
        bench.table.pause_reading()
        bench.table.pause_reading()
        process = bench.start("echo x")
        await bench.has_exited(process)
        await bench.turns()
        bench.table.resume_reading()
        bench.table.resume_reading()
        assert (await bench.has_closed(process)).text() == b"x\n"
