"""The end of a table: everything dies, everything is released."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from exec_server.engine.processes import table
from exec_server.errors import OperationFailed
from tests.support.process_harness import (
    Bench,
    asynchronous,
    children,
    is_running,
    open_fds,
    within_bounds,
)
from tests.support.waiting import eventually


@pytest.mark.parametrize("paused", [False, True])
@asynchronous
async def test_kill_all_kills_every_group(paused: bool) -> None:
    """On pipes and terminals, trapping or not, each told to the end, paused or not."""
    async with Bench() as bench:
        processes = [
            bench.shell("trap 'echo trapped' TERM HUP INT; sleep 1000 & wait", tty=tty)
            for tty in (False, True, False)
        ]
        processes.append(bench.start("true"))
        if paused:
            bench.table.pause_reading()
        bench.table.kill_all()
        for process in processes:
            assert (await bench.has_closed(process)).text() == b""


@asynchronous
async def test_nothing_is_started_after_the_end() -> None:
    """A start that comes too late must not leave a process."""
    async with Bench() as bench:
        bench.table.kill_all()
        with pytest.raises(OperationFailed, match="the session has ended"):
            bench.start("true")


@asynchronous
async def test_aclose_leaves_nothing_and_may_be_repeated() -> None:
    """No process, descriptor or entry, from two callers at once and again."""
    async with Bench() as bench:
        before = open_fds(), children()
        for index in range(20):
            bench.start("sleep 1000", tty=index % 2 == 0, pipe_stdin=True)
        bench.start("true")
        await asyncio.gather(bench.table.aclose(), bench.table.aclose())
        assert (open_fds(), children()) == before
        assert len(bench.table) == 0
        await bench.table.aclose()


@asynchronous
async def test_aclose_releases_pollers_and_writers() -> None:
    """Pollers with the state, writers with an error."""
    async with Bench(write_queue_bytes=1) as bench:
        process = bench.start("sleep 1000", pipe_stdin=True)
        polls = [asyncio.ensure_future(process.read_wait(9, None, 2**64 - 1)) for _ in range(3)]
        writes = [asyncio.ensure_future(process.write(b"x" * 100_000)) for _ in range(3)]
        await asyncio.sleep(0)
        await bench.table.aclose()
        for poll in polls:
            view = await within_bounds(poll)
            assert view.exited
        assert [type(e) for e in await asyncio.gather(*writes[1:], return_exceptions=True)] == [
            OperationFailed
        ] * 2


@asynchronous
async def test_aclose_forgets_retained_processes() -> None:
    """And their timer."""
    async with Bench() as bench:
        process = bench.start("true", process_id="id")
        await bench.has_closed(process)
        await bench.table.aclose()
        assert bench.table.get("id") is None


@asynchronous
async def test_orphans_in_the_group_of_an_exited_process_die_too() -> None:
    """The leader's number is free by then; the group is meant all the same."""
    async with Bench() as bench:
        process = bench.shell("sleep 1000 & echo $!.; exit 0")
        await bench.has_output(process, b".")
        await bench.has_exited(process)
        orphan = int(bench.told(process).text().rstrip(b".\n"))
        assert is_running(orphan)
        assert not process.closed
        bench.table.kill_all()
        assert process.closed
        if _kernel() >= (6, 9):
            assert await eventually(lambda: not is_running(orphan))
        elif is_running(orphan):
            os.kill(orphan, signal.SIGKILL)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


@asynchronous
async def test_a_process_that_cannot_be_killed_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is abandoned after a timeout, and its waiters are released."""
    async with Bench() as bench:
        before = open_fds()
        process = bench.start("sleep 1000", pipe_stdin=True)
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise PermissionError

            patch.setattr(table, "REAP_SECONDS", 0.05)
            patch.setattr(os, "killpg", refuse)
            poll = asyncio.ensure_future(process.read_wait(0, None, 2**64 - 1))
            await asyncio.sleep(0)
            await within_bounds(bench.table.aclose())
        try:
            view = await within_bounds(poll)
            assert (view.exited, view.closed) == (False, False)
            assert len(bench.table) == 0
            assert open_fds() == before
            with pytest.raises(OperationFailed):
                await process.write(b"x")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)  # noqa: ASYNC222
