"""One client that sends whatever costs a server most, and what another client feels of it.

Attacks take turns for as long as asked for, each on a connection of its own, half of them without
ever reading an answer. Between them the attacker's session is left to the server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import re
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.soak.client import Server, Tally, running, start_params
from tests.soak.probe import probing
from tests.soak.raw import RawClient, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

MAX_LATENCY_SECONDS: Final = 0.020
"""Time that 99 % of another client's requests may take."""

MAX_BYTES: Final = 512 * 1024 * 1024
"""Memory that the server may take."""

TURN_SECONDS: Final = 4.0
"""Duration of one attack."""

ATTACK_SECONDS: Final = 60.0
"""Default duration of all attacks: each has its turn."""

MEBIBYTE: Final = 1024 * 1024
TREE_FILES: Final = 20_000


class Attacker:
    """One connection of the attacker."""

    def __init__(self, raw: RawClient, folder: Path) -> None:
        self._raw = raw
        self.folder = folder

    async def send(self, method: str, params: object) -> None:
        """Send a request, whatever becomes of it."""
        await self._raw.ask(method, params)

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._raw.send(data)

    async def read_everything(self) -> None:
        """Read and forget what the server sends."""
        while await self._raw.read(MEBIBYTE):
            pass


async def read_devices(attacker: Attacker) -> None:
    """Contents without an end."""
    for _ in range(1000):
        await attacker.send("fs/readFile", {"path": "/dev/zero"})


async def fill_inputs(attacker: Attacker) -> None:
    """Input for processes that do not read."""
    chunk = base64.b64encode(bytes(4 * MEBIBYTE)).decode()
    for number in range(100):
        await attacker.send(
            "process/start", start_params(f"{number}", "sleep", "1000", pipeStdin=True)
        )
        await attacker.send("process/write", {"processId": f"{number}", "chunk": chunk})


async def write_large_files(attacker: Attacker) -> None:
    """Messages of nearly the largest size, in fragments."""
    data = base64.b64encode(bytes(46 * MEBIBYTE)).decode()
    params = {"path": str(attacker.folder / "large"), "dataBase64": data}
    message = json.dumps({"id": 1, "method": "fs/writeFile", "params": params}).encode()
    for _ in range(4):
        await attacker.send_bytes(fragments(message, 15 * MEBIBYTE))


async def widen_texts(attacker: Attacker) -> None:
    """Long texts that take four times their length, and messages that never end."""
    text = "\U0001f600" + "A" * (15 * MEBIBYTE)
    message = json.dumps({"id": 1, "method": "fs/readFile", "params": {"path": text}}).encode()
    for _ in range(4):
        await attacker.send_bytes(frame(message))
    await attacker.send_bytes(fragments(b"x" * 60 * MEBIBYTE, 15 * MEBIBYTE)[:-MEBIBYTE])


async def send_tiny_fragments(attacker: Attacker) -> None:
    """Of one message."""
    await attacker.send_bytes(b"\x01\x81" + bytes(4) + b"{")
    burst = (b"\x00\x82" + bytes(4) + b"  ") * 5000 + (b"\x00\x80" + bytes(4)) * 5000
    for _ in range(100):
        await attacker.send_bytes(burst)


async def queue_file_calls(attacker: Attacker) -> None:
    """Thousands of large answers that come due at once, when a long copy has ended."""
    await attacker.send(
        "fs/copy",
        {
            "sourcePath": str(attacker.folder / "tree"),
            "destinationPath": str(attacker.folder / f"copy{time.monotonic_ns()}"),
            "recursive": True,
        },
    )
    for _ in range(5000):
        await attacker.send("fs/readFile", {"path": str(attacker.folder / "file")})


async def queue_small_values(attacker: Attacker) -> None:
    """Requests that take more than their messages, behind a long copy."""
    await attacker.send(
        "fs/copy",
        {
            "sourcePath": str(attacker.folder / "tree"),
            "destinationPath": str(attacker.folder / f"copy{time.monotonic_ns()}"),
            "recursive": True,
        },
    )
    for number in range(400):
        await attacker.send("process/start", start_params(f"{number}", "true", *"a" * 15_000))


async def poll_together(attacker: Attacker) -> None:
    """Long polls that all wait for the same output."""
    script = "sleep 1; exec head -c 60000 /dev/zero"
    await attacker.send("process/start", start_params("p", "sh", "-c", script))
    for _ in range(1000):
        await attacker.send("process/read", {"processId": "p", "waitMs": 60_000})


async def list_large_directories(attacker: Attacker) -> None:
    """Again and again."""
    for _ in range(50):
        await attacker.send("fs/readDirectory", {"path": str(attacker.folder / "tree")})


