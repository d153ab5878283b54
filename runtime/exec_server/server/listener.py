"""The WebSocket listener: accepts connections on one socket until ``aclose``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from exec_server.log_throttle import LogThrottle
from exec_server.transports import handshake
from exec_server.transports.endpoint import CLOSE_SECONDS, open_stream
from exec_server.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    import ssl

    from exec_server.server.server import Server
    from exec_server.transports.channel import Receiver
    from exec_server.transports.tls import TlsListener

log = logging.getLogger("exec_server")

BACKLOG: Final = 1024
"""Connections that the kernel queues before they are accepted."""

ACCEPT_RETRY_SECONDS: Final = 0.1
"""Pause before accepting again after the process ran out of descriptors."""

MAX_PENDING: Final = 256
"""Maximum number of pending handshakes; beyond it the oldest is dropped."""

MIN_PENDING_SECONDS: Final = 0.1
"""Time that each handshake has before it may be dropped for another. A client needs some
milliseconds, and a flood of connections, which wait in the kernel meanwhile, leaves it no less."""

MAX_PATH_BYTES: Final = 107
"""Maximum length of the path of a socket: unix(7) has 108 bytes for it and a NUL."""

_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def listen_on_ip(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an IP address; port 0 chooses a free port.

    Raises OSError if the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def listen_on_path(path: str, mode: int) -> socket.socket:
    """Return a socket that listens at a path with the permissions ``mode``.

    A socket left behind by a server that has ended is replaced. Raises OSError; EADDRINUSE if a
    server listens at the path, or if there is anything but a socket.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must apply from the start. No thread is running yet whose files this could affect.
    others = os.umask(0o777 & ~mode)
    try:
        try:
            listening.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            listening.bind(path)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(others)
    return listening


def _is_stale(path: str) -> bool:
    """Return True if a path is a socket that no server listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener counts even if its queue is full
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False
    return False


def _tls_listener(loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> TlsListener:
    # Imported only if used, as it is slow to import.
    from exec_server.transports.tls import TlsListener  # noqa: PLC0415

    return TlsListener(loop, context)


class WebSocketServer:
    """Serves the peers that connect to a listening socket and pass the opening handshake.

    It takes over the socket; with ``tls``, connections are encrypted.
    """

    def __init__(
        self,
        server: Server,
        listening: socket.socket,
        *,
        policy: handshake.AdmissionPolicy = handshake.OPEN,
        tls: ssl.SSLContext | None = None,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._server = server
        self._socket = listening
        self.policy = policy
        """Rules for the connections that are accepted from now on."""
        self._max_pending = max_pending
        self._loop = asyncio.get_running_loop()
        self._tls = None if tls is None else _tls_listener(self._loop, tls)
        self._transports: set[WebSocketTransport] = set()
        self._admitted: set[WebSocketTransport] = set()
        # Pending handshakes, oldest first, and the times at which they were accepted.
        self._pending: dict[WebSocketTransport, float] = {}
        self._is_out_of_resources = False
        self._refusals = LogThrottle(self._loop.time)
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._socket.setblocking(False)
        self._path: str | None = None
        if listening.family == socket.AF_UNIX:
            self._path = str(listening.getsockname())
            self._inode = os.lstat(self._path).st_ino
        self._start_accepting()

    @property
    def url(self) -> str:
        """URL of the listener: ``ws://IP:PORT`` with the real port, ``wss://…`` or ``unix://PATH``."""
        if self._path is not None:
            return f"unix://{self._path}"
        host, port = self._socket.getsockname()[:2]
        scheme = "ws" if self._tls is None else "wss"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def _start_accepting(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        if self._tls is not None and self._tls.handshakes.is_full:
            self._loop.remove_reader(self._socket.fileno())
            self._tls.handshakes.when_drained(self._start_accepting)
            return
        if len(self._pending) >= self._max_pending:
            oldest, accepted_at = next(iter(self._pending.items()))
            left = accepted_at + MIN_PENDING_SECONDS - self._loop.time()
            if left > 0:
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(left, self._start_accepting)
                return
            oldest.abort()
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                if not self._is_out_of_resources:
                    log.warning("cannot accept a connection: %s", error.strerror)
                self._is_out_of_resources = True
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(ACCEPT_RETRY_SECONDS, self._start_accepting)
            return
        self._is_out_of_resources = False
        connection.setblocking(False)
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self._none_left.clear()
        peer = connection.getpeername()
        transport = WebSocketTransport(
            self._loop,
            connection,
            self._open,
            self._forget,
            self._server.settings,
            policy=self.policy,
            overload=self._overload,
            on_rejected=lambda rejection: self._log_refusal(peer, rejection),
            open_stream=open_stream if self._tls is None else self._tls.open_stream,
        )
        self._transports.add(transport)
        self._pending[transport] = self._loop.time()

    def _log_refusal(self, peer: object, rejection: handshake.HttpRejection) -> None:
        if rejection.status < 400:
            return
        suppressed = self._refusals.admit()
        if suppressed is None:
            return
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local process"
        more = f" (and {suppressed} more since the last message)" if suppressed else ""
        log.warning(
            "refused a connection from %s with status %d: %s%s",
            address,
            rejection.status,
            rejection.text or "not acceptable",
            more,
        )

    def _overload(self) -> handshake.HttpRejection | None:
        allowed = self._server.settings.max_connections
        if len(self._admitted) >= allowed:
            return handshake.HttpRejection(
                503, f"this server serves at most {allowed} connections at a time"
            )
        return None

    def _open(self, transport: WebSocketTransport) -> Receiver:
        self._pending.pop(transport, None)
        self._admitted.add(transport)
        return self._server.open(transport, keeps_session=True)

    def _forget(self, transport: WebSocketTransport) -> None:
        self._transports.discard(transport)
        self._admitted.discard(transport)
        if transport in self._pending:
            del self._pending[transport]
            self._server.note_failed_handshake()
        if not self._transports:
            self._none_left.set()

    async def aclose(self) -> None:
        """Stop listening, drain the server, close all connections and end all sessions."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._path is not None:
            self._unlink(self._path)
        await self._server.drain()
        for transport in list(self._transports):
            transport.close("the server is shutting down")
        await self._server.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._none_left.wait()

    def _unlink(self, path: str) -> None:
        """Remove the socket, unless another server has replaced it with its own."""
        with contextlib.suppress(OSError):
            if os.lstat(path).st_ino == self._inode:
                os.unlink(path)
