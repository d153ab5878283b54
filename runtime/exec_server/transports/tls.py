"""TLS of the WebSocket listener: a byte stream that encrypts.

A connection takes one descriptor, as without TLS, and its handshake no task. OpenSSL never touches
the socket: it is given at most CHUNK_BYTES at a time, because it works through all that it can get
before it returns, and messages without data, such as key updates, can go on for ever.
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
"""Most that is decrypted or encrypted at once: two full records."""

MAX_WAITING_HANDSHAKES: Final = 16
"""Handshake steps that may wait for the processor before no more connections are accepted. Those
that wait in the kernel cost nothing, and none of them is dropped for others that come later."""

_cipher_buffer: Final = memoryview(bytearray(CHUNK_BYTES))


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a server's context: TLS 1.2 or later with this certificate.

    Both are paths of PEM files; the certificate's may hold its whole chain. Raises UsageError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Connections last, so resumption gains nothing; tickets would be sent to every stranger.
    context.num_tickets = 0
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


class HandshakeQueue:
    """Takes the steps of all handshakes one after the other, one in each turn of the event loop.

    A step costs a signature, about a millisecond, so many at once would hold up the connections
    that are established.
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
        """Call back once when no step waits any more."""
        self._when_drained = callback

    def submit(self, step: Callable[[], None]) -> None:
        """Have a step taken when those before it are."""
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
    """The server's side of TLS over an accepted socket.

    ``start_reading`` begins the handshake, and the owner gets data once it is done. A peer that
    breaks TLS, or is not able to agree on it, is lost.
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
        # Made when the peer has sent something: until then it costs next to nothing.
        self._tls: ssl.SSLObject | None = None
        self._is_secure = False
        self._has_ended = False
        # Encrypted and not yet written, and how many bytes of the queued pieces it stands for.
        self._encrypted = memoryview(b"")
        self._stands_for = 0

    # The handshake

    def start_reading(self) -> None:
        """Begin the handshake; after it, deliver, or go on delivering, what the peer sends."""
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
        """Go on with the handshake as far as what the peer has sent allows."""
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
        except OSError:  # among them all that TLS raises
            self._lose()
        else:
            self.start_reading()

    def _shake_hands(self) -> None:
        """Take what the peer sent and answer it. Raises OSError if that ends the handshake."""
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
            self._push()  # also the alert that says why it failed

    def detach(self) -> None:
        """Stop all reading and writing; see ByteStream."""
        if not self._lost:
            self._stop_waiting()
            # At once, and not when the garbage collector finds the connection: tens of kilobytes.
            self._tls = None
            self._incoming = self._outgoing = ssl.MemoryBIO()
            self._encrypted = memoryview(b"")
        super().detach()

    # Reading

    def _take_ciphertext(self) -> None:
        """Read from the socket once. Raises BlockingIOError if there is nothing."""
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
        """Decrypt all that can be; the buffer is larger than any ciphertext taken at once."""
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
        # The peer said that it sends no more, or just went; frames tell what is complete.
        self._has_ended = True
        return count

    # Writing

    def _write(self, pieces: deque[bytes | memoryview]) -> int:
        if not self._stands_for:
            assert self._tls is not None
            data = _beginning(pieces)
            self._tls.write(data)
            self._stands_for = len(data)
        self._push()
        written, self._stands_for = self._stands_for, 0
        return written

    def _push(self) -> None:
        """Write all that is encrypted. Raises BlockingIOError if the socket does not take it."""
        if self._outgoing.pending:
            self._encrypted = memoryview(bytes(self._encrypted) + self._outgoing.read())
        while self._encrypted:
            self._encrypted = self._encrypted[os.write(self._fd, self._encrypted) :]

    def _send_alerts(self) -> None:
        """Send what OpenSSL has to say of its own accord; a peer that does not read it is lost."""
        try:
            self._push()
        except BlockingIOError:
            if not self._stands_for or len(self._encrypted) > 2 * CHUNK_BYTES:
                raise ConnectionAbortedError from None

    def send_goodbye(self) -> None:
        """Tell the peer that no more comes, which keeps others from cutting the stream short."""
        if self._tls is None or not self._is_secure:
            return
        with contextlib.suppress(OSError):  # that its half of it has not come, above all
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._push()


def _beginning(pieces: deque[bytes | memoryview]) -> bytes | memoryview:
    """Return the first bytes of the pieces, as many as are encrypted at once."""
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
