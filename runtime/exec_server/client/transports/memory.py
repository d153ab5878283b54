"""A server in this process: the same connection, sessions and engine, without a transport.

Messages pass in turns of the event loop, never from within each other, and in order. Output that
the client does not take yet makes the server hold its processes, as on a socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from exec_server.transports.channel import LONG_MESSAGE_BYTES
from exec_server.transports.stream import HIGH_WATER, LOW_WATER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.server.server import Server
    from exec_server.transports.channel import Receiver, StreamedMessage

_TURN_BYTES: Final = 256 * 1024
"""Bytes delivered to the client per turn of the event loop, as by one read of a socket."""


class MemoryDialer:
    """Opens a connection to a server object; ends the server with the connection if it made it."""

    can_resume = False
    target = "in-process:"

    def __init__(self, make_server: Callable[[], Server], *, owns_server: bool) -> None:
        self._make_server = make_server
        self._owns_server = owns_server

    async def dial(self, receiver: Receiver) -> MemoryTransport:
        """Connect; see Dialer."""
        return MemoryTransport(self._make_server(), receiver, owns_server=self._owns_server)


class MemoryTransport:
    """Both ends at once: the server's Channel and the client's Transport."""

    peer = "in-process"
    message_kind = "JSON-RPC"
    has_violated = False

    def __init__(self, server: Server, receiver: Receiver, *, owns_server: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._owns_server = owns_server
        self._receiver: Receiver | None = receiver
        self._to_server: deque[bytes] = deque()
        self._replies: deque[bytes | StreamedMessage] = deque()
        self._notifications: deque[bytes] = deque()
        self._queued_bytes = 0
        self.sent_bytes = 0
        """Bytes that the client has taken so far; see Channel."""
        self._is_congested = False
        self._is_paused = False
        self._is_reading_paused = False
        self._serving = self._giving = False
        self._ending: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._connection: Receiver | None = server.open(self, keeps_session=False)
        self.end_reason = "it was closed here"

    # Transport: what the client does

    def send(self, message: bytes, *, at_once: bool = False) -> None:
        """Hand over one message; see Transport."""
        self._to_server.append(message)
        self._serve_soon()

    def _serve_soon(self) -> None:
        if not self._serving:
            self._serving = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._serving = False
        while self._to_server and self._connection is not None and not self._is_reading_paused:
            message = self._to_server.popleft()
            if len(message) < LONG_MESSAGE_BYTES:
                self._connection.receive(message)
            else:
                self._connection.receive_part(message, is_last=True)

    def limit_messages(self, max_bytes: int) -> None:
        """Do nothing: the server is this program's own, and has its own limits; see Transport."""

    def pause_receiving(self) -> None:
        """Take nothing from the server; see Transport."""
        self._is_paused = True

    def resume_receiving(self) -> None:
        """Go on taking; see Transport."""
        self._is_paused = False
        self._give_soon()

    # Channel: what the server does

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that the client has not taken; see Channel."""
        return self._queued_bytes

    def pause_reading(self) -> None:
        """Deliver no more messages until ``resume_reading``; see Channel."""
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        """Deliver messages again; see Channel."""
        self._is_reading_paused = False
        self._serve_soon()

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one message ahead of every notification; see Channel."""
        self._queue(self._replies, b"".join(pieces))

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        """Queue one message that is made when it is taken; see Channel."""
        if self._receiver is None:
            message.finish()
            return
        self._replies.append(message)
        self._give_soon()

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one message behind everything; see Channel."""
        self._queue(self._notifications, b"".join(pieces))

    def _queue(self, queue: deque[Any], message: bytes) -> None:
        if self._receiver is None:
            return
        queue.append(message)
        self._queued_bytes += len(message)
        if self._queued_bytes > HIGH_WATER and not self._is_congested:
            self._is_congested = True
            if self._connection is not None:
                self._connection.pause_writing()
        self._give_soon()

    def _give_soon(self) -> None:
        if not self._giving and not self._is_paused:
            self._giving = True
            self._loop.call_soon(self._give)

    def _give(self) -> None:
        self._giving = False
        given = 0
        while given < _TURN_BYTES and not self._is_paused and self._receiver is not None:
            if self._replies:
                reply = self._replies.popleft()
                if isinstance(reply, bytes):
                    self._queued_bytes -= len(reply)
                    message = reply
                else:
                    try:
                        message = _whole(reply)
                    except OSError as error:
                        self.close(f"an answer could not be made: {error.strerror}")
                        return
            elif self._notifications:
                message = self._notifications.popleft()
                self._queued_bytes -= len(message)
            else:
                break
            given += len(message)
            self.sent_bytes += len(message)
            self._receiver.receive(message)
        if self._is_congested and self._queued_bytes <= LOW_WATER:
            self._is_congested = False
            if self._connection is not None:
                self._connection.resume_writing()
        if self._replies or self._notifications:
            self._give_soon()

    # Ending, from either side

    def close(self, reason: str = "", *, violation: bool = False) -> None:
        """End the connection; see Transport and Channel."""
        if self._ending is not None:
            return
        if reason:
            self.end_reason = f"the server closed it: {reason}"
        self._ending = self._loop.create_task(self._end())

    def abort(self) -> None:
        """End the connection; see Transport."""
        for reply in self._replies:
            if not isinstance(reply, bytes):
                reply.finish()
        self._replies.clear()
        self._notifications.clear()
        self.close()

    async def _end(self) -> None:
        # What was handed over before the end is served, and what was answered is delivered.
        self._serve()
        connection, self._connection = self._connection, None
        while self._replies or self._notifications:
            self._is_paused = False
            self._give()
        receiver, self._receiver = self._receiver, None
        if connection is not None:
            connection.ended(orderly=False)
        if receiver is not None:
            receiver.ended(orderly=False)
        if self._owns_server:
            await self._server.aclose()
        self._gone.set_result(None)

    async def wait_closed(self) -> None:
        """Return when the server is done too; see Transport."""
        await asyncio.shield(self._gone)


def _whole(message: StreamedMessage) -> bytes:
    """All of a message that is made piece by piece."""
    pieces = []
    left = message.length
    try:
        while left:
            piece = message.next_piece()
            left -= len(piece)
            pieces.append(piece)
    finally:
        message.finish()
    return b"".join(pieces)
