"""Process operations of the draft revision: resize, close input, wait, graceful termination."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from typing import Any

import pytest

from exec_server.engine.processes.head_tail import Excerpt
from exec_server.engine.processes.process_state import ExitStatus
from exec_server.errors import InvalidArgument, InvalidRequest
from tests.support.process_harness import Bench, asynchronous, is_running, within_bounds
from tests.support.waiting import eventually

TRAPPED = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.02; done"


# Terminals


@asynchronous
async def test_a_terminal_is_resized_and_its_program_told() -> None:
    async with Bench() as bench:
        script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
        process = bench.shell(script, tty=True)
        await bench.has_output(process, b"ready")
        process.resize(50, 132)
        await bench.has_output(process, b"50 132\r\n")
        process.resize(65535, 1)
        await bench.has_output(process, b"65535 1\r\n")
        for rows, cols in ((65536, 80), (24, -1)):
            with pytest.raises(InvalidArgument, match="0 to 65535 rows and columns"):
                process.resize(rows, cols)


@asynchronous
async def test_a_terminal_can_be_resized_after_its_process_has_ended() -> None:
    """The client may not have noticed the exit yet."""
    async with Bench() as bench:
        process = bench.start("true", tty=True)
        await bench.has_closed(process)
        process.resize(50, 132)
        bystander = bench.shell("stty size", tty=True)
        assert (await bench.has_closed(bystander)).text() == b"24 80\r\n"


@asynchronous
async def test_a_process_without_a_terminal_has_no_size() -> None:
    async with Bench() as bench:
        with pytest.raises(InvalidRequest, match="process p has no terminal"):
            bench.start("true", "p").resize(24, 80)


# Closing the input


@asynchronous
async def test_the_input_ends_after_what_was_written() -> None:
    """Also what is still queued, and what waits for room in the queue."""
    data = bytes(range(256)) * 4096
    async with Bench(write_queue_bytes=100_000) as bench:
        gate = bench.gate()
        process = bench.shell(f"read x <{gate}; sha256sum", pipe_stdin=True)
        writes = [asyncio.ensure_future(process.write(data)) for _ in range(3)]
        await bench.turns()
        assert not writes[-1].done()
        process.close_stdin()
        assert await process.write(b"late") == "stdinClosed"
        gate.open()
        assert await within_bounds(asyncio.gather(*writes)) == ["accepted"] * 3
        expected = hashlib.sha256(data * 3).hexdigest().encode()
        assert (await bench.has_closed(process)).text().startswith(expected)


@asynchronous
async def test_closing_the_input_may_be_repeated() -> None:
    """Before and after the process has ended."""
    async with Bench() as bench:
        process = bench.start("cat", pipe_stdin=True)
        await process.write(b"x")
        process.close_stdin()
        process.close_stdin()
        assert (await bench.has_closed(process)).text() == b"x"
        process.close_stdin()
        assert await process.write(b"x") == "stdinClosed"


@asynchronous
async def test_closing_the_input_of_a_process_that_does_not_read_releases_it_with_the_process() -> (
    None
):
    async with Bench() as bench:
        process = bench.start("sleep 1000", pipe_stdin=True)
        await process.write(b"x" * 1_000_000)
        process.close_stdin()
        process.terminate()
        await bench.has_closed(process)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "no standard input to close"),
        ({"tty": True}, "a terminal, whose input is ended by writing"),
    ],
)
@asynchronous
async def test_only_a_pipe_can_be_closed(spec: dict[str, Any], message: str) -> None:
    async with Bench() as bench:
        process = bench.start("sleep 1000", **spec)
        with pytest.raises(InvalidRequest, match=message):
            process.close_stdin()


# Waiting


@asynchronous
async def test_waiting_ends_with_the_exit_or_with_the_close() -> None:
    """Which a descendant may put off that holds the output open."""
    async with Bench() as bench:
        gate = bench.gate()
        process = bench.shell(f"(read x <{gate}; echo late) & exit 7")
        exited, closed = (
            asyncio.ensure_future(process.wait(until)) for until in ("exited", "closed")
        )
        await within_bounds(exited)
        assert process.status == ExitStatus(7, None)
        await bench.turns()
        assert not closed.done()
        gate.open()
        await within_bounds(closed)
        assert bench.told(process).text() == b"late\n"
        await within_bounds(process.wait("closed", 0))


@asynchronous
async def test_waiting_ends_when_time_is_up() -> None:
    """At once for 0; other events do not wake the waiter."""
    async with Bench() as bench:
        process = bench.shell("while :; do echo x; sleep 0.01; done")
        await within_bounds(process.wait("exited", 0))
        begin = time.monotonic()
        await within_bounds(process.wait("exited", 100))
        assert time.monotonic() - begin >= 0.1
        assert not process.exited
        endless = asyncio.ensure_future(process.wait("exited", 2**64 - 1))
        await bench.turns()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless


@pytest.mark.parametrize("until", ["exited", "closed"])
@asynchronous
async def test_the_end_of_the_table_ends_every_wait(until: Any) -> None:
    async with Bench() as bench:
        process = bench.start("sleep 1000")
        waiting = asyncio.ensure_future(process.wait(until))
        await bench.turns()
        await bench.table.aclose()
        await within_bounds(waiting)


# Snapshots


@asynchronous
async def test_a_snapshot_tells_the_streams_apart() -> None:
    """Complete, with the state, while the process runs and after it."""
    async with Bench() as bench:
        process = bench.shell("echo out; echo err >&2; read x", pipe_stdin=True)
        await bench.has_output(process, b"out")
        await bench.has_output(process, b"err")
        taken = process.snapshot()
        assert taken.streams == {
            "stdout": Excerpt(b"out\n", 0, b""),
            "stderr": Excerpt(b"err\n", 0, b""),
        }
        assert (taken.next_seq, taken.status, taken.closed) == (3, None, False)
        process.close_stdin()
        await bench.has_closed(process)
        taken = process.snapshot()
        assert (taken.next_seq, taken.status, taken.closed) == (5, ExitStatus(1, None), True)


@asynchronous
async def test_a_snapshot_of_a_terminal_is_one_stream() -> None:
    async with Bench() as bench:
        process = bench.shell("echo out; echo err >&2", tty=True)
        await bench.has_closed(process)
        assert process.snapshot().streams == {"pty": Excerpt(b"out\r\nerr\r\n", 0, b"")}


@asynchronous
async def test_a_snapshot_keeps_both_ends_of_each_stream() -> None:
    """A flood on one leaves the other whole, and what process/read retains is as ever."""
    async with Bench(retained_bytes=100) as bench:
        process = bench.shell("echo warning >&2; seq 1 100000; echo end")
        await bench.has_closed(process)
        whole = "".join(f"{number}\n" for number in range(1, 100_001)).encode() + b"end\n"
        assert process.snapshot().streams == {
            "stdout": Excerpt(whole[:50], len(whole) - 100, whole[-50:]),
            "stderr": Excerpt(b"warning\n", 0, b""),
        }
        assert sum(len(chunk.data) for chunk in process.read().chunks) <= 100


# Ending gently


@asynchronous
async def test_a_process_may_end_itself_when_asked() -> None:
    async with Bench() as bench:
        process = bench.shell(TRAPPED)
        await bench.has_output(process, b"ready")
        assert process.terminate_gracefully(1000)
        told = await bench.has_closed(process)
        assert (told.status, told.text("stdout")) == (ExitStatus(3, None), b"ready\nasked\n")
        assert not process.terminate_gracefully(0)


@asynchronous
async def test_a_process_that_does_not_end_itself_is_killed_in_time() -> None:
    async with Bench() as bench:
        process = bench.shell(STUBBORN, pipe_stdin=True)
        await bench.has_output(process, b"ready")
        begin = time.monotonic()
        assert process.terminate_gracefully(0.2)
        assert await process.write(b"x") == "accepted"
        assert await bench.has_exited(process) == ExitStatus(None, signal.SIGKILL)
        assert time.monotonic() - begin >= 0.2
        await bench.has_closed(process)


@asynchronous
async def test_a_later_request_can_only_bring_the_kill_forward() -> None:
    """And a kill at once is always possible."""
    async with Bench() as bench:
        for later in (0.05, None):
            process = bench.shell(STUBBORN)
            await bench.has_output(process, b"ready")
            assert process.terminate_gracefully(1000)
            if later is None:
                assert process.terminate()
                assert not process.terminate_gracefully(1000)
            else:
                assert process.terminate_gracefully(later)
                assert process.terminate_gracefully(1000)
            told = await bench.has_closed(process)
            assert told.status == ExitStatus(None, signal.SIGKILL)


@asynchronous
async def test_the_whole_group_is_asked_and_what_is_left_of_it_killed() -> None:
    """A descendant that neither ends nor lets go of the output is killed when time is up."""
    async with Bench() as bench:
        process = bench.shell(f"({STUBBORN}) & echo $! >&2; exec sleep 1000")
        await bench.has_output(process, b"ready")
        await bench.until(lambda: bench.told(process).text("stderr").endswith(b"\n"))
        descendant = int(bench.told(process).text("stderr"))
        assert process.terminate_gracefully(0.2)
        assert await bench.has_exited(process) == ExitStatus(None, signal.SIGTERM)
        assert is_running(descendant)
        await bench.has_closed(process)
        assert await eventually(lambda: not is_running(descendant))


@asynchronous
async def test_a_stopped_process_hears_of_it_too() -> None:
    async with Bench() as bench:
        process = bench.shell(TRAPPED)
        await bench.has_output(process, b"ready")
        process.signal(signal.SIGSTOP)
        assert process.terminate_gracefully(1000)
        assert (await bench.has_closed(process)).status == ExitStatus(3, None)


# Limits of a table


@asynchronous
async def test_no_more_processes_run_than_allowed() -> None:
    """Those that have ended count no more, though they are retained."""
    async with Bench(max_running=2) as bench:
        first = bench.start("sleep 1000")
        bench.start("sleep 1000")
        with pytest.raises(InvalidRequest, match="at most 2 processes of a client at a time"):
            bench.start("true", "third")
        assert bench.table.get("third") is None
        first.terminate()
        await bench.has_closed(first)
        await bench.has_closed(bench.start("true", "third"))
        assert bench.table.get(first.id) is first


@asynchronous
async def test_only_the_kinds_of_command_that_are_allowed_run() -> None:
    async with Bench(executions=("prepared",)) as bench:
        with pytest.raises(InvalidRequest, match="prepared commands only, and this one is direct"):
            bench.start("true")
        await bench.has_closed(bench.start("true", execution="prepared"))