async def flood_with_output(attacker: Attacker) -> None:
    """Of many processes, more than is retained."""
    for number in range(100):
        await attacker.send(
            "process/start", start_params(f"{number}", "head", "-c", "4000000", "/dev/zero")
        )


async def flood_with_small_output(attacker: Attacker) -> None:
    """Chunks of a single byte."""
    script = "while :; do printf x; done"
    for number in range(10):
        await attacker.send("process/start", start_params(f"{number}", "sh", "-c", script))


async def flood_with_requests(attacker: Attacker) -> None:
    """Small ones, as many as are taken."""
    burst = frame(b'{"id":1,"method":"process/terminate","params":{"processId":"nobody"}}') * 1000
    for _ in range(200):
        await attacker.send_bytes(burst)


async def request_over_http(attacker: Attacker) -> None:
    """As many as may be under way, to an address that does not answer."""
    for number in range(1100):
        await attacker.send(
            "http/request",
            {
                "method": "GET",
                "url": "http://192.0.2.1/",
                "headers": [],
                "requestId": f"{number}",
                "timeoutMs": 3000,
            },
        )


ATTACKS: Final = (
    read_devices,
    fill_inputs,
    write_large_files,
    widen_texts,
    send_tiny_fragments,
    queue_file_calls,
    queue_small_values,
    poll_together,
    list_large_directories,
    flood_with_output,
    flood_with_small_output,
    flood_with_requests,
    request_over_http,
)


class Suffered:
    """Latencies of another client under attack, and the memory that attacks cost."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._latencies: dict[str, list[float]] = {}
        self._undisturbed: list[float] = []

    def add(self, attack: str, latencies: Sequence[float], undisturbed: Sequence[float]) -> None:
        """Note the latencies of one attack, and those of a server at rest at the same time."""
        self._latencies.setdefault(attack, []).extend(latencies)
        self._undisturbed += undisturbed

    @property
    def disturbed(self) -> float:
        """Seconds within which 99 % of the other client's answers came."""
        return _slow([each for latencies in self._latencies.values() for each in latencies])

    @property
    def undisturbed(self) -> float:
        """The same for a server that is left alone: what the machine does besides."""
        return _slow(self._undisturbed)

    @property
    def by_attack(self) -> dict[str, float]:
        """The same for each attack."""
        return {name: _slow(latencies) for name, latencies in self._latencies.items()}


def _slow(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))] if values else 0.0


def fragments(message: bytes, size: int) -> bytes:
    """A message in several frames."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    frames = bytearray()
    for number, piece in enumerate(pieces):
        framed = bytearray(frame(piece))
        framed[0] = (0x01 if number == 0 else 0x00) | (0x80 if number == len(pieces) - 1 else 0)
        frames += framed
    return bytes(frames)


@contextlib.asynccontextmanager
async def _attacker(server: Server, folder: Path, *, reads: bool) -> AsyncIterator[Attacker]:
    raw = await RawClient.open(server)
    attacker = Attacker(raw, folder)
    reading = asyncio.ensure_future(attacker.read_everything()) if reads else None
    try:
        yield attacker
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        raw.drop()


async def attack(
    seconds: float, seed: int, folder: Path, tally: Tally, only: Sequence[str] = ()
) -> Suffered:
    """Attack a server with its default limits."""
    chance = random.Random(seed)
    (folder / "tree").mkdir()
    (folder / "file").write_bytes(bytes(100_000))
    for number in range(TREE_FILES):
        (folder / "tree" / f"{number:020}").touch()
    chosen = [one for one in ATTACKS if not only or one.__name__ in only]
    chance.shuffle(chosen)
    found = Suffered()
    with running("--detached-seconds", "1") as server, running() as idle:
        end = time.monotonic() + seconds
        for one in cycle(chosen):
            if time.monotonic() > end:
                break
            async with probing(idle, tally) as undisturbed, probing(server, tally) as latencies:
                for reads in (True, False):
                    async with _attacker(server, folder, reads=reads) as attacker:
                        with contextlib.suppress(TimeoutError, OSError):
                            async with asyncio.timeout(TURN_SECONDS / 2):
                                await one(attacker)
                                await asyncio.sleep(TURN_SECONDS)
            found.add(one.__name__, latencies, undisturbed)
        found.peak_bytes = peak_bytes(server)
    tally.expect(
        found.disturbed <= found.undisturbed + MAX_LATENCY_SECONDS,
        "an attacker delayed another client",
    )
    tally.expect(found.peak_bytes <= MAX_BYTES, "an attacker made the server take too much memory")
    return found


def peak_bytes(server: Server) -> int:
    """The most memory that a server has taken."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0])
