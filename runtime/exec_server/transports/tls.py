"""TLS in front of the WebSocket transport.

It ends here, as at a reverse proxy: what was encrypted goes on in the clear over a pair of
connected sockets within this process, so that the transport, which hands whole messages to the
kernel, is the same for all peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final

from exec_server.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES: Final = 64 * 1024
"""Most that is passed on at once, and about what is held of each direction."""

GOODBYE_SECONDS: Final = 2.0
"""How long a peer may take for its half of the end of TLS."""


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return what a server needs: TLS 1.2 or later with this certificate.

    Both are paths of PEM files; the certificate's may hold its whole chain. Raises UsageError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"failed to read {path}: {error.strerror}") from None
    try:
        # An empty password: without one, OpenSSL asks the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{certificate} and {key} are no certificate and its unencrypted key in PEM: {reason}"
        ) from None
    return context


async def decrypt(
    encrypted: socket.socket,
    context: ssl.SSLContext,
    handshake_seconds: float,
    serve: Callable[[socket.socket], None],
) -> None:
    """Shake hands with the peer on an accepted socket, and pass on what both sides say.

    ``serve`` is called with the socket that speaks in the clear. Returns when both are closed; a
    peer that fails at the handshake, or is not done in time, is gone by then.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=PIECE_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            encrypted,
            ssl=context,
            ssl_handshake_timeout=handshake_seconds,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
    except OSError:  # what TLS raises too
        encrypted.close()
        return
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    ours, served = socket.socketpair()
    served.setblocking(False)
    serve(served)
    plain_reader, plain_writer = await asyncio.open_connection(sock=ours, limit=PIECE_BYTES)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(pass_on(reader, plain_writer))
            both.create_task(pass_on(plain_reader, writer))
    finally:
        for end in (plain_writer, writer):
            end.close()
        for end in (plain_writer, writer):
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> OSError | None:
    """Until the source ends or one of the two breaks; then the sink ends its side too.

    Returns what broke.
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
