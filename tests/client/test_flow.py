"""Slow consumers: what they cost, whom they delay, and what they miss."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from exec_server.client import Closed, Exited, Gap, Output, OutputLost

if TYPE_CHECKING:
    from exec_server.client import Process
    from tests.support.targets import Target

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}

MEGABYTE = 1 << 20


def flood(megabytes: int) -> list[str]:
    return ["sh", "-c", f"yes 0123456789abcde | head -c {megabytes * MEGABYTE}; exit 6"]


async def total(process: Process) -> tuple[int, list[Gap]]:
    """The bytes and the gaps of a process, to its end."""
    size = 0
    gaps = []
    async for event in process:
        if isinstance(event, Output):
            size += len(event.data)
        elif isinstance(event, Gap):
            gaps.append(event)
    return size, gaps


async def test_unread_output_delays_nobody(target: Target) -> None:
    """A process whose output is not read ends, and others are served meanwhile."""
    async with target.connect() as client:
        unread = await client.start(flood(8), env=PATH)
        assert (await client.run(["echo", "quick"], env=PATH)).stdout == b"quick\n"
        assert await unread.wait() == 6
        assert unread._events.queued_bytes <= MEGABYTE


@pytest.mark.revisions("v1", "v2")
async def test_late_reader_rereads(target: Target) -> None:
    """Who comes late gets what was kept here, what the server retains, and a gap between."""
    async with target.connect() as client:
        process = await client.start(flood(8), env=PATH)
        await process.wait_closed()
        events = [event async for event in process]
        gaps = [event for event in events if isinstance(event, Gap)]
        output = b"".join(event.data for event in events if isinstance(event, Output))
        assert len(gaps) == 1
        kept = MEGABYTE - 64 * 1024
        assert kept < len(output) - kept < 2 * MEGABYTE
        assert output.endswith(b"0123456789abcde\n")
        assert [event.code for event in events if isinstance(event, Exited)] == [6]
        assert isinstance(events[-1], Closed)


@pytest.mark.revisions("v1", "v2")
async def test_small_buffer_loses_nothing_retained(target: Target) -> None:
    """A consumer slower than its small buffer gets everything while the server retains it."""
    async with target.connect() as client:
        process = await client.start(["sh", "-c", "seq 1 100000"], buffer_bytes=1000)
        await process.wait_closed()
        size, gaps = await total(process)
        assert (size, gaps) == (len(b"".join(b"%d\n" % n for n in range(1, 100_001))), [])


async def test_dropping(target: Target) -> None:
    """A consumer that may miss output gets the first of it, and a gap."""
    async with target.connect() as client:
        process = await client.start(flood(8), env=PATH, buffer_bytes=100_000, overflow="drop")
        await process.wait_closed()
        size, gaps = await total(process)
        assert 1 <= size <= 100_000
        assert gaps


async def test_blocking_loses_nothing(target: Target) -> None:
    """A consumer that must miss nothing slows the process down, in bounded memory."""
    async with target.connect() as client:
        process = await client.start(flood(24), env=PATH, buffer_bytes=100_000, overflow="block")
        size = most = 0
        async for event in process:
            if isinstance(event, Output):
                size += len(event.data)
                most = max(most, process._events.queued_bytes)
                if size < 4 * MEGABYTE:
                    await asyncio.sleep(0.001)
            assert not isinstance(event, Gap)
        assert size == 24 * MEGABYTE
        # What one read of the transport brings may come on top of the bound.
        assert most < 1.5 * MEGABYTE


async def test_requests_pass_a_blocked_consumer(target: Target) -> None:
    """Requests are answered although nothing else is read from the server."""
    async with target.connect() as client:
        process = await client.start(flood(2), env=PATH, buffer_bytes=1000, overflow="block")
        other = await client.start(["sh", "-c", "echo other; exec sleep 600"], env=PATH)
        assert await other.terminate() is True
        await other.terminate()
        if target.revision != "v0":
            assert await client.fs.exists("/")
        size, gaps = await total(process)
        assert (size, gaps) == (2 * MEGABYTE, [])
        assert await other.wait() != 0


async def test_readers_at_different_speeds(target: Target) -> None:
    """Standard error arrives while standard output is not read, and is never lost."""
    async with target.connect() as client:
        script = "head -c 4000000 /dev/zero; echo trouble >&2; head -c 4000000 /dev/zero"
        process = await client.start(["sh", "-c", script], env=PATH)
        assert await process.stderr.read() == b"trouble\n"
        size = 0
        lost = 0
        while True:
            try:
                piece = await process.stdout.read(1 << 16)
            except OutputLost:
                lost += 1
                continue
            if not piece:
                break
            size += len(piece)
        assert lost >= 1  # the rest may still have been coming
        assert 0.9 * MEGABYTE < size < 8_000_000


async def test_flat_memory(target: Target) -> None:
    """Memory does not grow with the output that is consumed."""
    async with target.connect() as client:
        process = await client.start(flood(64), env=PATH)
        size = early = 0
        async for event in process:
            if isinstance(event, Output):
                size += len(event.data)
                if not early and size > 8 * MEGABYTE:
                    early = resident()
            assert not isinstance(event, Gap)
        assert size == 64 * MEGABYTE
        assert resident() - early < 16 * MEGABYTE


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
