"""The WebSocket transport of the server: one accepted socket, from its HTTP request to its end.

Frames of a server are not masked, so the pieces of a message are written behind a header without
being copied.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from exec_server.transports import handshake
from exec_server.transports.endpoint import (
    CLOSE_SECONDS,
    TEXT_FINAL,
    WebSocketEndpoint,
    open_stream,
    socket_address,
)

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from exec_server.settings import Settings
    from exec_server.transports.channel import Receiver, StreamedMessage
    from exec_server.transports.endpoint import OpenStream

PING_SECONDS: Final = 30.0
"""Interval of empty pings on an idle connection, which keep middleboxes from dropping it."""

CLOCK_CHECK_SECONDS: Final = 30.0
"""Interval at which expiring credentials are checked against the wall clock, which may jump."""

UNAUTHORIZED: Final = 3000
"""Close code for expired credentials (IANA: Unauthorized)."""

EXPIRED: Final = "expired websocket jwt"
"""Close reason for expired credentials; also the text with which a handshake is refused."""

_JOIN_BELOW: Final = 4096
"""Size below which copying a message behind its header costs less than a piece of its own."""

_CHECKED_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)
"""Request given to the WebSocket core in place of the client's. The core has a parser and limits of
its own, and so the client's request is not checked a second time by other rules."""


def frame_header(length: int) -> bytes:
    """Return the header of an unmasked, unfragmented text frame."""
    if length < 126:
        return bytes((TEXT_FINAL, length))
    if length < 65536:
        return b"%c\x7e%b" % (TEXT_FINAL, length.to_bytes(2, "big"))
    return b"%c\x7f%b" % (TEXT_FINAL, length.to_bytes(8, "big"))


class WebSocketTransport(WebSocketEndpoint):
    """One accepted connection, from its first byte to the closed socket.

    ``on_open`` is called when the handshake is done and returns the receiver of the messages;
    ``on_closed`` when the socket is closed, whether the handshake was ever done or not. ``policy``
    decides on the request, ``overload`` may reject it all the same.
    """

    message_kind = "websocket JSON-RPC"
    _peer_masks = True
    _protocol: ServerProtocol

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_open: Callable[[WebSocketTransport], Receiver],
        on_closed: Callable[[WebSocketTransport], None],
        settings: Settings,
        *,
        policy: handshake.AdmissionPolicy = handshake.OPEN,
        overload: Callable[[], handshake.HttpRejection | None] = lambda: None,
        on_rejected: Callable[[handshake.HttpRejection], None] = lambda rejection: None,
        open_stream: OpenStream = open_stream,
    ) -> None:
        message_bytes = settings.max_message_bytes
        self._max_message_bytes = message_bytes
        self._max_frame_bytes = min(settings.max_frame_bytes, message_bytes)
        protocol = ServerProtocol(max_size=(message_bytes, self._max_frame_bytes))
        super().__init__(
            loop,
            sock,
            protocol,
            lambda: on_closed(self),
            settings.max_unsent_bytes,
            open_stream=open_stream,
        )
        self._on_open = on_open
        self._policy = policy
        self._overload = overload
        self._on_rejected = on_rejected
        self._expires_at: float | None = None
        self._expiry_check: asyncio.TimerHandle | None = None
        self.peer = f"exec-server websocket {socket_address(sock)}"
        self._consume = self._consume_head
        self._set_timer(policy.handshake_seconds, self._abort)
        self._stream.start_reading()

    # Channel

    @property
    def sent_bytes(self) -> int:
        """Bytes that have left so far; see Channel."""
        return self._stream.sent_bytes

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent; see Channel."""
        return self._stream.unsent_bytes

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one message ahead of the notifications; see Channel."""
        header = frame_header(sum(map(len, pieces)))
        if len(pieces) == 1 and len(pieces[0]) < _JOIN_BELOW:
            self._stream.queue_reply((header + pieces[0],))
        else:
            self._stream.queue_reply((header, *pieces))

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        """Queue one message that is produced while it is sent; see Channel."""
        self._stream.queue_streamed_reply(frame_header(message.length), message)

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one message behind everything; see Channel."""
        self._stream.queue_notification((frame_header(sum(map(len, pieces))), *pieces))

    def pause_reading(self) -> None:
        """Deliver no more messages until ``resume_reading``; see Channel."""
        self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Deliver messages again; see Channel."""
        self._stream.resume_reading()

    def close(self, reason: str, *, violation: bool = False) -> None:
        """Send what is queued, then the closing handshake; see Channel."""
        self._close(CloseCode.POLICY_VIOLATION if violation else CloseCode.GOING_AWAY, reason)

    def abort(self) -> None:
        """Drop the connection immediately."""
        self._abort()

    # The HTTP head

    def _consume_head(self, data: memoryview) -> int:
        head = bytes(data[: handshake.MAX_HEAD_BYTES])
        end = head.find(handshake.END_OF_HEAD)
        if end < 0:
            hopeless = handshake.check_beginning(head)
            if hopeless is None:
                return 0
            self._reject(hopeless)
            return len(data)
        end += len(handshake.END_OF_HEAD)
        verdict = handshake.check_upgrade(head[:end], self._policy)
        rejection = verdict if isinstance(verdict, handshake.HttpRejection) else self._overload()
        if rejection is not None:
            self._reject(rejection)
            return len(data)
        assert isinstance(verdict, handshake.Admission)
        self._protocol.receive_data(_CHECKED_REQUEST % verdict.key.encode())
        (request,) = self._protocol.events_received()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        self._stream.queue_reply(self._protocol.data_to_send())
        self._receiver = self._on_open(self)
        self._consume = self._consume_frames
        self._set_timer(PING_SECONDS, self._ping)
        self._expires_at = verdict.expires_at
        self._check_expiry()
        return end + self._consume(data[end:])

    def _reject(self, rejection: handshake.HttpRejection) -> None:
        self._on_rejected(rejection)
        self._closing = True
        self._consume = _ignore
        self._stream.queue_reply((rejection.encode(),))
        self._set_timer(CLOSE_SECONDS, self._abort)
        self._stream.notify_when_empty()

    def _check_expiry(self) -> None:
        """Close the connection when its credentials have expired; its session can be resumed."""
        if self._expires_at is None:
            return
        left = self._expires_at - time.time()
        if left > 0:
            self._expiry_check = self._loop.call_later(
                min(left, CLOCK_CHECK_SECONDS), self._check_expiry
            )
        else:
            self._close(UNAUTHORIZED, EXPIRED)

    def _abort(self) -> None:
        if self._expiry_check is not None:
            self._expiry_check.cancel()
        super()._abort()

    def _ping(self) -> None:
        self._protocol.send_ping(b"")
        self._send_control()
        self._set_timer(PING_SECONDS, self._ping)


def _ignore(data: memoryview) -> int:
    return len(data)
