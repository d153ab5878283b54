"""A client that counts, and a server to watch."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

PROGRAM = str(Path(sys.executable).with_name("codex-exec-server"))


@dataclass
class Tally:
    """Counts of requests, answers and processes, and the faults found."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    lost: int = 0
    connections: int = 0
    processes: int = 0
    output_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    """Descriptions of what should not have happened."""

    def expect(self, holds: bool, fault: str) -> None:
        """Note a fault unless something holds."""
        if not holds:
            self.faults.append(fault)


class Refused(Exception):
    """An error answer."""


class Client:
    """One connection, ready; every request that it sends is answered or counts as lost."""

    def __init__(self, websocket: Any, tally: Tally) -> None:
        self._websocket = websocket
        self._tally = tally
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._closed: dict[str, asyncio.Future[None]] = {}
        self._expected_seq: dict[str, int] = {}
        self.received: dict[str, int] = {}
        """Bytes of output, by process."""
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._websocket:
                message = json.loads(text)
                if "method" in message:
                    self._take_event(message["method"], message["params"])
                else:
                    self._waiting.pop(message["id"]).set_result(message)
        for future in self._waiting.values():
            future.cancel()

    def _take_event(self, method: str, params: dict[str, Any]) -> None:
        name = params["processId"]
        expected = self._expected_seq.get(name, 1)
        self._tally.expect(params["seq"] == expected, f"seq {params['seq']} instead of {expected}")
        self._expected_seq[name] = params["seq"] + 1
        if method == "process/output":
            size = len(base64.b64decode(params["chunk"]))
            self._tally.output_bytes += size
            self.received[name] = self.received.get(name, 0) + size
        elif method == "process/closed":
            self.closed(name).set_result(None)

    def closed(self, name: str) -> asyncio.Future[None]:
        """Done when a process has closed."""
        if name not in self._closed:
            self._closed[name] = asyncio.get_running_loop().create_future()
        return self._closed[name]

    async def send(self, method: str, params: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Send a request; what is returned will be its answer."""
        number = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._tally.sent += 1
        text = json.dumps({"id": number, "method": method, "params": params})
        with contextlib.suppress(ConnectionClosed):  # the answer is lost then
            await self._websocket.send(text)
        return future

    async def settle(self, answer: asyncio.Future[dict[str, Any]]) -> Any:
        """The result of a request. Raises Refused for an error, asyncio.CancelledError if lost."""
        try:
            message = await asyncio.wait_for(answer, PATIENCE)
        except (TimeoutError, asyncio.CancelledError):
            self._tally.lost += 1
            raise
        self._tally.answered += 1
        if "error" in message:
            self._tally.refused += 1
            raise Refused(message["error"]["message"])
        return message["result"]

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and return its result."""
        return await self.settle(await self.send(method, params))

    async def start(self, name: str, *argv: str, **options: Any) -> None:
        """Start a process."""
        await self.call("process/start", start_params(name, *argv, **options))
        self._tally.processes += 1

    async def aclose(self) -> None:
        """End the connection, in an orderly way."""
        await self._websocket.close()
        await self._reading


def start_params(name: str, *argv: str, **options: Any) -> dict[str, Any]:
    """Params of process/start (v1)."""
    env = {"PATH": "/usr/bin:/bin"}
    return {"processId": name, "argv": argv, "cwd": "/", "env": env, "tty": False, **options}


@contextlib.asynccontextmanager
async def connected(url: str, tally: Tally, **options: Any) -> AsyncIterator[Client]:
    """A client whose handshake is done."""
    options |= {"compression": None, "max_size": None, "ping_interval": None}
    async with connect(url, open_timeout=PATIENCE, **options) as websocket:
        tally.connections += 1
        client = Client(websocket, tally)
        await client.call("initialize", {"clientName": "soak"})
        await websocket.send('{"method":"initialized","params":{}}')
        try:
            yield client
        finally:
            await client.aclose()


class Server:
    """A server process, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().decode().strip()
        self.peak_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """Resident memory; the highest value seen is noted."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        size = pages * os.sysconf("SC_PAGE_SIZE")
        self.peak_bytes = max(self.peak_bytes, size)
        return size

    @property
    def descriptors(self) -> int:
        """Number of open descriptors, without the one to its watchdog."""
        processes = descendants(self.process.pid)
        return len(os.listdir(f"/proc/{self.process.pid}/fd")) - min(1, len(processes))

    @property
    def children(self) -> int:
        """Number of descendants, zombies included, without its watchdog.

        It has that from the first process on that it starts.
        """
        return max(0, len(descendants(self.process.pid)) - 1)

    async def settles(self, descriptors: int) -> bool:
        """Return True once no process and no more descriptors than given are left."""
        return await eventually(lambda: not self.children and self.descriptors <= descriptors)


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextlib.contextmanager
def running(
    *arguments: str,
    prefix: Sequence[str] = (),
    program: Sequence[str] = (PROGRAM,),
    **options: Any,
) -> Iterator[Server]:
    """A server that listens on a free loopback port, ended whatever happens."""
    command = [*prefix, *program, "--protocol", "v1", "--listen", "ws://127.0.0.1:0", *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        **{"stderr": subprocess.DEVNULL, **options},
    ) as process:
        try:
            yield Server(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
