"""Time limits of calls: kept within 0.5 seconds, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.client import (
    Client,
    CommandTimedOut,
    Process,
    connect_in_process,
    connect_websocket,
    sync,
)
from exec_server.client.filesystem import FileSystem
from exec_server.client.http import Http
from tests.support.targets import PATIENCE, PROGRAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LIMIT = 1.0

TOLERANCE = 0.5
"""Seconds by which a call may exceed its time limit; part of the documented promise."""


@contextlib.asynccontextmanager
async def freezable(**options: Any) -> AsyncIterator[tuple[Client, Callable[[], None]]]:
    """A client, and a function that stops its server as SIGSTOP does."""
    server = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
        [PROGRAM, "--listen", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    url = server.stdout.readline().decode().strip()
    try:
        async with connect_websocket(url, resume_timeout=0, **options) as client:
            yield client, lambda: server.send_signal(signal.SIGSTOP)
            server.send_signal(signal.SIGCONT)
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(PATIENCE)
        server.stdout.close()


CALLS: dict[str, Any] = {
    "start": lambda c, p, t: c.start(["true"], timeout=t),
    "attach": lambda c, p, t: c.attach(p.id, timeout=t),
    "processes": lambda c, p, t: c.processes(timeout=t),
    "read": lambda c, p, t: p.read(timeout=t),
    "excerpts": lambda c, p, t: p.excerpts(timeout=t),
    "write": lambda c, p, t: p.write(b"x", timeout=t),
    "close_stdin": lambda c, p, t: p.close_stdin(timeout=t),
    "signal": lambda c, p, t: p.signal(signal.SIGINT, timeout=t),
    "terminate": lambda c, p, t: p.terminate(timeout=t),
    "read_bytes": lambda c, p, t: c.fs.read_bytes("/etc/hostname", timeout=t),
    "read_text": lambda c, p, t: c.fs.read_text("/etc/hostname", timeout=t),
    "write_bytes": lambda c, p, t: c.fs.write_bytes("/nonexistent/x", b"", timeout=t),
    "write_text": lambda c, p, t: c.fs.write_text("/nonexistent/x", "", timeout=t),
    "open_read": lambda c, p, t: c.fs.open_read("/etc/hostname", timeout=t),
    "open_write": lambda c, p, t: c.fs.open_write("/nonexistent/x", timeout=t),
    "stat": lambda c, p, t: c.fs.stat("/", timeout=t),
    "exists": lambda c, p, t: c.fs.exists("/", timeout=t),
    "is_file": lambda c, p, t: c.fs.is_file("/", timeout=t),
    "is_dir": lambda c, p, t: c.fs.is_dir("/", timeout=t),
    "listdir": lambda c, p, t: c.fs.listdir("/", timeout=t),
    "walk": lambda c, p, t: anext(c.fs.walk("/", timeout=t)),
    "tree": lambda c, p, t: c.fs.tree("/nonexistent", timeout=t),
    "resolve": lambda c, p, t: c.fs.resolve("/", timeout=t),
    "mkdir": lambda c, p, t: c.fs.mkdir("/nonexistent/x", timeout=t),
    "makedirs": lambda c, p, t: c.fs.makedirs("/proc/x", timeout=t),
    "remove": lambda c, p, t: c.fs.remove("/nonexistent", timeout=t),
    "copy": lambda c, p, t: c.fs.copy("/nonexistent", "/nonexistent2", timeout=t),
    "http": lambda c, p, t: c.http.request("GET", "http://127.0.0.1:9/", timeout=t),
}
"""Every call that waits for an answer."""


@pytest.mark.parametrize("source", ["argument", "client default"])
async def test_every_call_times_out_on_a_frozen_server(source: str) -> None:
    """Each call ends in time, by its own limit or by that of the client."""
    default, limit = (LIMIT, None) if source == "client default" else (None, LIMIT)
    async with freezable(timeout=default) as (client, freeze):
        process = await client.start(["cat"], stdin=True, timeout=PATIENCE)
        freeze()

        async def duration(call: Any) -> float:
            began = time.monotonic()
            with pytest.raises(TimeoutError, match=r"(within|in) 1 s"):
                await call(client, process, limit)
            return time.monotonic() - began

        took = await asyncio.gather(*map(duration, CALLS.values()))
    late = {name: t for name, t in zip(CALLS, took, strict=True) if t > LIMIT + TOLERANCE}
    assert not late


def test_every_call_of_the_client_has_a_timeout() -> None:
    """The table above holds every public method that takes a timeout, and none is without."""
    local = {
        "aclose",
        "environment",
        "communicate",
        "run",
        "wait",
        "wait_closed",
        "stream",
        "resize",
    }
    methods = {
        name: inspect.signature(method).parameters
        for owner in (Client, Process, FileSystem, Http)
        for name, method in vars(owner).items()
        if not name.startswith("_") and callable(method)
    }
    without = {name for name, parameters in methods.items() if "timeout" not in parameters}
    assert without == {"aclose"}
    tried = {"http" if name == "request" else name for name in methods}
    assert tried - local == set(CALLS)


async def test_run_on_a_frozen_server_returns_the_output_so_far(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with freezable() as (client, freeze):

        async def freeze_when_it_runs() -> None:
            await asyncio.to_thread(fifo.read_bytes)
            # The output has been sent ahead of the signal, through the same event loop.
            assert (await client.run(["true"])).returncode == 0
            freeze()

        freezing = asyncio.create_task(freeze_when_it_runs())
        began = time.monotonic()
        with pytest.raises(CommandTimedOut, match="not confirmed that it was killed") as late:
            await client.run(
                ["sh", "-c", f"echo begun; echo >{fifo}; exec sleep 600"], timeout=3 * LIMIT
            )
        assert time.monotonic() - began < 3 * LIMIT + TOLERANCE
        await freezing
        assert late.value.stdout == b"begun\n"


async def test_run_whose_start_is_not_answered_times_out() -> None:
    async with freezable() as (client, freeze):
        freeze()
        began = time.monotonic()
        with pytest.raises(CommandTimedOut, match="not confirmed its start"):
            await client.run(["true"], timeout=LIMIT)
        assert time.monotonic() - began < LIMIT + TOLERANCE


async def test_run_whose_output_a_background_process_keeps_open() -> None:
    """The limit is kept, and the message does not claim that the command was killed."""
    async with connect_in_process() as client:
        began = time.monotonic()
        with pytest.raises(CommandTimedOut, match="exited with 0, but another process") as late:
            await client.run(["sh", "-c", "sleep 600 & echo hi"], timeout=LIMIT)
        assert time.monotonic() - began < LIMIT + TOLERANCE
        assert late.value.stdout == b"hi\n"


async def test_waiting_for_a_process_names_it() -> None:
    async with connect_in_process() as client:
        process = await client.start(["sleep", "600"], process_id="nap")
        with pytest.raises(TimeoutError, match=r"'nap' has not exited after 0\.1 seconds"):
            await process.wait(0.1)
        with pytest.raises(TimeoutError, match=r"'nap' has not closed its output after 0\.1 s"):
            await process.wait_closed(0.1)


async def test_communicate_keeps_the_output_so_far() -> None:
    async with connect_in_process() as client:
        script = "echo one; echo two >&2; read line; echo $line"
        process = await client.start(["sh", "-c", script], stdin=True)
        while not process.stdout.buffered:
            with pytest.raises(CommandTimedOut, match="continues to run") as late:
                await process.communicate(timeout=0.1)
        assert late.value.stdout == b"one\n"
        await process.write(b"three\n")
        assert await process.communicate() == (b"one\nthree\n", b"two\n")


async def test_a_streamed_body_of_a_frozen_server_times_out() -> None:
    async with freezable() as (client, freeze):
        freeze()
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="in 1 s"):
            async with client.http.stream("GET", "http://127.0.0.1:9/", timeout=LIMIT):
                pass
        assert time.monotonic() - began < LIMIT + TOLERANCE


def test_the_synchronous_client_has_the_same_limits() -> None:
    with sync.connect_stdio([PROGRAM], timeout=PATIENCE) as client:
        began = time.monotonic()
        with pytest.raises(CommandTimedOut):
            client.run(["sleep", "600"], timeout=LIMIT)
        assert time.monotonic() - began < LIMIT + TOLERANCE
        assert client.fs.is_dir("/", timeout=PATIENCE)
