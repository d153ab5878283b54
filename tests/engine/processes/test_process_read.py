"""Reading the output of a process, and waiting for it (v1, process/read)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.processes.process_state import ExitStatus
from tests.support.process_harness import Bench, asynchronous, within_bounds

if TYPE_CHECKING:
    from exec_server.engine.processes.process import Process

FOREVER = 2**64 - 1
"""The longest waitMs a client can ask for."""


@asynchronous
async def test_a_read_shows_output_and_state() -> None:
    """Before, during and after; without chunks the next number is the process's."""
    async with Bench() as bench:
        process = bench.start("cat", pipe_stdin=True)
        view = process.read()
        assert (view.chunks, view.next_seq, view.process_next_seq) == ([], 1, 1)
        assert (view.exited, view.status, view.closed) == (False, None, False)
        await process.write(b"one")
        await bench.has_output(process, b"one")
        view = process.read()
        assert [(c.seq, c.stream, c.data) for c in view.chunks] == [(1, "stdout", b"one")]
        assert (view.next_seq, view.process_next_seq) == (2, 2)
        process.terminate()
        await bench.has_closed(process)
        view = process.read()
        assert (view.next_seq, view.process_next_seq) == (2, 4)
        assert (view.exited, view.status, view.closed) == (True, ExitStatus(None, 9), True)
        view = process.read(after_seq=1)
        assert (view.chunks, view.next_seq, view.process_next_seq) == ([], 4, 4)
        assert process.read(after_seq=2**64 - 1).next_seq == 4


@asynchronous
async def test_pages_join_to_the_whole_output() -> None:
    """Going on from the last number returned misses nothing, whatever the page."""
    async with Bench() as bench:
        process = bench.shell("for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo e$i >&2; done")
        told = await bench.has_closed(process)
        for max_bytes in (0, 1, 2, 5, 1000, None):
            pages = []
            after = 0
            while (view := process.read(after, max_bytes)).chunks:
                assert view.next_seq == view.chunks[-1].seq + 1
                assert view.process_next_seq == told.closed_seq + 1
                pages += view.chunks
                after = view.next_seq - 1
            assert pages == told.chunks


async def answers_at_once(process: Process[object], after_seq: int, wait_ms: int = FOREVER) -> bool:
    """Return True if a long poll returns without waiting."""
    poll = asyncio.ensure_future(process.read_wait(after_seq, None, wait_ms))
    await asyncio.sleep(0)
    answered = poll.done()
    poll.cancel()
    return answered


@asynchronous
async def test_what_ends_the_wait() -> None:
    """A chunk, an exit not yet seen, the closing; not an exit that has been seen."""
    async with Bench() as bench:
        first, second = bench.gate(), bench.gate()
        process = bench.shell(f"read x <{first}; (read x <{second}; echo late) & exit 3")
        assert not await answers_at_once(process, 0)
        assert await answers_at_once(process, 0, wait_ms=0)

        waiting = asyncio.ensure_future(process.read_wait(0, None, FOREVER))
        first.open()
        view = await within_bounds(waiting)
        assert (view.chunks, view.next_seq) == ([], 2)
        assert (view.status, view.closed) == (ExitStatus(3, None), False)

        assert await answers_at_once(process, 0)
        assert not await answers_at_once(process, 1)
        assert not await answers_at_once(process, 2**64 - 1)

        waiting = asyncio.ensure_future(process.read_wait(1, None, FOREVER))
        beyond = asyncio.ensure_future(process.read_wait(2**64 - 1, None, FOREVER))
        second.open()
        view = await within_bounds(waiting)
        assert [(chunk.seq, chunk.data) for chunk in view.chunks] == [(2, b"late\n")]
        view = await within_bounds(beyond)
        assert (view.chunks, view.next_seq, view.closed) == ([], 4, True)
        assert await answers_at_once(process, 2**64 - 1)


@asynchronous
async def test_output_that_was_seen_does_not_end_the_wait() -> None:
    """Only what is numbered above does."""
    async with Bench() as bench:
        process = bench.start("cat", pipe_stdin=True)
        waiting = asyncio.ensure_future(process.read_wait(2, None, FOREVER))
        for text in (b"one", b"two", b"three"):
            assert not waiting.done()
            await process.write(text)
            await bench.has_output(process, text)
        view = await within_bounds(waiting)
        assert [chunk.data for chunk in view.chunks] == [b"three"]


@asynchronous
async def test_the_wait_ends_with_its_time() -> None:
    """With nothing, and not before."""
    async with Bench() as bench:
        process = bench.start("sleep 1000")
        started = bench.loop.time()
        view = await within_bounds(process.read_wait(0, None, 30))
        assert 0.03 <= bench.loop.time() - started < 5
        assert (view.chunks, view.next_seq, view.exited) == ([], 1, False)


@asynchronous
async def test_every_poller_is_woken_at_once() -> None:
    """A hundred polls on one process, all answered by the same chunk, then by the end."""
    async with Bench() as bench:
        process = bench.start("cat", pipe_stdin=True)
        polls = [process.read_wait(0, None, FOREVER) for _ in range(100)]
        answers = asyncio.gather(*polls)
        await process.write(b"x")
        for view in await within_bounds(answers):
            assert [chunk.data for chunk in view.chunks] == [b"x"]
        answers = asyncio.gather(*(process.read_wait(1, None, FOREVER) for _ in range(100)))
        await bench.turns()
        process.terminate()
        assert all(view.exited for view in await within_bounds(answers))


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_no_wake_up_is_lost(tty: bool) -> None:
    """Polling with the longest wait sees everything of many short processes."""
    async with Bench() as bench:

        async def follow(process: Process[object]) -> None:
            after = 0
            text = b""
            while True:
                view = await process.read_wait(after, None, FOREVER)
                text += b"".join(chunk.data for chunk in view.chunks)
                after = view.next_seq - 1
                if view.closed:
                    break
            assert text.split() == [b"1", b"2", b"3"]

        for _ in range(10):
            processes = [bench.shell("echo 1; echo 2; echo 3", tty=tty) for _ in range(8)]
            await within_bounds(asyncio.gather(*map(follow, processes)))


@asynchronous
async def test_a_cancelled_poll_leaves_nothing_behind() -> None:
    """No future and no timer stays for a client that went away."""
    async with Bench() as bench:
        process = bench.start("sleep 1000")

        def futures() -> int:
            gc.collect()
            return sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())

        await bench.turns()
        before = futures()
        polls = [asyncio.ensure_future(process.read_wait(0, None, FOREVER)) for _ in range(500)]
        await asyncio.sleep(0)
        assert futures() >= before + 500
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        assert all(poll.cancelled() for poll in polls)
        del polls, poll
        await bench.turns()
        assert futures() <= before + 5
