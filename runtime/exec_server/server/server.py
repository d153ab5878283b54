"""The server: the state shared by all connections, and service over a pair of descriptors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from exec_server.server.connection import Connection
from exec_server.server.session import SessionRegistry
from exec_server.server.shutdown import ShutdownEvent
from exec_server.settings import Settings
from exec_server.transports.stdio import StdioTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.engine.processes.watchdog import Watchdog
    from exec_server.revisions.interface import Revision
    from exec_server.transports.channel import Channel, Receiver

_POLL_SECONDS: Final = 0.01
"""Polling interval while draining."""

_REAP_SECONDS: Final = 1.0
"""Time for killed processes to exit, so that their exits are still reported."""


class Server:
    """Sessions and connections, over any transport."""

    def __init__(
        self,
        revisions: Sequence[Revision],
        *,
        watchdog: Watchdog | None = None,
        settings: Settings | None = None,
        shutdown: ShutdownEvent | None = None,
    ) -> None:
        self._revisions = revisions
        self.settings = settings or Settings()
        self._sessions = SessionRegistry(asyncio.get_running_loop(), watchdog, self.settings)
        self._connections: set[Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.shutdown = shutdown or ShutdownEvent()

    async def drain(self) -> None:
        """Complete pending work within the grace period, and start nothing new.

        Processes are terminated, and killed at the end of the grace period. Their output and exits
        are still reported, and requests that are done by then are answered.
        """
        for connection in self._connections:
            connection.shut_down()
        grace = self.settings.grace_seconds
        sessions = self._sessions
        if grace:
            sessions.ask_to_end(grace)
            await self._wait_until(lambda: not sessions.running and self._has_answered, grace)
        sessions.kill_all()
        await self._wait_until(lambda: not sessions.running, _REAP_SECONDS)
        # Exits of processes answer the requests that wait for them.
        await self._wait_until(lambda: self._has_answered, 5 * _POLL_SECONDS)

    @property
    def _has_answered(self) -> bool:
        return all(connection.is_idle for connection in self._connections)

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition() and asyncio.get_running_loop().time() < deadline:
            if self.shutdown.is_urgent:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def open(self, channel: Channel, *, keeps_session: bool) -> Receiver:
        """Return a connection for a new peer.

        ``keeps_session`` if its session survives the connection for a while.
        """
        connection = Connection(
            channel,
            self._sessions,
            self._revisions,
            self.settings,
            keeps_session=keeps_session,
            on_ended=self._forget,
        )
        if self.shutdown.is_requested:
            connection.shut_down()
        self._connections.add(connection)
        self._idle.clear()
        return connection

    def note_failed_handshake(self) -> None:
        """Note the end of a connection that did not complete the opening handshake."""
        self._sessions.note_end()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    async def aclose(self) -> None:
        """End all connections and sessions; no process is left when this returns."""
        for connection in list(self._connections):
            connection.ended(orderly=False)
        await self._idle.wait()
        await self._sessions.aclose()


async def serve_stdio(server: Server, read_fd: int, write_fd: int) -> None:
    """Serve the peer on two descriptors until it ends its side or a shutdown is requested."""
    closed = asyncio.Event()
    transport = StdioTransport(
        asyncio.get_running_loop(),
        read_fd,
        write_fd,
        lambda channel: server.open(channel, keeps_session=False),
        closed.set,
        max_line_bytes=server.settings.max_message_bytes,
        max_unsent_bytes=server.settings.max_unsent_bytes,
    )
    stopping = asyncio.ensure_future(server.shutdown.wait())
    closing = asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait((stopping, closing), return_when=asyncio.FIRST_COMPLETED)
        if not closed.is_set():
            await server.drain()
            transport.close("the server is shutting down")
            await closed.wait()
    finally:
        stopping.cancel()
        closing.cancel()
        await server.aclose()
