"""Reading what a child writes, without ever waiting for it.

``read`` returns what is there, at most 64 KiB: large enough that a flood costs few messages, small
enough that one process's turn does not delay the others' (a larger bytes object would also make
the C library map fresh memory each time). Pipes keep the kernel's default capacity, 64 KiB too:
a larger one delivered no more, and a user's sum of pipe memory is limited.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from exec_server.engine.processes.output_log import StreamName

READ_BYTES: Final = 64 * 1024
"""What one turn reads at most."""

_PTY_READ_BYTES: Final = 4096
"""The kernel hands out no more of a terminal's output at once."""

_PTY_BUSY_BYTES: Final = 1024
"""A read from a terminal that brings less finds a person's or a prompt's output, not a flood."""


class PipeStream:
    """The reading end of a pipe."""

    __slots__ = ("fd", "is_open", "name")

    def __init__(self, name: StreamName, fd: int) -> None:
        self.name: StreamName = name
        self.fd = fd
        self.is_open = True

    def read(self) -> bytes | None:
        """What is there; None if nothing is at the moment, b"" after the last writer has gone."""
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Release the descriptor."""
        self.is_open = False
        os.close(self.fd)


class PtyStream:
    """The output side of a terminal's master, whose descriptor its owner keeps for the input."""

    __slots__ = ("fd", "is_open", "name")

    def __init__(self, fd: int) -> None:
        self.name: StreamName = "pty"
        self.fd = fd
        self.is_open = True

    def read(self) -> bytes | None:
        """What is there; None if nothing is at the moment, b"" after the last writer has gone.

        The kernel gives 4 KiB at a time; what follows at once is joined to it.
        """
        data = self._read_once()
        if data is None or len(data) < _PTY_BUSY_BYTES:
            return data
        pieces = [data]
        size = len(data)
        while size <= READ_BYTES - _PTY_READ_BYTES:
            more = self._read_once()
            if not more:  # the end, if this is it, shows again at the next read
                break
            pieces.append(more)
            size += len(more)
        return b"".join(pieces)

    def _read_once(self) -> bytes | None:
        try:
            return os.read(self.fd, _PTY_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # EIO: nobody has the slave open
            return b""

    def close(self) -> None:
        """Stop reading."""
        self.is_open = False
