"""Writing to a process (v1, process/write)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.errors import OperationFailed
from tests.support.process_harness import Bench, asynchronous, within_bounds
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from exec_server.engine.processes.process import Process

FAILED = r"^failed to write to process stdin$"


def begun(process: Process[object], data: bytes) -> asyncio.Future[str]:
    """A write that may have to wait."""
    return asyncio.ensure_future(process.write(data))


@asynchronous
async def test_what_is_written_is_read() -> None:
    """A pipe gives it back as it was, empty writes included."""
    async with Bench() as bench:
        process = bench.start("cat", pipe_stdin=True)
        for data in (b"\x00\xff", b"", "grüße\n".encode()):
            assert await process.write(data) == "accepted"
        await bench.has_output(process, b"e\n")
        assert bench.told(process).text() == b"\x00\xff" + "grüße\n".encode()


@asynchronous
async def test_a_process_without_input_says_so() -> None:
    """Before its end, after it, and when it was terminated."""
    async with Bench() as bench:
        process = bench.start("sleep 1000")
        assert await process.write(b"x") == "stdinClosed"
        process.terminate()
        assert await process.write(b"x") == "stdinClosed"
        await bench.has_closed(process)
        assert await process.write(b"") == "stdinClosed"


@pytest.mark.parametrize("spec", [{"tty": True}, {"pipe_stdin": True}])
@asynchronous
async def test_writes_to_a_process_that_ended_by_itself_vanish(spec: dict[str, Any]) -> None:
    """They are accepted however often."""
    async with Bench() as bench:
        process = bench.start("true", **spec)
        await bench.has_closed(process)
        for _ in range(3):
            assert await process.write(b"x" * 100_000) == "accepted"


@pytest.mark.parametrize("spec", [{"tty": True}, {"pipe_stdin": True}])
@asynchronous
async def test_writes_to_a_terminated_process_fail(spec: dict[str, Any]) -> None:
    """At once, and after it has ended."""
    async with Bench() as bench:
        process = bench.start("cat", **spec)
        process.terminate()
        with pytest.raises(OperationFailed, match=FAILED):
            await process.write(b"x")
        await bench.has_closed(process)
        with pytest.raises(OperationFailed, match=FAILED):
            await process.write(b"")


@asynchronous
async def test_writes_to_a_child_that_closed_its_input_vanish() -> None:
    """Also those that were queued before it did."""
    async with Bench(write_queue_bytes=100_000) as bench:
        process = bench.shell("echo ready; read x; exec <&-; echo closed; sleep 1000")
        assert await process.write(b"x") == "stdinClosed"
        process = bench.shell(
            "echo ready; read x; exec <&-; echo closed; sleep 1000", pipe_stdin=True
        )
        await bench.has_output(process, b"ready")
        first = begun(process, b"go\n" + b"x" * 300_000)
        second = begun(process, b"y" * 300_000)
        assert await within_bounds(first) == "accepted"
        assert await within_bounds(second) == "accepted"
        await bench.has_output(process, b"closed")
        assert await within_bounds(process.write(b"z" * 300_000)) == "accepted"
        assert not process.exited


@asynchronous
async def test_a_large_write_is_accepted_at_once_and_arrives_whole() -> None:
    """Ten megabytes in one piece."""
    async with Bench() as bench:
        process = bench.shell("head -c 10000000 | sha256sum", pipe_stdin=True)
        data = random.Random(1).randbytes(10_000_000)
        assert await process.write(data) == "accepted"
        told = await bench.has_closed(process)
        assert told.text().split()[0].decode() == hashlib.sha256(data).hexdigest()


@asynchronous
async def test_writes_keep_their_order() -> None:
    """Small and large ones, those that had to wait and those that had not."""
    async with Bench(write_queue_bytes=20_000) as bench:
        gate = bench.gate()
        pieces = [b"%06d," % number * (number % 50 * 20 + 1) for number in range(400)]
        whole = b"".join(pieces)
        process = bench.shell(f"read x <{gate}; head -c {len(whole)} | sha256sum", pipe_stdin=True)
        writes = [begun(process, piece) for piece in pieces]
        await asyncio.sleep(0)
        assert 0 < sum(write.done() for write in writes) < len(writes)
        gate.open()
        assert set(await within_bounds(asyncio.gather(*writes))) == {"accepted"}
        told = await bench.has_closed(process)
        assert told.text().split()[0].decode() == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("spec", [{"tty": True}, {"pipe_stdin": True}])
@asynchronous
async def test_a_child_that_does_not_read_holds_only_its_own_writer(spec: dict[str, Any]) -> None:
    """Others start, write, read and end; the writer is released by terminate, with an error."""
    async with Bench(write_queue_bytes=500_000) as bench:
        deaf = bench.start("sleep 1000", **spec)
        accepted = 0
        # In lines, because a terminal swallows what exceeds the longest line it can hold.
        while (write := begun(deaf, b"x\n" * 32768)) and not await _has_to_wait(write):
            accepted += 1
        assert 7 <= accepted <= 20
        behind = begun(deaf, b"y")
        other = bench.start("cat", pipe_stdin=True)
        assert await other.write(b"hello") == "accepted"
        await bench.has_output(other, b"hello")
        assert not write.done()
        assert not behind.done()
        deaf.terminate()
        for waiting in (write, behind):
            with pytest.raises(OperationFailed, match=FAILED):
                await within_bounds(waiting)
        await bench.has_closed(deaf)


async def _has_to_wait(write: asyncio.Future[str]) -> bool:
    await asyncio.sleep(0)
    return not write.done()


@asynchronous
async def test_the_default_queue_takes_what_clients_rely_on() -> None:
    """A hundred and twenty-eight writes of 64 KiB, and not without end."""
    async with Bench() as bench:
        deaf = bench.start("sleep 1000", pipe_stdin=True)
        for _ in range(128):
            assert not await _has_to_wait(begun(deaf, b"x" * 65536))
        waiting = [begun(deaf, b"x" * 65536) for _ in range(3)]
        await asyncio.sleep(0)
        assert not waiting[-1].done()
        deaf.terminate()
        results = await within_bounds(asyncio.gather(*waiting, return_exceptions=True))
        assert isinstance(results[-1], OperationFailed)


@asynchronous
async def test_a_waiting_writer_is_released_when_the_child_dies_by_itself() -> None:
    """Its bytes vanish, as all that come later."""
    async with Bench(write_queue_bytes=1) as bench:
        process = bench.start("sleep 1000", pipe_stdin=True)
        writes = [begun(process, b"x" * 100_000) for _ in range(3)]
        await asyncio.sleep(0)
        assert not writes[-1].done()
        os.kill(process.pid, 9)
        assert set(await within_bounds(asyncio.gather(*writes))) == {"accepted"}


@asynchronous
async def test_a_cancelled_write_is_not_carried_out() -> None:
    """If it still waited for room; those behind it move up."""
    async with Bench(write_queue_bytes=1) as bench:
        gate = bench.gate()
        process = bench.shell(f"read x <{gate}; exec cat", pipe_stdin=True)
        first = begun(process, b"a" * 100_000)
        second = begun(process, b"b" * 1000)
        third = begun(process, b"c" * 1000)
        await asyncio.sleep(0)
        assert [write.done() for write in (first, second, third)] == [True, False, False]
        second.cancel()
        gate.open()
        assert await within_bounds(third) == "accepted"
        await bench.has_output(process, b"c" * 1000)
        assert bench.told(process).text() == b"a" * 100_000 + b"c" * 1000


@asynchronous
async def test_a_child_that_reads_fast_does_not_hold_up_the_loop() -> None:
    """While sixty megabytes go through a pipe, turns of the loop stay short."""
    async with Bench(write_queue_bytes=1) as bench:
        process = bench.shell("head -c 60000000 >/dev/null; echo done", pipe_stdin=True)
        turns = 0

        def count() -> None:
            nonlocal turns
            turns += 1
            if not process.closed:
                bench.loop.call_soon(count)

        count()
        await process.write(b"x" * 60_000_000)
        await bench.has_closed(process)
        assert turns >= 60_000_000 // 65536


@asynchronous
async def test_descendants_can_still_be_written_to() -> None:
    """The exit of the leader does not take the input away from who holds it."""
    async with Bench() as bench:
        process = bench.shell("exec 3<&0; (read x <&3; echo got $x) & exit 0", pipe_stdin=True)
        await bench.has_exited(process)
        assert await process.write(b"word\n") == "accepted"
        told = await bench.has_closed(process)
        assert told.after_exit == b"got word\n"
        assert await eventually(lambda: process.closed)
