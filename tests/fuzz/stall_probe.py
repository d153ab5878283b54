"""Longest time without an answer, as a second client of the server measures it.

A process of its own (``python -m tests.fuzz.stall_probe URL PID``). It sends small requests one
after the other, and for each line on its standard input prints the longest stall since the last,
in seconds. The time in which the machine ran neither this process nor the server's event loop,
because others had the processors, is not the server's fault and is taken off.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

from tests.soak.raw import HANDSHAKE, frame

_REQUEST = frame(b'{"id":2,"method":"process/terminate","params":{"processId":"nobody"}}')


def _waited_for_processor(pid: str) -> float:
    """Seconds that the main thread of a process could have run and did not."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def _lost(server: str) -> float:
    own = str(Path("/proc/self").readlink())
    return _waited_for_processor(server) + _waited_for_processor(own)


def _probe(url: str, server: str) -> None:
    host, port = url.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for message in HANDSHAKE:
            sock.sendall(message)
            sock.recv(65536)
        sock.sendall(frame(b'{"method":"initialized","params":{}}'))
        longest = 0.0
        print("ready", flush=True)
        while True:
            if select.select([sys.stdin], [], [], 0.001)[0]:
                if not sys.stdin.readline():
                    return
                print(longest, flush=True)
                longest = 0.0
            lost, begin = _lost(server), time.perf_counter()
            sock.sendall(_REQUEST)
            sock.recv(65536)
            taken = time.perf_counter() - begin
            if taken > longest:
                longest = max(longest, taken - (_lost(server) - lost))


if __name__ == "__main__":
    _probe(*sys.argv[1:])
