"""The server: what all connections share, and service for the one peer on a pair of descriptors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from exec_server.connection import Connection, Revision
from exec_server.session import SessionRegistry
from exec_server.settings import Settings
from exec_server.transports.stdio import StdioTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.engine.guardian import Guardian
    from exec_server.transports.channel import Channel, Receiver


class Server:
    """Sessions and connections, whatever the transport."""

    def __init__(
        self,
        revisions: Sequence[Revision],
        *,
        guardian: Guardian | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._revisions = revisions
        self.settings = settings or Settings()
        self._sessions = SessionRegistry(asyncio.get_running_loop(), guardian, self.settings)
        self._connections: set[Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, channel: Channel, *, keeps_session: bool) -> Receiver:
        """A connection for a new peer; ``keeps_session``: its session survives it for a while."""
        connection = Connection(
            channel,
            self._sessions,
            self._revisions,
            self.settings,
            keeps_session=keeps_session,
            on_ended=self._forget,
        )
        self._connections.add(connection)
        self._idle.clear()
        return connection

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    async def aclose(self) -> None:
        """End every connection and session; no process is left when this returns."""
        for connection in list(self._connections):
            connection.ended(orderly=False)
        await self._idle.wait()
        await self._sessions.aclose()


async def serve_stdio(server: Server, read_fd: int, write_fd: int, stop: asyncio.Event) -> None:
    """Serve the peer on two descriptors until it ends its side or ``stop`` is set."""
    closed = asyncio.Event()
    transport = StdioTransport(
        asyncio.get_running_loop(),
        read_fd,
        write_fd,
        lambda channel: server.open(channel, keeps_session=False),
        closed.set,
    )
    stopping = asyncio.ensure_future(stop.wait())
    closing = asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait((stopping, closing), return_when=asyncio.FIRST_COMPLETED)
        if not closed.is_set():
            transport.close("the server is shutting down")
            await closed.wait()
    finally:
        stopping.cancel()
        closing.cancel()
        await server.aclose()
