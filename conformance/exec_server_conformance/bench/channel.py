"""Low-overhead client connection: raw bytes, prepared frames, markers.

Messages are prepared before the clock starts. Received bytes are stored in a reused buffer and
searched for short byte strings: the servers send compact JSON, and base64 contains no quotation
marks, so a marker such as ``"id":`` cannot occur within a payload.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

BUFFER_BYTES = 1 << 20
"""Maximum size of one receive; larger buffers exceed the processor's cache."""

FRAGMENT_BYTES = 8 << 20
"""Fragment size of large messages; codex accepts frames of at most 16 MiB."""

INITIALIZE = b'{"id":0,"method":"initialize","params":{"clientName":"bench"}}'
INITIALIZED = b'{"method":"initialized","params":{}}'
ANSWER = b'"id":'
ERROR = b'"error":{"code"'


class BenchError(Exception):
    """The server did not behave as a measurement requires; the message is meant for the user."""


class Link(Protocol):
    """Transport-specific part of a connection: framing and I/O."""

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        ...

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        ...

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for data; return how many bytes came, 0 at the end of the stream."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class WebSocketLink:
    """WebSocket client on a blocking socket.

    The masking key is zero, which the protocol allows and which saves the driver the masking. With
    ``quick_ack`` every receive asks the kernel to acknowledge immediately, which removes the delay
    of Nagle's algorithm in servers that do not set TCP_NODELAY.
    """

    def __init__(self, host: str, port: int, *, quick_ack: bool) -> None:
        """Connect and upgrade; raise BenchError if the server refuses."""
        self._quick_ack = quick_ack
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            b"GET / HTTP/1.1\r\nHost: %b:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            % (host.encode(), port)
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self._socket.recv(1)
            if not piece:
                raise BenchError("the server closed the connection during the upgrade")
            head += piece
        if not head.startswith(b"HTTP/1.1 101 "):
            raise BenchError(f"the server did not upgrade: {head.splitlines()[0]!r}")

    def frame(self, message: bytes) -> bytes:
        """Return the message as one text frame, or as fragments when it is large."""
        pieces = [
            message[start : start + FRAGMENT_BYTES]
            for start in range(0, len(message), FRAGMENT_BYTES)
        ]
        last = len(pieces) - 1
        return b"".join(
            _frame_header((0x1 if index == 0 else 0x0) | (0x80 if index == last else 0), len(piece))
            + piece
            for index, piece in enumerate(pieces)
        )

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        self._socket.sendall(data)

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for data; return how many bytes came, 0 at the end of the stream."""
        count = self._socket.recv_into(buffer)
        if self._quick_ack:
            # The kernel resets the option at will, so it is set after each receive.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return count

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class StdioLink:
    """Client on the two pipes of a server process."""

    def __init__(self, to_server: int, from_server: int) -> None:
        """Use the file descriptors of the server's stdin and stdout, which the caller closes."""
        self._to_server = to_server
        self._from_server = from_server

    def frame(self, message: bytes) -> bytes:
        """Return the message as one line."""
        return message + b"\n"

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._to_server, view) :]

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for data; return how many bytes came, 0 at the end of the stream."""
        return os.readv(self._from_server, [buffer])

    def close(self) -> None:
        """Do nothing: the caller owns the pipes."""


class Channel:
    """Initialized connection with marker search."""

    def __init__(self, link: Link) -> None:
        """Perform the handshake over a new link."""
        self._link = link
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self.send(self.frame(INITIALIZE))
        self.wait_for(b'"sessionId"')
        self.send(self.frame(INITIALIZED))

    def frame(self, message: bytes) -> bytes:
        """Return the bytes that carry one message."""
        return self._link.frame(message)

    def send(self, data: bytes) -> None:
        """Send framed bytes."""
        try:
            self._link.send(data)
        except OSError as error:
            raise BenchError(f"the server stopped reading: {error.strerror}") from error

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def count(self, marker: bytes) -> int:
        """Receive once; return the number of new occurrences of the marker.

        The end of the previous data is searched again, since it may contain the beginning of a
        marker.
        """
        self._receive(keep=len(marker) - 1)
        return self._buffer.count(marker, 0, self._filled)

    def wait_for(self, *markers: bytes) -> None:
        """Receive until every marker has been found in data received during this call."""
        missing = set(markers)
        keep = max(len(marker) for marker in markers) - 1
        self._filled = 0
        while missing:
            self._receive(keep)
            missing = {
                marker for marker in missing if self._buffer.find(marker, 0, self._filled) < 0
            }

    def wait_for_last(self, marker: bytes, tail_bytes: int) -> int:
        """Receive until the marker is in the last bytes; return the number of bytes received.

        Only the tail is searched, for markers that end a long stream.
        """
        total = 0
        self._filled = 0
        while True:
            total += self._receive(tail_bytes)
            if self._buffer.find(marker, max(0, self._filled - tail_bytes), self._filled) >= 0:
                return total

    def wait_for_bytes(self, count: int, describe_exit_status: Sequence[bytes]) -> None:
        """Receive until at least ``count`` bytes have arrived that end with one of the endings."""
        longest = max(len(one) for one in describe_exit_status)
        total = 0
        self._filled = 0
        while True:
            total += self._receive(longest)
            if total >= count:
                if bytes(self._view[max(0, self._filled - longest) : self._filled]).endswith(
                    tuple(describe_exit_status)
                ):
                    return
            elif total < BUFFER_BYTES and self._buffer.find(ERROR, 0, self._filled) >= 0:
                self.refuse_errors()

    def drain(self, count: int) -> None:
        """Receive at least ``count`` bytes."""
        while count > 0:
            count -= self._receive(keep=0)

    def refuse_errors(self) -> None:
        """Raise BenchError if the latest data contains an error answer."""
        at = self._buffer.find(ERROR, 0, self._filled)
        if at >= 0:
            answer = bytes(self._view[at : min(self._filled, at + 200)])
            raise BenchError(f"the server answered with an error: {answer!r}")

    def _receive(self, keep: int) -> int:
        kept = min(keep, self._filled)
        self._buffer[:kept] = self._buffer[self._filled - kept : self._filled]
        try:
            count = self._link.receive_into(self._view[kept:])
        except OSError as error:
            raise BenchError(f"the connection broke: {error.strerror}") from error
        if count == 0:
            raise BenchError("the server closed the connection")
        self._filled = kept + count
        return count


def _frame_header(first_byte: int, length: int) -> bytes:
    """Return the header of a masked frame whose key is zero."""
    if length < 126:
        return struct.pack(">BB4x", first_byte, 0x80 | length)
    if length < 1 << 16:
        return struct.pack(">BBH4x", first_byte, 0x80 | 126, length)
    return struct.pack(">BBQ4x", first_byte, 0x80 | 127, length)
