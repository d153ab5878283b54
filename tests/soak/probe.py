"""Latency of small requests, one after the other, as another client of the server measures it.

A process of its own (``python -m tests.soak.probe URL PID``), because the one that makes the load
is busy itself. It goes on until its standard input ends, and prints what it measured as JSON. Time
in which other processes had the processors does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING, Final

from tests.soak.raw import HANDSHAKE, frame
from tests.support.checkout import ROOT
from tests.support.scheduling import run_queue_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.soak.client import Server, Tally

PAUSE_SECONDS: Final = 0.002
"""Between an answer and the next request."""


@contextlib.asynccontextmanager
async def probing(server: Server, tally: Tally) -> AsyncIterator[list[float]]:
    """Probe while it is entered; afterwards the list has the seconds that each answer took."""
    latencies: list[float] = []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, server.url, str(server.process.pid)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    tally.connections += 1
    await process.stdout.readline()  # it has begun
    try:
        yield latencies
    finally:
        output, _ = await process.communicate(b"")  # ends its standard input
        latencies += json.loads(output or b"[]")
        tally.sent += len(latencies)
        tally.answered += len(latencies)
        tally.expect(process.returncode == 0, "a probe was not answered")


def _probe(url: str, server: int) -> list[float]:
    scheme, _, address = url.partition("://")
    host, port = address.split(":")
    latencies = []
    with contextlib.ExitStack() as exits:
        sock = exits.enter_context(socket.create_connection((host, int(port)), timeout=60))
        if scheme == "wss":
            sock = exits.enter_context(ssl._create_unverified_context().wrap_socket(sock))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for message in HANDSHAKE:
            sock.sendall(message)
            sock.recv(65536)
        request = frame(
            b'{"id":2,"method":"process/terminate","params":{"processId":"nobody"}}',
        )
        sock.sendall(frame(b'{"method":"initialized","params":{}}'))
        print(flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            delayed, begin = run_queue_seconds(server), time.perf_counter()
            sock.sendall(request)
            sock.recv(65536)  # an answer comes in one piece
            taken = time.perf_counter() - begin
            latencies.append(max(0.0, taken - (run_queue_seconds(server) - delayed)))
    return latencies


if __name__ == "__main__":
    print(json.dumps(_probe(sys.argv[1], int(sys.argv[2]))))
