"""The WebSocket listener: accepts any number of peers on an IP address until ``aclose``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Final

from exec_server.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from exec_server.server import Server

log = logging.getLogger("exec_server")

BACKLOG: Final = 1024
"""Connections the kernel may hold before they are accepted."""

ACCEPT_RETRY_SECONDS: Final = 0.1
"""Pause before accepting again when there are no descriptors left."""

_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class WebSocketServer:
    """Listens on an IP address and serves every peer that connects."""

    def __init__(self, server: Server, host: str, port: int) -> None:
        """Bind and listen.

        Raises OSError when the address cannot be had; port 0 takes a free one.
        """
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transports: set[WebSocketTransport] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setblocking(False)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self._start_accepting()

    @property
    def url(self) -> str:
        """Where it listens: ``ws://IP:PORT`` with the real port."""
        host, port = self._socket.getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def _start_accepting(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                log.warning("cannot accept a connection: %s", error.strerror)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(ACCEPT_RETRY_SECONDS, self._start_accepting)
            return
        connection.setblocking(False)
        self._none_left.clear()
        self._transports.add(
            WebSocketTransport(
                self._loop,
                connection,
                lambda channel: self._server.open(channel, keeps_session=True),
                self._forget,
            )
        )

    def _forget(self, transport: WebSocketTransport) -> None:
        self._transports.discard(transport)
        if not self._transports:
            self._none_left.set()

    async def aclose(self) -> None:
        """Stop listening, say goodbye to every peer, end every session."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for transport in list(self._transports):
            transport.close("the server is shutting down")
        await self._server.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._none_left.wait()
