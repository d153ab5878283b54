"""TLS below the WebSocket transport.

The transport reads and writes a descriptor of its own. With TLS that is one end of a pair of local
sockets, and everything passes between the other end and the encrypted connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from exec_server.client.errors import ConnectFailed

if TYPE_CHECKING:
    import os

PIECE_BYTES: Final = 64 * 1024
"""Most that is passed on at once, and about what is held of each direction."""

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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

    def __init__(self, local: socket.socket, encrypted: Streams, plain: Streams) -> None:
        """``open`` makes it."""
        self.local = local
        self.failure: OSError | None = None
        """Error that broke the connection."""
        self._writers = (encrypted[1], plain[1])
        self._passing = asyncio.gather(
            self._pass_on(encrypted[0], plain[1]), self._pass_on(plain[0], encrypted[1])
        )
        self._passing.add_done_callback(self._release)

    @classmethod
    async def open(
        cls, sock: socket.socket, context: ssl.SSLContext, host: str, target: str
    ) -> Self:
        """Shake hands over a connected socket, which then belongs to the relay.

        Raises ConnectFailed, with the socket closed.
        """
        try:
            encrypted = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=host, limit=PIECE_BYTES
            )
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"cannot connect to {target}: {describe(error)}") from error
        except BaseException:
            sock.close()
            raise
        local, inner = socket.socketpair()
        local.setblocking(False)
        plain = await asyncio.open_connection(sock=inner, limit=PIECE_BYTES)
        return cls(local, encrypted, plain)

    def close(self) -> None:
        """End the connection. The WebSocket closing handshake was the orderly end, if any."""
        self._passing.cancel()

    async def wait_closed(self) -> None:
        """Return when nothing of it is left."""
        await asyncio.wait((self._passing,))
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        # Noted before the other end can see that this one has ended.
        self.failure = await _pass_on(source, sink) or self.failure

    def _release(self, passing: asyncio.Future[tuple[None, None]]) -> None:
        if not passing.cancelled():
            passing.exception()
        for writer in self._writers:
            writer.transport.abort()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> OSError | None:
    """Pass data on until the source ends or one of the two breaks; then end the sink's side too.

    Returns the failure of the one that broke.
    """
    failure = None
    try:
        while data := await source.read(PIECE_BYTES):
            sink.write(data)
            await sink.drain()
    except OSError as error:
        failure = error
    if sink.can_write_eof():
        with contextlib.suppress(OSError):
            sink.write_eof()
    else:
        sink.close()
    return failure


def describe(error: OSError) -> str:
    """Return a description of a connection's error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return error.strerror or str(error)
