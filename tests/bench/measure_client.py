"""Cost of the client library: printed, not judged.

    python tests/bench/measure_client.py [imports] [echo] [output] [processes]

imports    importing the client beside importing asyncio and msgspec alone
echo       a keystroke to a terminal and back, beside a client that is nothing but a socket
output     a gibibyte of output, its rate, and the memory that it takes
processes  five hundred processes at once

Without arguments all of it. Everything compared is measured alternately in the same run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exec_server.client import Gap, Output, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = str(Path(sys.executable).with_name("codex-exec-server"))

MEBIBYTE = 1 << 20


def main() -> None:
    """Measure what is asked for."""
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    for name in chosen:
        MEASUREMENTS[name]()


# Imports


def measure_imports() -> None:
    """The time of a fresh interpreter that imports something."""
    cases = {
        "nothing": "pass",
        "asyncio, msgspec": "import asyncio, msgspec",
        "exec_server.client": "import exec_server.client",
        "msgspec": "import msgspec",
        "exec_server_protocol.v2": "import exec_server_protocol.v2",
    }
    times: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(15):
        for case, code in cases.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times[case].append(time.perf_counter() - started)
    best = {case: min(taken) * 1000 for case, taken in times.items()}
    for case, milliseconds in best.items():
        print(f"import {case:30} {milliseconds:7.1f} ms, best of 15")
    base = best["nothing"]
    for case, beside, aim in (
        ("exec_server.client", "asyncio, msgspec", 1.5),
        ("exec_server_protocol.v2", "msgspec", 1.3),
    ):
        whole = best[case] / best[beside]
        own = (best[case] - base) / (best[beside] - base)
        print(
            f"import {case}: {whole:.2f} x {beside} (aim {aim} x); "
            f"{own:.2f} x without the interpreter's own start"
        )


# Echo


class RawClient:
    """As little of a client as gets a byte to a terminal and back."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("ws://").split(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            % f"{host}:{port}".encode()
        )
        self.read_until(b"\r\n\r\n")

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":")).encode()
        # The masking key 0 leaves the text as it is.
        length = len(text)
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        self._socket.sendall(b"\x81" + size + b"\0\0\0\0" + text)

    def read_until(self, marker: bytes) -> bytes:
        data = b""
        while marker not in data:
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("the server ended the connection")
            data += piece
        return data

    def start(self) -> None:
        self.send({"id": 1, "method": "initialize", "params": {"clientName": "raw"}})
        self.send({"method": "initialized"})
        params = {
            "processId": "p",
            "argv": ["cat"],
            "cwd": "file:///",
            "env": {"PATH": "/usr/bin:/bin"},
            "tty": True,
        }
        self.send({"id": 2, "method": "process/start", "params": params})
        self.read_until(b'"id":2')

    def echo(self, number: int) -> float:
        chunk = base64.b64encode(b"x").decode()
        params = {"processId": "p", "chunk": chunk, "writeId": f"{number}"}
        started = time.perf_counter()
        self.send({"id": 3, "method": "process/write", "params": params})
        self.read_until(b"process/output")
        return time.perf_counter() - started

    def close(self) -> None:
        self._socket.close()


def measure_echo() -> None:
    """Half a second of keystrokes each way, ten times alternately."""
    with listening() as url:
        raw = RawClient(url)
        raw.start()
        raw_times, client_times = asyncio.run(alternate(url, raw))
        raw.close()
    report = {"raw socket": raw_times, "client": client_times}
    for name, times in report.items():
        ordered = sorted(times)
        p50, p99 = (ordered[len(ordered) * share // 100] * 1e6 for share in (50, 99))
        print(f"echo through {name:12} p50 {p50:6.0f} us, p99 {p99:6.0f} us, {len(times)} times")
    ratio = statistics.median(client_times) / statistics.median(raw_times)
    print(f"echo p50: client {ratio:.2f} x raw socket (aim 2 x)")


async def alternate(url: str, raw: RawClient) -> tuple[list[float], list[float]]:
    raw_times: list[float] = []
    client_times: list[float] = []
    number = 0
    async with connect(url) as client:
        process = await client.start(["cat"], tty=True)
        for _ in range(10):
            until = time.perf_counter() + 0.5
            while time.perf_counter() < until:
                number += 1
                raw_times.append(raw.echo(number))
            until = time.perf_counter() + 0.5
            while time.perf_counter() < until:
                started = time.perf_counter()
                await process.write(b"x")
                await anext(process)
                client_times.append(time.perf_counter() - started)
        await process.terminate()
    return raw_times, client_times


# Output


def measure_output() -> None:
    """A gibibyte over each transport."""
    with listening() as url:
        for target in (url, f"stdio:{PROGRAM}", "in-process:"):
            asyncio.run(consume(target))


async def consume(target: str) -> None:
    async with connect(target) as client:
        process = await client.start(["head", "-c", f"{1024 * MEBIBYTE}", "/dev/zero"])
        size = gaps = 0
        sizes = []
        started, used = time.perf_counter(), time.process_time()
        async for event in process:
            if isinstance(event, Output):
                if size // (64 * MEBIBYTE) != (size + len(event.data)) // (64 * MEBIBYTE):
                    sizes.append(resident())
                size += len(event.data)
            gaps += isinstance(event, Gap)
        took, used = time.perf_counter() - started, time.process_time() - used
    kind = target.split(":", maxsplit=1)[0]
    print(
        f"output over {kind:10} {size / MEBIBYTE:.0f} MiB, {gaps} gaps, "
        f"{size / MEBIBYTE / took:.0f} MiB/s, {used:.2f} s of the client's CPU, "
        f"memory {sizes[0] / MEBIBYTE:.0f} to {max(sizes) / MEBIBYTE:.0f} MiB"
    )


# Processes


def measure_processes() -> None:
    """Five hundred processes that all run at the same time."""
    with listening() as url:
        asyncio.run(gather(url, 500))


async def gather(url: str, count: int) -> None:
    async with connect(url) as client:
        before = resident()
        started = time.perf_counter()
        processes = await asyncio.gather(
            *(
                client.start(["sh", "-c", f"read line; echo {n}; exit {n % 256}"], stdin=True)
                for n in range(count)
            )
        )
        running = time.perf_counter()
        grown = resident() - before

        async def finish(number: int) -> bool:
            process = processes[number]
            await process.write(b"\n")
            text = await process.stdout.read()
            return text == b"%d\n" % number and await process.wait() == number % 256

        right = await asyncio.gather(*map(finish, range(count)))
        ended = time.perf_counter()
    print(
        f"{count} processes at once: started in {running - started:.2f} s, written to, read and "
        f"ended in {ended - running:.2f} s, {sum(right)} right, "
        f"{grown / count / 1024:.1f} KiB of memory each"
    )


# The server and the measure of memory


@contextmanager
def listening() -> Iterator[str]:
    """A server of this project on a free port."""
    server = subprocess.Popen(
        [PROGRAM, "--listen", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASUREMENTS: dict[str, Callable[[], None]] = {
    "imports": measure_imports,
    "echo": measure_echo,
    "output": measure_output,
    "processes": measure_processes,
}

if __name__ == "__main__":
    main()
