"""TLS below the WebSocket transport.

The transport reads and writes a descriptor of its own. With TLS that is one end of a pair of local
sockets, and everything passes between the other end and the encrypted connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final, Self

from exec_server.client.errors import ConnectFailed

if TYPE_CHECKING:
    import os

PIECE_BYTES: Final = 256 * 1024
"""How much is passed on at a time, and about how much waits on the way."""


def default_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Verify servers by the system's authorities, or by those of a PEM file instead.

    Raises ConnectFailed if the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConnectFailed(f"CA file {ca_file}: there is no certificate in it") from None
    except OSError as error:
        raise ConnectFailed(f"CA file {ca_file}: {error.strerror}") from error


class TlsRelay:
    """An encrypted connection, and ``local``, the socket to use in place of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """``open`` makes it."""
        self._reader = reader
        self._writer = writer
        self.local, self._inner = socket.socketpair()
        for end in (self.local, self._inner):
            end.setblocking(False)
        self.failure: OSError | None = None
        """What broke the connection."""
        self._passing = asyncio.gather(self._receive(), self._send())
        self._passing.add_done_callback(self._release)

    @classmethod
    async def open(
        cls, sock: socket.socket, context: ssl.SSLContext, host: str, target: str
    ) -> Self:
        """Shake hands over a connected socket, which then belongs to the relay.

        Raises ConnectFailed, with the socket closed.
        """
        try:
            streams = await asyncio.open_connection(
                sock=sock,
                ssl=context,
                server_hostname=host,
                limit=PIECE_BYTES,
            )
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"cannot connect to {target}: {describe(error)}") from error
        except BaseException:
            sock.close()
            raise
        return cls(*streams)

    def close(self) -> None:
        """End the connection. The WebSocket closing handshake was the orderly end, if any."""
        self._passing.cancel()

    async def wait_closed(self) -> None:
        """Return when nothing of it is left."""
        await asyncio.wait((self._passing,))
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _release(self, passing: asyncio.Future[tuple[None, None]]) -> None:
        if not passing.cancelled():
            passing.exception()
        self._inner.close()
        self._writer.transport.abort()

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await self._reader.read(PIECE_BYTES):
                await loop.sock_sendall(self._inner, data)
            self._inner.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._inner, PIECE_BYTES):
                self._writer.write(data)
                await self._writer.drain()
            # The end of one direction is not passed on: what TLS makes of it ends both, and the
            # WebSocket closing handshake has said the same.
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = self.failure or error
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_RDWR)


def describe(error: OSError) -> str:
    """What went wrong with a connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return error.strerror or str(error)
