"""Non-blocking reads of a child's output.

``read`` returns up to 64 KiB of available output: enough to keep the number of messages low, but
small enough not to delay other processes (and for larger objects malloc maps new memory each time).
Pipes keep the kernel's default capacity, also 64 KiB: a larger one was not faster, and the pipe
memory of a user is limited.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from exec_server.engine.processes.output_log import StreamName

READ_BYTES: Final = 64 * 1024
"""Maximum number of bytes per read."""

_PTY_READ_BYTES: Final = 4096
"""Maximum number of bytes that the kernel returns from a terminal at once."""

_PTY_BUSY_BYTES: Final = 1024
"""A shorter read from a terminal is interactive output, which is not joined with more."""


class PipeStream:
    """The reading end of a pipe."""

    __slots__ = ("fd", "is_open", "name")

    def __init__(self, name: StreamName, fd: int) -> None:
        self.name: StreamName = name
        self.fd = fd
        self.is_open = True

    def read(self) -> bytes | None:
        """Return available output, None if there is none yet, b"" at the end of the stream."""
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close the descriptor."""
        self.is_open = False
        os.close(self.fd)


class PtyStream:
    """The output of a terminal's master. Its owner closes the descriptor, which is also used for
    input."""

    __slots__ = ("fd", "is_open", "name")

    def __init__(self, fd: int) -> None:
        self.name: StreamName = "pty"
        self.fd = fd
        self.is_open = True

    def read(self) -> bytes | None:
        """Return available output, None if there is none yet, b"" at the end of the stream.

        The kernel returns 4 KiB at a time; chunks that are available together are joined.
        """
        data = self._read_once()
        if data is None or len(data) < _PTY_BUSY_BYTES:
            return data
        pieces = [data]
        size = len(data)
        while size <= READ_BYTES - _PTY_READ_BYTES:
            more = self._read_once()
            if not more:  # the next read reports the end of the stream again
                break
            pieces.append(more)
            size += len(more)
        return b"".join(pieces)

    def _read_once(self) -> bytes | None:
        try:
            return os.read(self.fd, _PTY_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # EIO: no process has the slave open
            return b""

    def close(self) -> None:
        """Stop reading."""
        self.is_open = False
