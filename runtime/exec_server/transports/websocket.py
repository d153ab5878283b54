"""The WebSocket transport of the server: an accepted socket, from its HTTP head to its end.

Server frames are not masked: they are written as a header before the message's own pieces, which
are never copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from exec_server.transports import door
from exec_server.transports.endpoint import (
    CLOSE_SECONDS,
    TEXT_FINAL,
    WebSocketEndpoint,
    socket_address,
)

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from exec_server.settings import Settings
    from exec_server.transports.channel import LongMessage, Receiver

PING_SECONDS: Final = 30.0
"""An idle connection gets an empty ping this often, which keeps middleboxes from forgetting it."""


def frame_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented text frame."""
    if length < 126:
        return bytes((TEXT_FINAL, length))
    if length < 65536:
        return b"%c\x7e%b" % (TEXT_FINAL, length.to_bytes(2, "big"))
    return b"%c\x7f%b" % (TEXT_FINAL, length.to_bytes(8, "big"))


class WebSocketTransport(WebSocketEndpoint):
    """One accepted connection, from its first byte to the closed socket.

    ``on_open`` is called when the handshake is done and returns the receiver of the messages;
    ``on_closed`` when the socket is closed, whether the handshake was ever done or not. ``gate``
    decides who is let in, ``refusal`` may turn them away all the same; ``peer`` names who is,
    where the socket does not.
    """

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
        gate: door.Gate = door.OPEN,
        refusal: Callable[[], door.Answer | None] = lambda: None,
        peer: str | None = None,
    ) -> None:
        message_bytes = settings.max_message_bytes
        self._max_frame_bytes = min(settings.max_frame_bytes, message_bytes)
        protocol = ServerProtocol(max_size=(message_bytes, self._max_frame_bytes))
        super().__init__(loop, sock, protocol, lambda: on_closed(self), settings.max_unsent_bytes)
        self._on_open = on_open
        self._gate = gate
        self._refusal = refusal
        self.peer = f"exec-server websocket {peer or socket_address(sock)}"
        self._consume = self._consume_head
        self._set_timer(gate.handshake_seconds, self._abort)
        self._stream.start_reading()

    # Channel: what the connection sends

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
        if len(pieces) == 1:
            message = pieces[0]
            length = len(message)
            if length < 4096:
                self._stream.queue_reply((frame_header(length) + message,))
            else:
                self._stream.queue_reply((frame_header(length), message))
        else:
            self._stream.queue_reply((frame_header(sum(map(len, pieces))), *pieces))

    def send_long_reply(self, message: LongMessage) -> None:
        """Queue one message made while it is sent; see Channel."""
        self._stream.queue_long_reply(frame_header(message.length), message)

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one message behind everything; see Channel."""
        self._stream.queue_notification((frame_header(sum(map(len, pieces))), *pieces))

    def hold_input(self, is_held: bool) -> None:
        """Deliver no more messages while it is held; see Channel."""
        self._stream.hold_input(is_held)

    def close(self, reason: str, *, violation: bool = False) -> None:
        """Send what is queued, then the closing handshake; see Channel."""
        self._close(CloseCode.POLICY_VIOLATION if violation else CloseCode.GOING_AWAY, reason)

    def abort(self) -> None:
        """Drop the peer at once."""
        self._abort()

    # The HTTP head

    def _consume_head(self, data: memoryview) -> int:
        head = bytes(data[: door.MAX_HEAD_BYTES])
        end = head.find(door.END_OF_HEAD)
        if end < 0:
            hopeless = door.examine_beginning(head)
            if hopeless is None:
                return 0
            self._answer(hopeless.encode())
            return len(data)
        end += len(door.END_OF_HEAD)
        refusal = door.examine(head[:end], self._gate) or self._refusal()
        if refusal is not None:
            self._answer(refusal.encode())
            return len(data)
        self._protocol.receive_data(head[:end])
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._protocol.send_response(self._protocol.accept(event))
        answer = b"".join(self._protocol.data_to_send())
        if self._protocol.handshake_exc is not None:
            self._answer(answer)
            return len(data)
        self._stream.queue_reply((answer,))
        self._receiver = self._on_open(self)
        self._consume = self._consume_frames
        self._set_timer(PING_SECONDS, self._ping)
        return end + self._consume_frames(data[end:])

    def _answer(self, answer: bytes) -> None:
        self._closing = True
        self._consume = _ignore
        self._stream.queue_reply((answer,))
        self._set_timer(CLOSE_SECONDS, self._abort)
        self._stream.notify_when_empty()

    def _ping(self) -> None:
        self._protocol.send_ping(b"")
        self._send_control()
        self._set_timer(PING_SECONDS, self._ping)


def _ignore(data: memoryview) -> int:
    return len(data)
