"""Load of a server: clients that work, and clients that behave badly."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, TypeAlias

from tests.soak.client import Client, Refused, Server, Tally, connected, start_params
from tests.soak.raw import UPGRADE, RawClient, frame

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Task: TypeAlias = "Callable[[], Awaitable[None]]"
"""A job that can be repeated."""

CONNECTIONS = 500
PROCESSES = 1000
FLOOD_REQUESTS = 2000
NEVER_READERS = 8


async def work(server: Server, tally: Tally, chance: random.Random, folder: Path) -> None:
    """Start processes and copy files; every byte of both must arrive."""
    async with connected(server.url, tally) as client:
        for turn in range(20):
            name = f"p{turn}"
            size = chance.choice((0, 1, 1000, 300_000))
            await client.start(name, "head", "-c", str(size), "/dev/zero")
            await client.closed(name)
            received = client.received.get(name, 0)
            tally.expect(received == size, f"{received} bytes of output instead of {size}")
            await _echo(client, f"cat{turn}", tally)
            await _file(client, tally, folder / f"{os.getpid()}-{chance.random()}", chance)


async def _echo(client: Client, name: str, tally: Tally) -> None:
    await client.start(name, "cat", pipeStdin=True, tty=False)
    for _ in range(5):
        chunk = base64.b64encode(b"x" * 1000).decode()
        await client.call("process/write", {"processId": name, "chunk": chunk})
    view = {"nextSeq": 1}
    total = 0
    while total < 5000:
        view = await client.call(
            "process/read", {"processId": name, "afterSeq": view["nextSeq"] - 1, "waitMs": 10_000}
        )
        total += sum(len(base64.b64decode(piece["chunk"])) for piece in view["chunks"])
    tally.expect(total == 5000, f"{total} bytes echoed instead of 5000")
    await client.call("process/terminate", {"processId": name})
    await client.closed(name)


async def _file(client: Client, tally: Tally, path: Path, chance: random.Random) -> None:
    data = chance.randbytes(chance.choice((0, 10, 100_000)))
    text = base64.b64encode(data).decode()
    await client.call("fs/writeFile", {"path": str(path), "dataBase64": text})
    copy = {"sourcePath": str(path), "destinationPath": f"{path}2", "recursive": False}
    await client.call("fs/copy", copy)
    found = await client.call("fs/readFile", {"path": f"{path}2"})
    tally.expect(found["dataBase64"] == text, "a file was not what had been written")
    for name in (path, f"{path}2"):
        await client.call("fs/remove", {"path": str(name)})


async def flood(server: Server, tally: Tally) -> None:
    """Thousands of requests without waiting for an answer."""
    async with connected(server.url, tally) as client:
        answers = [
            await client.send("process/terminate", {"processId": "nobody"})
            for _ in range(FLOOD_REQUESTS)
        ]
        for answer in answers:
            await client.settle(answer)


async def read_slowly(server: Server, tally: Tally) -> None:
    """Take a flood of output in sips; not a byte of it may be missing."""
    raw = await RawClient.open(server)
    tally.connections += 1
    size = 1_000_000
    await raw.ask("process/start", start_params("p", "head", "-c", str(size), "/dev/zero"))
    tally.processes += 1
    received = b""
    while b"process/closed" not in received[-4096:]:
        piece = await raw.read(32_768)
        if not piece:
            break
        received += piece
        await asyncio.sleep(0.01)
    total = sum(
        len(base64.b64decode(part.partition(b'"')[0])) for part in received.split(b'"chunk":"')[1:]
    )
    tally.expect(total == size, f"{total} bytes for a slow reader instead of {size}")
    tally.output_bytes += total
    await raw.aclose()


async def never_read(server: Server, tally: Tally, until: Callable[[], bool]) -> None:
    """Ask for ever more and read nothing."""
    raw = await RawClient.open(server)
    tally.connections += 1
    await raw.ask("process/start", start_params("p", "cat", "/dev/zero"))
    tally.processes += 1
    poll = frame(
        json.dumps({"id": 9, "method": "process/read", "params": {"processId": "p"}}).encode()
    )
    loop = asyncio.get_running_loop()
    while not until():
        try:
            await asyncio.wait_for(loop.sock_sendall(raw.socket, poll * 100), 1)
        except TimeoutError:
            break
    await wait(until)
    raw.drop()


async def die_mid_message(server: Server, tally: Tally, chance: random.Random) -> None:
    """Be killed in the middle of something: the socket is reset."""
    raw = await RawClient.open(server)
    tally.connections += 1
    await raw.ask("process/start", start_params("p", "sh", "-c", "setsid sleep 1000 & cat"))
    tally.processes += 1
    params = {"path": "/nowhere", "dataBase64": "A" * 50_000}
    message = frame(json.dumps({"id": 3, "method": "fs/writeFile", "params": params}).encode())
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(raw.socket, message[: chance.randrange(len(message))])
    raw.drop()


async def stay_half_open(server: Server, tally: Tally, until: Callable[[], bool]) -> None:
    """Connect and say nothing, or half of the handshake, or all of it and then nothing."""
    host, port = server.url.removeprefix("ws://").split(":")
    loop = asyncio.get_running_loop()
    sockets = []
    for half in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", UPGRADE):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, half)
        sockets.append(sock)
        tally.connections += 1
    await wait(until)
    for sock in sockets:
        sock.close()


async def many_connections(server: Server, tally: Tally) -> None:
    """Hundreds at once, each with a request."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(server.url, tally))
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(
            *(one.call("process/terminate", {"processId": "nobody"}) for one in clients)
        )


async def many_processes(server: Server, tally: Tally) -> None:
    """A thousand at once; each ends, and its end is told."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.url, tally)) for _ in range(4)]
        each = PROCESSES // len(clients)
        names = [f"many{number}" for number in range(each)]
        for client in clients:
            for name in names:
                await client.start(name, "sleep", "1000")
        tally.expect(
            server.children >= PROCESSES, f"{server.children} processes instead of {PROCESSES}"
        )
        for client in clients:
            for name in names:
                await client.call("process/terminate", {"processId": name})
            await asyncio.gather(*map(client.closed, names))


async def watch(server: Server, until: Callable[[], bool]) -> int:
    """Look at the memory all the time; returns the most that was seen, in bytes."""
    most = 0
    while not until():
        most = max(most, server.memory_bytes)
        await asyncio.sleep(0.02)
    return most


async def wait(until: Callable[[], bool]) -> None:
    """Do nothing for a while."""
    while not until():  # noqa: ASYNC110 (it depends on the time)
        await asyncio.sleep(0.1)


async def repeat(task: Task, tally: Tally, until: Callable[[], bool]) -> None:
    """Do something over and over."""
    while not until():
        try:
            await task()
        except (Refused, OSError, asyncio.CancelledError) as error:
            tally.faults.append(f"{task}: {error!r}")
            await asyncio.sleep(0.1)
