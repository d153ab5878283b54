"""TLS for the WebSocket listener: an encrypting byte stream.

A connection takes one descriptor, as without TLS, and its handshake takes no task. OpenSSL never
accesses the socket: it gets at most CHUNK_BYTES at a time, because it processes everything
available before it returns, and messages without data, such as key updates, could go on forever.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

from exec_server.errors import UsageError
from exec_server.transports.stream import ByteStream

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from exec_server.transports.stream import StreamOwner

CHUNK_BYTES: Final = 32 * 1024
"""Maximum number of bytes encrypted or decrypted at a time: two full records."""

MAX_WAITING_HANDSHAKES: Final = 16
"""Handshake steps that may be queued before no more connections are accepted. Connections that wait
in the kernel cost nothing, and none of them is dropped in favor of later ones."""

_cipher_buffer: Final = memoryview(bytearray(CHUNK_BYTES))


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the context of a server: TLS 1.2 or later with this certificate.

    Both arguments are paths of PEM files; that of the certificate may contain its chain. Raises
    UsageError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Connections are long, so resumption gains nothing, and tickets would be sent to everyone.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"failed to read {path}: {error.strerror}") from None
    try:
        # Without a password, OpenSSL would prompt on the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{certificate} and {key} are no certificate and its unencrypted key in PEM: {reason}"
        ) from None
    return context


class HandshakeQueue:
    """Runs the steps of all handshakes one by one, each in a turn of the event loop.

    A step computes a signature, which takes about a millisecond, so many steps in one turn would
    delay the established connections.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Callable[[], None]] = deque()
        self._when_drained: Callable[[], None] | None = None

    @property
    def is_full(self) -> bool:
        """True if no more connections should be accepted for now."""
        return len(self._steps) >= MAX_WAITING_HANDSHAKES

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when no step is queued any more."""
        self._when_drained = callback

    def submit(self, step: Callable[[], None]) -> None:
        """Run a step after those that were submitted before."""
        if not self._steps:
            self._loop.call_soon(self._take_next)
        self._steps.append(step)

    def _take_next(self) -> None:
        self._steps.popleft()()
        if self._steps:
            self._loop.call_soon(self._take_next)
        elif self._when_drained is not None:
            callback, self._when_drained = self._when_drained, None
            callback()


class TlsListener:
    """The TLS side of a listening socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> None:
        self.handshakes = HandshakeQueue(loop)
        self.context = context

    def open_stream(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        owner: StreamOwner,
        max_unsent_bytes: int,
    ) -> TlsStream:
        """Open the stream of an accepted socket."""
        return TlsStream(loop, sock, owner, max_unsent_bytes, self)


