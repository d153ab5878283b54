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

from tests.soak.raw import HANDSHAKE, frame
from tests.support.scheduling import run_queue_seconds

_REQUEST = frame(b'{"id":2,"method":"process/terminate","params":{"processId":"nobody"}}')


def _probe(url: str, server: int) -> None:
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
            lost, begin = run_queue_seconds(server), time.perf_counter()
            sock.sendall(_REQUEST)
            sock.recv(65536)
            taken = time.perf_counter() - begin
            if taken > longest:
                longest = max(longest, taken - (run_queue_seconds(server) - lost))


if __name__ == "__main__":
    _probe(sys.argv[1], int(sys.argv[2]))
