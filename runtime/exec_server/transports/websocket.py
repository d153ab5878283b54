"""The WebSocket transport: one JSON message per WebSocket message, over an accepted socket.

``websockets``' sans-I/O core does the handshake, control frames, fragmented messages, everything
malformed and the closing handshake. The plain case, a whole masked data frame outside a
fragmented message, is unmasked here: it is nearly all of the traffic, and the core's general
parser costs several times as much per message. Server frames are written directly, as a header
before the message's own pieces.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from exec_server.transports import door
from exec_server.transports.stream import ByteStream

try:
    from websockets.speedups import apply_mask as _apply_mask
except ImportError:
    from websockets.utils import apply_mask as _apply_mask

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from exec_server.transports.channel import LongMessage, Receiver

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""Limits on what a client sends, the real servers'. Nothing limits what the server sends."""

PING_SECONDS: Final = 30.0
"""An idle connection gets an empty ping this often, which keeps middleboxes from forgetting it."""

CLOSE_SECONDS: Final = 2.0
"""How long the peer may take for its half of the closing handshake."""

_TEXT_FINAL: Final = 0x80 | Opcode.TEXT
_PLAIN: Final = frozenset((_TEXT_FINAL, 0x80 | Opcode.BINARY))
_MASKED: Final = 0x80
_RESERVED_BITS: Final = 0x70
_MAX_CONTROL_BYTES: Final = 125
_KNOWN_OPCODES: Final = frozenset(Opcode)


# Typed for bytes; takes any buffer.
_unmask: Final[Callable[[memoryview, memoryview], bytes]] = cast("Any", _apply_mask)


