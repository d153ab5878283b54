"""Memory that a server no longer uses goes back to the system."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import peer

CLIENTS = 6
LEFT_BYTES = 24 * 1024 * 1024
"""What may be left above the size at rest; below it, it is not worth the while."""


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_what_clients_have_not_read_is_given_back_when_they_are_gone(tmp_path: Path) -> None:
    with peer.listening("--detached-seconds", "1") as server:
        pid = server.process.pid
        stays = server.client()
        stays.initialize()
        at_rest = resident_bytes(pid)
        clients = [server.client() for _ in range(CLIENTS)]
        for client in clients:
            client.initialize()
            client.start("p", "head", "-c", "1000000", "/dev/zero")
            client.closed("p")
        for client in clients:
            for _ in range(40):  # of which the client library takes 16
                client.request("process/read", {"processId": "p"})
        assert peer.eventually(lambda: resident_bytes(pid) > at_rest + LEFT_BYTES)
        # What is still in use lies above what is not, so that the C library cannot let go of it.
        stays.start("p", "head", "-c", "500000", "/dev/zero")
        stays.closed("p")
        for client in clients:
            client.websocket.socket.close()
        assert peer.eventually(lambda: resident_bytes(pid) < at_rest + LEFT_BYTES)