class TlsStream(ByteStream):
    """The server side of TLS over an accepted socket.

    ``start_reading`` begins the handshake, and the owner gets data once it is done. The stream is
    lost if the peer violates TLS or the handshake fails.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        owner: StreamOwner,
        max_unsent_bytes: int,
        listener: TlsListener,
    ) -> None:
        super().__init__(loop, sock.fileno(), sock.fileno(), owner, max_unsent_bytes)
        self._fd = sock.fileno()
        self._listener = listener
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # Created when the peer has sent something; until then a connection costs almost nothing.
        self._tls: ssl.SSLObject | None = None
        self._is_secure = False
        self._has_ended = False
        # Ciphertext that is not yet written, and the number of queued bytes that it represents.
        self._encrypted = memoryview(b"")
        self._represented_bytes = 0

    # The handshake

    def start_reading(self) -> None:
        """Begin the handshake; after it, deliver what the peer sends, or continue."""
        if self._lost:
            return
        if self._is_secure:
            super().start_reading()
            # No event of the socket announces what was taken from it before.
            self._loop.call_soon(self._read_on)
        else:
            self._loop.add_reader(self._fd, self._await_turn)

    def _await_turn(self) -> None:
        self._stop_waiting()
        self._listener.handshakes.submit(self._take_step)

    def _stop_waiting(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)

    def _take_step(self) -> None:
        """Continue the handshake as far as the received data allows."""
        if self._lost:
            return
        try:
            if self._encrypted:
                self._push()
            else:
                self._shake_hands()
        except BlockingIOError:
            if self._encrypted:
                self._loop.add_writer(self._fd, self._await_turn)
            else:
                self._loop.add_reader(self._fd, self._await_turn)
        except OSError:  # the base class of all TLS errors
            self._lose()
        else:
            self.start_reading()

    def _shake_hands(self) -> None:
        """Process what the peer sent and respond. Raises OSError if the handshake fails."""
        self._take_ciphertext()
        if self._tls is None:
            self._tls = self._listener.context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
        try:
            self._tls.do_handshake()
            self._is_secure = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self._push()  # also the alert with the reason for a failure

    def detach(self) -> None:
        """Stop reading and writing; see ByteStream."""
        if not self._lost:
            self._stop_waiting()
            # Frees tens of kilobytes now, instead of when the garbage collector runs.
            self._tls = None
            self._incoming = self._outgoing = ssl.MemoryBIO()
            self._encrypted = memoryview(b"")
        super().detach()

    # Reading

    def _take_ciphertext(self) -> None:
        """Read from the socket once. Raises BlockingIOError if there is no data."""
        count = os.readv(self._fd, (_cipher_buffer,))
        if count:
            self._incoming.write(_cipher_buffer[:count])
        else:
            self._incoming.write_eof()

    def _read_on(self) -> None:
        if self._reading:
            self._readable()

    def _read(self, buffer: memoryview) -> int:
        if self._has_ended:
            return 0
        if not self._incoming.pending:
            self._take_ciphertext()
        try:
            count = self._decrypt(buffer)
        finally:
            if self._outgoing.pending:
                self._send_alerts()
        if count and self._has_ended:
            self._loop.call_soon(self._read_on)
        elif not count and not self._has_ended:
            raise BlockingIOError
        return count

    def _decrypt(self, buffer: memoryview) -> int:
        """Decrypt everything available; the buffer is larger than the ciphertext of one read."""
        tls = self._tls
        assert tls is not None
        count = 0
        try:
            while got := tls.read(len(buffer) - count, buffer[count:]):
                count += int(got)
        except ssl.SSLWantReadError:
            return count
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        # The end, with or without a close alert; the framing shows whether a message is complete.
        self._has_ended = True
        return count

    # Writing

    def _write(self, pieces: deque[bytes | memoryview]) -> int:
        if not self._represented_bytes:
            assert self._tls is not None
            data = _beginning(pieces)
            self._tls.write(data)
            self._represented_bytes = len(data)
        self._push()
        written, self._represented_bytes = self._represented_bytes, 0
        return written

    def _push(self) -> None:
        """Write all ciphertext. Raises BlockingIOError if the socket does not accept all of it."""
        if self._outgoing.pending:
            self._encrypted = memoryview(bytes(self._encrypted) + self._outgoing.read())
        while self._encrypted:
            self._encrypted = self._encrypted[os.write(self._fd, self._encrypted) :]

    def _send_alerts(self) -> None:
        """Send messages of OpenSSL itself; the stream is lost if the peer does not read them."""
        try:
            self._push()
        except BlockingIOError:
            if not self._represented_bytes or len(self._encrypted) > 2 * CHUNK_BYTES:
                raise ConnectionAbortedError from None

    def send_goodbye(self) -> None:
        """Send the close alert, by which the peer can tell the end from a truncation."""
        if self._tls is None or not self._is_secure:
            return
        with contextlib.suppress(OSError):  # mostly because the peer's close alert is missing
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._push()


def _beginning(pieces: deque[bytes | memoryview]) -> bytes | memoryview:
    """Return the first CHUNK_BYTES of the pieces, or all of them."""
    if len(pieces) == 1 or len(pieces[0]) >= CHUNK_BYTES:
        return memoryview(pieces[0])[:CHUNK_BYTES]
    size, taken = 0, []
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            taken[-1] = memoryview(piece)[: len(piece) - (size - CHUNK_BYTES)]
            break
    return b"".join(taken)
