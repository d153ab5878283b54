"""Stand-in for a server on pipes: forwards lines to the suite and back.

A client under test that starts its server starts this program instead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

_BYTES = 1 << 16


def main(path: str) -> None:
    """Connect the standard streams to the suite's socket until either side is closed."""
    with socket.socket(socket.AF_UNIX) as suite:
        suite.connect(path)
        threading.Thread(target=_send, args=(suite,), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := suite.recv(_BYTES):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    # The other thread may be blocked on standard input, which interpreter shutdown would wait for.
    os._exit(0)


def _send(suite: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(sys.stdin.fileno(), _BYTES):
            suite.sendall(data)
        suite.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1])
