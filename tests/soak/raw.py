"""A client that speaks just enough WebSocket to behave badly."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.soak.client import Server

UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(payload: bytes) -> bytes:
    """A text frame, masked with zeros."""
    length = len(payload)
    if length < 126:
        header = struct.pack("!BB", 0x81, 0x80 | length)
    elif length < 65536:
        header = struct.pack("!BBH", 0x81, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
    return header + bytes(4) + payload


HANDSHAKE: Final = (
    UPGRADE,
    frame(b'{"id":1,"method":"initialize","params":{"clientName":"raw"}}'),
)
"""Each is answered."""


class RawClient:
    """A client socket that is used badly on purpose."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, server: Server) -> RawClient:
        """Connect and shake hands, with both protocols."""
        host, port = server.url.removeprefix("ws://").split(":")
        sock = socket.socket()
        # Small, so that the server soon notices that its output is not read.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.setblocking(False)
        raw = cls(sock)
        await raw._loop.sock_connect(sock, (host, int(port)))
        await raw._loop.sock_sendall(sock, UPGRADE)
        while not (await raw.read(4096)).endswith(b"\r\n\r\n"):
            pass
        await raw.ask("initialize", {"clientName": "raw"})
        await raw.read(4096)
        await raw._loop.sock_sendall(sock, frame(b'{"method":"initialized","params":{}}'))
        return raw

    async def ask(self, method: str, params: object) -> None:
        """Send a request."""
        message = {"id": 1, "method": method, "params": params}
        await self._loop.sock_sendall(self.socket, frame(json.dumps(message).encode()))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._loop.sock_sendall(self.socket, data)

    async def read(self, size: int) -> bytes:
        """Return the bytes received so far, b"" at the end."""
        return await self._loop.sock_recv(self.socket, size)

    async def aclose(self) -> None:
        """End the connection with a close frame."""
        await self._loop.sock_sendall(self.socket, struct.pack("!BB", 0x88, 0x80) + bytes(4))
        self.socket.close()

    def drop(self) -> None:
        """Reset the connection, as a process that is killed may."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