def frame_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented text frame."""
    if length < 126:
        return bytes((_TEXT_FINAL, length))
    if length < 65536:
        return b"%c\x7e%b" % (_TEXT_FINAL, length.to_bytes(2, "big"))
    return b"%c\x7f%b" % (_TEXT_FINAL, length.to_bytes(8, "big"))


class WebSocketTransport:
    """One accepted connection, from its first byte to the closed socket.

    ``on_open`` is called when the handshake is done and returns the receiver of the messages;
    ``on_closed`` when the socket is closed, whether the handshake was ever done or not.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_open: Callable[[WebSocketTransport], Receiver],
        on_closed: Callable[[WebSocketTransport], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_open = on_open
        self._on_closed = on_closed
        self._receiver: Receiver | None = None
        self._protocol = ServerProtocol(max_size=(MAX_MESSAGE_BYTES, MAX_FRAME_BYTES))
        self._partial = bytearray()
        self._fragments: list[bytes] = []
        self._fragment_opcode: Opcode | None = None
        self._closing = False
        self._closed = False
        self._peer_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self.peer = f"exec-server websocket {_address(sock)}"
        # Without this, the second small message in a row waits for the peer's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = ByteStream(loop, sock.fileno(), sock.fileno(), self)
        self._consume: Callable[[memoryview], int] = self._consume_head
        self._set_timer(door.HANDSHAKE_SECONDS, self._abort)
        self._stream.start_reading()

    # Channel: what the connection sends

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

    def close(self, reason: str, *, violation: bool = False) -> None:
        """Send what is queued, then the closing handshake; see Channel."""
        if self._closing or self._closed:
            return
        code = CloseCode.POLICY_VIOLATION if violation else CloseCode.GOING_AWAY
        self._protocol.send_close(code, _close_reason(reason))
        self._start_closing()

    # StreamOwner: what the socket brings

    def bytes_received(self, data: memoryview) -> None:
        """Take what was read."""
        if self._partial:
            self._partial += data
            with memoryview(self._partial) as buffered:
                used = self._consume(buffered)
            del self._partial[:used]
        else:
            used = self._consume(data)
            if used < len(data):
                self._partial += data[used:]

    def end_received(self) -> None:
        """The peer ended its side: it may still read what is queued."""
        self._peer_ended = True
        if self._receiver is None:
            self._abort()
        else:
            self._start_closing()

    def stream_lost(self) -> None:
        """The socket broke."""
        self._abort()

    def queue_changed(self, is_congested: bool) -> None:
        """Tell the connection to hold or release the output of its processes."""
        if self._receiver is not None:
            self._receiver.congested(is_congested)

    def all_sent(self) -> None:
        """The last byte is with the kernel: end our side."""
        if self._peer_ended or self._protocol.close_rcvd is not None:
            self._abort()
            return
        # Closing a socket with unread input resets it, and a reset can overtake what was sent:
        # read on until the peer ends its side, or CLOSE_SECONDS pass.
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._abort()

    # The HTTP head

    def _consume_head(self, data: memoryview) -> int:
        head = bytes(data[: door.MAX_HEAD_BYTES])
        end = head.find(door.END_OF_HEAD)
        if end < 0:
            if len(data) >= door.MAX_HEAD_BYTES:
                self._answer(door.TOO_LARGE.encode())
                return len(data)
            return 0
        end += len(door.END_OF_HEAD)
        refusal = door.examine(head[:end])
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

    # Frames

    def _consume_frames(self, data: memoryview) -> int:
        receiver = self._receiver
        assert receiver is not None
        position = 0
        available = len(data)
        while available - position >= 2:
            first = data[position]
            second = data[position + 1]
            length = second & 0x7F
            start = position + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                if available - start < size:
                    break
                length = int.from_bytes(data[start : start + size], "big")
                start += size
            plain = (
                first in _PLAIN
                and second & _MASKED
                and length <= MAX_FRAME_BYTES
                and self._fragment_opcode is None
            )
            end = start + 4 + length
            if not plain and _is_refused(first, second, length):
                # The core refuses it from its header alone, with the right close code.
                self._feed_core(bytes(data[position:]))
                return available
            if available < end:
                break
            if plain:
                payload = _unmask(data[start + 4 : end], data[start : start + 4])
                self._deliver(receiver, payload, is_text=first == _TEXT_FINAL)
            else:
                self._feed_core(bytes(data[position:end]))
            position = end
            if self._closing:
                return available
        return position

    def _deliver(self, receiver: Receiver, payload: bytes, *, is_text: bool) -> None:
        if is_text and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError as error:
                self._fail(CloseCode.INVALID_DATA, f"invalid UTF-8 at byte {error.start}")
                return
        receiver.receive(payload)

    def _feed_core(self, frame: bytes) -> None:
        self._protocol.receive_data(frame)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
        if self._protocol.close_expected():
            self._start_closing()
        else:
            self._send_pongs()

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._fragment_opcode = frame.opcode
        elif frame.opcode is not Opcode.CONT:
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            is_text = self._fragment_opcode is Opcode.TEXT
            payload = b"".join(self._fragments)
            self._fragments.clear()
            self._fragment_opcode = None
            assert self._receiver is not None
            self._deliver(self._receiver, payload, is_text=is_text)

    def _send_pongs(self) -> None:
        pieces = self._protocol.data_to_send()
        if pieces:
            self._stream.queue_reply(pieces)

    def _ping(self) -> None:
        self._protocol.send_ping(b"")
        self._send_pongs()
        self._set_timer(PING_SECONDS, self._ping)

    # Ending

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._protocol.fail(code, _close_reason(reason))
        self._start_closing()

    def _start_closing(self) -> None:
        """Deliver what is queued, then the close frame if there is one, then end our side."""
        self._closing = True
        self._consume = self._consume_closing
        self._end()
        # Behind everything queued: nothing may follow a close frame. The core marks the end of
        # its output with an empty piece.
        self._stream.queue_notification([piece for piece in self._protocol.data_to_send() if piece])
        self._set_timer(CLOSE_SECONDS, self._abort)
        self._stream.notify_when_empty()

    def _consume_closing(self, data: memoryview) -> int:
        """Look for the peer's close frame; everything else is too late."""
        self._protocol.receive_data(bytes(data))
        self._protocol.events_received()
        if self._protocol.close_rcvd is not None:
            self._stream.notify_when_empty()
        return len(data)

    def _end(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            # What the peer asked before it left is either answered and queued, or moot.
            receiver.ended(orderly=False)

    def _abort(self) -> None:
        """Close the socket now."""
        if self._closed:
            return
        self._closed = True
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._stream.detach()
        self._end()
        self._sock.close()
        self._on_closed(self)

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)


def _ignore(data: memoryview) -> int:
    return len(data)


def _is_refused(first: int, second: int, length: int) -> bool:
    """Whether a frame header alone breaks RFC 6455 or the limits."""
    opcode = first & 0x0F
    is_control = opcode >= Opcode.CLOSE
    return (
        bool(first & _RESERVED_BITS)
        or opcode not in _KNOWN_OPCODES
        or not second & _MASKED
        or length > MAX_FRAME_BYTES
        or (is_control and (length > _MAX_CONTROL_BYTES or not first & 0x80))
    )


def _close_reason(reason: str) -> str:
    """A close frame holds at most 123 bytes of reason."""
    return reason.encode()[:120].decode(errors="ignore")


def _address(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
