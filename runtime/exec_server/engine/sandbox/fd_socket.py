"""Messages over a Unix socket between this server and a sandboxed worker: bytes and descriptors.

Messages are decoded into plain values, never into code, so a compromised worker gains no more than
the access that its sandbox gives it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server import errors
from exec_server.engine.memory_file import memory_file

if TYPE_CHECKING:
    from collections.abc import Sequence

INLINE_BYTES: Final = 32 * 1024
"""Maximum content of a packet, well below the buffer size of any socket; longer content is passed
in a memory file."""

MAX_DESCRIPTORS: Final = 2
"""Descriptors of one packet: the memory file and one open file."""

_INLINE: Final = b"i"
_IN_FILE: Final = b"f"

_ERRORS: Final = {
    error.__name__: error
    for error in (
        errors.InvalidArgument,
        errors.InvalidRequest,
        errors.NotFound,
        errors.OperationFailed,
    )
}


class Packet(msgspec.Struct, frozen=True):
    """A received message."""

    content: bytes
    descriptors: Sequence[int]
    """Open files, to be closed by the receiver."""


class Failure(msgspec.Struct, frozen=True):
    """An exception as part of a message."""

    kind: str = ""
    text: str = ""
    errno: int | None = None
    """Set for an OSError."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return the failure that represents an exception."""
        if isinstance(error, OSError) and error.errno is not None:
            return cls(errno=error.errno)
        if type(error).__name__ in _ERRORS:
            return cls(type(error).__name__, str(error))
        return cls("OperationFailed", f"{type(error).__name__}: {error}")

    def error(self) -> Exception:
        """Return the exception that this failure represents."""
        if self.errno is not None:
            return OSError(self.errno, os.strerror(self.errno))
        return _ERRORS.get(self.kind, errors.OperationFailed)(self.text)


def send_packet(channel: socket.socket, content: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message with duplicates of descriptors. Raises OSError."""
    if len(content) <= INLINE_BYTES:
        socket.send_fds(channel, [_INLINE, content], list(descriptors))
        return
    file = memory_file("packet", content)
    try:
        socket.send_fds(channel, [_IN_FILE], [file, *descriptors])
    finally:
        os.close(file)


def receive_packet(channel: socket.socket) -> Packet | None:
    """Receive the next message; None at the end of the connection. Raises OSError."""
    data, descriptors, _, _ = socket.recv_fds(channel, INLINE_BYTES + 1, MAX_DESCRIPTORS)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    if not data:
        return None
    if not data.startswith(_IN_FILE):
        return Packet(data[1:], descriptors)
    if not descriptors:
        raise OSError("received a packet without its memory file")
    with open(descriptors[0], "rb") as file:
        return Packet(file.read(), descriptors[1:])
