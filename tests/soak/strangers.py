"""Peers of a TLS listener that never get as far as a request, and as many of them as there can be.

They say nothing, before TLS or after it, stop in the middle of their first message, send it byte by
byte, send what is no TLS, ask for renegotiations, or go on changing their keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme
from websockets.exceptions import WebSocketException

from tests.soak.client import Tally, connected, running
from tests.soak.probe import probing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.soak.client import Server

Address = tuple[str, int]

SECONDS: Final = 8.0
PENDING: Final = 256
"""The server's limit of connections whose handshake is not complete: the default."""

HELD: Final = 2 * PENDING
"""Connections that each kind of stranger keeps open: more than the server does."""

TRIES: Final = 10
"""Number of attempts of a client to connect: each can be dropped."""

MAX_STRANGER_BYTES: Final = 128 * 1024
"""Limit of the server's memory per connected stranger."""

SLACK_BYTES: Final = 24 * 1024 * 1024
"""Below this the server does not give memory back to the system."""

MAX_WAIT_SECONDS: Final = 0.1
"""Limit of the delay that they add for another client (99th percentile). The processor time of a
turn of the server's event loop is far less, but strangers need processors as well."""

MAX_LOG_BYTES: Final = 32 * 1024
"""Limit of the log: the server writes 20 lines on refused connections in 10 seconds, and how many
more there were; a busy machine takes up to a minute for this scenario."""

_ROOT: Final = Path(__file__).parents[2]
_UNVERIFIED: Final = ssl._create_unverified_context()


async def tls_strangers(tally: Tally, folder: Path) -> str:
    """All kinds at once, for some seconds: a client is served, and nothing of them is left."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "pem"))
    pem = ("--tls-cert", f"{folder}/pem", "--tls-key", f"{folder}/pem")
    log = await asyncio.to_thread((folder / "log").open, "wb")
    with log, running("--listen", "wss://127.0.0.1:0", *pem, stderr=log) as server:
        async with connected(server.url, tally, ssl=_UNVERIFIED) as client:
            await client.call("process/terminate", {"processId": "nobody"})
            descriptors, memory = server.descriptors, server.memory_bytes
            begun = os.fstat(log.fileno()).st_size
            await _all_at_once(server, tally, descriptors)
            tally.expect(await server.settles(descriptors), "something of TLS strangers was left")
            cost = server.peak_bytes - memory
            tally.expect(
                cost <= PENDING * MAX_STRANGER_BYTES + SLACK_BYTES,
                f"TLS strangers cost {cost} bytes",
            )
            logged = os.fstat(log.fileno()).st_size - begun
            tally.expect(logged <= MAX_LOG_BYTES, f"TLS strangers log {logged} bytes")
            await client.call("process/terminate", {"processId": "nobody"})
    return "TLS strangers"


async def _all_at_once(server: Server, tally: Tally, descriptors: int) -> None:
    host, _, port = server.url.removeprefix("wss://").rpartition(":")
    async with probing(server, tally) as at_rest:
        await asyncio.sleep(1)
    async with contextlib.AsyncExitStack() as exits:
        for kind in KINDS:
            # Processes of their own, so that they do not keep the client here from its turn.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __name__, kind, host, port),
                cwd=_ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
            exits.push_async_callback(process.wait)
            exits.callback(process.terminate)
            assert process.stdout is not None
            await process.stdout.readline()  # the first of them has come
        latencies = await exits.enter_async_context(probing(server, tally))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            # A probe and the client here, besides those that are pending and those being closed.
            now = server.descriptors - descriptors
            tally.expect(now <= PENDING + 4, f"TLS strangers take {now} descriptors")
            _ = server.memory_bytes
            tally.expect(await _gets_in(server, tally), "TLS strangers kept a client out")
    before, slowest = (sorted(each)[int(0.99 * len(each))] for each in (at_rest, latencies))
    tally.expect(
        slowest <= before + MAX_WAIT_SECONDS,
        f"TLS strangers made a client wait {slowest * 1000:.0f} ms instead of {before * 1000:.0f}",
    )


async def _gets_in(server: Server, tally: Tally) -> bool:
    for _ in range(TRIES):
        with contextlib.suppress(OSError, WebSocketException):
            async with connected(server.url, tally, ssl=_UNVERIFIED) as client:
                await client.call("process/terminate", {"processId": "nobody"})
            return True
    return False


def _silent(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=5)


def _silent_after_tls(address: Address) -> socket.socket:
    return _UNVERIFIED.wrap_socket(_silent(address))


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _UNVERIFIED.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _half(address: Address) -> socket.socket:
    connection = _silent(address)
    hello = _client_hello()
    connection.sendall(hello[: random.randrange(1, len(hello))])
    return connection


def _slow(address: Address) -> socket.socket:
    """Byte by byte, until it is dropped."""
    connection = _silent(address)
    connection.settimeout(0.005)
    for byte in _client_hello():
        connection.sendall(bytes((byte,)))
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1):
                break
    return connection


def _garbage(address: Address) -> socket.socket:
    connection = _silent(address)
    hello = bytearray(_client_hello())
    for _ in range(random.randrange(1, 20)):
        hello[random.randrange(len(hello))] = random.randrange(256)
    connection.sendall(random.choice((bytes(hello), random.randbytes(1000), b"GET / HTTP/1.1\r\n")))
    return connection


def _commanded(command: str, version: str) -> Callable[[Address], socket.socket | None]:
    """Have openssl agree on TLS, and then do over and over what a letter tells it to.

    R renegotiates, k changes the keys, K asks the server to do so as well.
    """

    def run(address: Address) -> None:
        print(flush=True)
        with subprocess.Popen(
            ["openssl", "s_client", "-quiet", version, "-connect", f"{address[0]}:{address[1]}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            try:
                client.communicate(f"{command}\n".encode() * 20_000)
            finally:
                client.kill()

    return run


KINDS: Final[dict[str, Callable[[Address], socket.socket | None]]] = {
    "silent": _silent,
    "silent after TLS": _silent_after_tls,
    "half": _half,
    "slow": _slow,
    "garbage": _garbage,
    "renegotiating": _commanded("R", "-tls1_2"),
    "changing keys": _commanded("k", "-tls1_3"),
    "asking for new keys": _commanded("K", "-tls1_3"),
}


def main() -> None:
    """Be strangers of a kind until SIGTERM."""
    kind, host, port = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    held: deque[socket.socket] = deque()
    while True:
        with contextlib.suppress(OSError):
            stranger = KINDS[kind]((host, int(port)))
            if stranger is not None:
                held.append(stranger)
                if len(held) == 1:
                    print(flush=True)
                    os.nice(10)  # it is the server that is to be kept busy, not the processors
        if len(held) > HELD:
            held.popleft().close()


if __name__ == "__main__":
    main()
