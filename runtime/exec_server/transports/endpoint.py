"""WebSocket framing over a connected socket, for either side: one JSON message per message.

The sans-I/O core of ``websockets`` handles control frames, malformed frames and the closing
handshake. Data frames are handled here: they are nearly all of the traffic, and the general parser
of the core takes several times as long per message and buffers whole frames. Here, a long frame is
unmasked and passed on while it arrives. Each side adds its own opening handshake, and the server
expects masked frames.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from websockets.frames import CloseCode, Opcode

from exec_server.transports.channel import LONG_MESSAGE_BYTES
from exec_server.transports.stream import ByteStream
from exec_server.transports.utf8 import InvalidUtf8, Utf8Check, first_invalid_byte

try:
    from websockets.speedups import apply_mask as _apply_mask
except ImportError:
    from websockets.utils import apply_mask as _apply_mask

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from websockets.protocol import Protocol as WebSocketProtocol

    from exec_server.transports.channel import Receiver
    from exec_server.transports.stream import StreamOwner

CLOSE_SECONDS: Final = 2.0
"""Time for the peer's half of the closing handshake."""

TEXT_FINAL: Final = 0x80 | Opcode.TEXT
"""First byte of a text frame that is a whole message."""

MASKED: Final = 0x80
"""Bit of the second byte of a frame that is followed by a masking key."""

_PLAIN: Final = frozenset((TEXT_FINAL, 0x80 | Opcode.BINARY))
_RESERVED_BITS: Final = 0x70
_MAX_CONTROL_BYTES: Final = 125
_DATA_OPCODES: Final = frozenset((Opcode.CONT, Opcode.TEXT, Opcode.BINARY))
_KNOWN_OPCODES: Final = frozenset(Opcode)
_KEY_BYTES: Final = 4

# Typed for bytes, but it accepts any buffer.
apply_mask: Final[Callable[[memoryview | bytes, memoryview | bytes], bytes]] = cast(
    "Any", _apply_mask
)
"""Mask or unmask a payload with a key of four bytes."""


class OpenStream(Protocol):
    """Function that opens the byte stream of a connected socket."""

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        owner: StreamOwner,
        max_unsent_bytes: int,
    ) -> ByteStream:
        """Return the stream; the socket remains the caller's."""
        ...


def open_stream(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: StreamOwner, max_unsent_bytes: int
) -> ByteStream:
    """Open the stream of an unencrypted socket."""
    return ByteStream(loop, sock.fileno(), sock.fileno(), owner, max_unsent_bytes)


class WebSocketEndpoint:
    """One side of a connection, from the connected socket until it is closed.

    ``on_closed`` is called when the socket is closed. A subclass reads the handshake (``_consume``)
    and then sets ``_receiver`` and ``_consume = self._consume_frames``.
    """

    _peer_masks: ClassVar[bool]
    _max_frame_bytes: int
    _max_message_bytes: int

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: WebSocketProtocol,
        on_closed: Callable[[], None],
        max_unsent_bytes: int = sys.maxsize,
        *,
        open_stream: OpenStream = open_stream,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._on_closed = on_closed
        self._receiver: Receiver | None = None
        self._partial = bytearray()
        self._message: _Incoming | None = None
        self._closing = False
        self._closed = False
        self._peer_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._mask_bit, self._key_bytes = (MASKED, _KEY_BYTES) if self._peer_masks else (0, 0)
        if sock.family != socket.AF_UNIX:
            # Without this, the second small message in a row waits for the peer's delayed ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = open_stream(loop, sock, self, max_unsent_bytes)
        self._consume: Callable[[memoryview], int] = self._consume_frames

    # StreamOwner

    def bytes_received(self, data: memoryview) -> None:
        """Consume what was read; see StreamOwner."""
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
        """Begin to close; the peer may still read what is queued. See StreamOwner."""
        self._peer_ended = True
        if self._receiver is None:
            self._abort()
        else:
            self._start_closing()

    def stream_lost(self) -> None:
        """Close the broken socket; see StreamOwner."""
        self._abort()

    def pause_writing(self) -> None:
        """Pass backpressure on to the connection; see StreamOwner."""
        if self._receiver is not None:
            self._receiver.pause_writing()

    def resume_writing(self) -> None:
        """Release the backpressure; see StreamOwner."""
        if self._receiver is not None:
            self._receiver.resume_writing()

    def all_sent(self) -> None:
        """End this side, as the kernel has the last byte; see StreamOwner."""
        self._stream.send_goodbye()
        if self._peer_ended or self._protocol.close_rcvd is not None:
            self._abort()
            return
        # Closing a socket with unread input resets it, and a reset can overtake what was sent:
        # read on until the peer ends its side, or CLOSE_SECONDS pass.
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._abort()

    # Frames

    def _consume_frames(self, data: memoryview) -> int:
        receiver = self._receiver
        assert receiver is not None
        position = 0
        available = len(data)
        mask_bit, key_bytes = self._mask_bit, self._key_bytes
        while True:
            message = self._message
            if message is not None and message.frame_left:
                if position == available:
                    break
                end = position + min(message.frame_left, available - position)
                self._take_payload(receiver, message, data[position:end])
                position = end
            elif available - position < 2:
                break
            else:
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
                    and second & MASKED == mask_bit
                    and length < LONG_MESSAGE_BYTES
                    and length <= self._max_frame_bytes
                    and message is None
                )
                if not plain and self._is_refused(first, second, length):
                    # The core rejects it by its header alone, with the right close code.
                    self._feed_core(bytes(data[position:]))
                    return available
                begin = start + key_bytes
                end = begin + length
                if length < LONG_MESSAGE_BYTES:
                    if available < end:
                        break
                elif available < begin:
                    break
                if plain:
                    if key_bytes:
                        payload = apply_mask(data[begin:end], data[start:begin])
                    else:
                        payload = bytes(data[begin:end])
                    self._deliver(receiver, payload, is_text=first == TEXT_FINAL)
                    position = end
                elif first & 0x0F in _DATA_OPCODES:
                    message = self._begin_frame(first, length, bytes(data[start:begin]))
                    position = begin
                    if message is not None:
                        if length:
                            continue
                        self._take_payload(receiver, message, data[begin:begin])
                else:
                    self._feed_core(bytes(data[position:end]))
                    position = end
            if self._closing:
                return available
            if self._stream.throttled or (position < available and self._stream.is_turn_over()):
                break
        return position

    def _is_refused(self, first: int, second: int, length: int) -> bool:
        """Return True if a frame header alone violates RFC 6455 or the limits."""
        opcode = first & 0x0F
        return (
            bool(first & _RESERVED_BITS)
            or opcode not in _KNOWN_OPCODES
            or second & MASKED != self._mask_bit
            or length > self._max_frame_bytes
            or (opcode >= Opcode.CLOSE and (length > _MAX_CONTROL_BYTES or not first & 0x80))
            or (opcode == Opcode.CONT and self._message is None)
        )

    def _deliver(self, receiver: Receiver, payload: bytes, *, is_text: bool) -> None:
        if is_text and (position := first_invalid_byte(payload)) is not None:
            self._fail(CloseCode.INVALID_DATA, f"invalid UTF-8 at byte {position}")
            return
        receiver.receive(payload)

    def _begin_frame(self, first: int, length: int, key: bytes) -> _Incoming | None:
        """Begin a data frame that is long, or part of a fragmented message."""
        message = self._message
        if message is None:
            is_text = first & 0x0F == Opcode.TEXT
            message = self._message = _Incoming(is_text=is_text)
        elif first & 0x0F != Opcode.CONT:
            self._fail(CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
            return None
        message.size += length
        if message.size > self._max_message_bytes:
            self._fail(
                CloseCode.MESSAGE_TOO_BIG,
                f"message exceeds {self._max_message_bytes} bytes",
            )
            return None
        message.frame_left = length
        message.frame_is_final = bool(first & 0x80)
        message.key = key
        return message

    def _take_payload(self, receiver: Receiver, message: _Incoming, data: memoryview) -> None:
        """Take the next bytes of the frame that is being received."""
        message.frame_left -= len(data)
        is_last = message.frame_is_final and not message.frame_left
        payload = message.unmasked(data)
        if message.is_unreadable:
            payload = b""
        else:
            try:
                message.check.feed(payload, is_last=is_last)
            except InvalidUtf8 as error:
                if message.is_text:
                    self._fail(CloseCode.INVALID_DATA, str(error))
                    return
                message.is_unreadable = True
                message.unsent.clear()
                payload = b""
                receiver.refuse(str(error))
        if is_last:
            self._message = None
        if message.is_unreadable:
            return
        if message.unsent:
            message.unsent += payload
            payload = b""
        if is_last:
            part = bytes(message.unsent) or payload
            if message.is_in_parts or len(part) >= LONG_MESSAGE_BYTES:
                receiver.receive_part(part, is_last=True)
            else:
                receiver.receive(part)
        elif len(payload) >= LONG_MESSAGE_BYTES:
            message.is_in_parts = True
            receiver.receive_part(payload, is_last=False)
        elif len(message.unsent) >= LONG_MESSAGE_BYTES:
            message.is_in_parts = True
            receiver.receive_part(bytes(message.unsent), is_last=False)
            message.unsent.clear()
        else:
            message.unsent += payload

    def _feed_core(self, frame: bytes) -> None:
        self._protocol.receive_data(frame)
        self._protocol.events_received()
        if self._protocol.close_expected():
            self._start_closing()
        else:
            self._send_control()

    def _send_control(self) -> None:
        """Queue the output of the core: pings and pongs."""
        pieces = self._protocol.data_to_send()
        if pieces:
            self._stream.queue_reply(pieces)

    # Ending

    def _close(self, code: int, reason: str) -> None:
        """Send what is queued, then the closing handshake."""
        if self._closing or self._closed:
            return
        self._protocol.send_close(code, _close_reason(reason))
        self._start_closing()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._protocol.fail(code, _close_reason(reason))
        self._start_closing()

    def _start_closing(self) -> None:
        """Send what is queued, then the close frame if there is one, then end this side."""
        self._closing = True
        self._consume = self._consume_closing
        self._end()
        # Behind everything queued, because nothing may follow a close frame. The core marks the end
        # of its output with an empty piece.
        self._stream.queue_notification([piece for piece in self._protocol.data_to_send() if piece])
        self._set_timer(CLOSE_SECONDS, self._abort)
        self._stream.notify_when_empty()

    def _consume_closing(self, data: memoryview) -> int:
        """Look for the peer's close frame and ignore everything else."""
        if self._message is not None and self._message.frame_left:
            skipped = min(self._message.frame_left, len(data))
            self._message.frame_left -= skipped
            return skipped + (self._consume_closing(data[skipped:]) if skipped < len(data) else 0)
        self._protocol.receive_data(bytes(data))
        self._protocol.events_received()
        if self._protocol.close_rcvd is not None:
            self._stream.notify_when_empty()
        return len(data)

    def _end(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            # Requests that are not answered by now have lost their client.
            receiver.ended(orderly=False)

    def _abort(self) -> None:
        """Close the socket immediately."""
        if self._closed:
            return
        self._closed = True
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._stream.detach()
        self._end()
        self._sock.close()
        self._on_closed()

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)


class _Incoming:
    """A long or fragmented data message that is being received."""

    def __init__(self, *, is_text: bool) -> None:
        self.is_text = is_text
        self.size = 0
        """Payload bytes announced so far, in all frames."""
        self.frame_left = 0
        self.frame_is_final = False
        self.key = b""
        self.unsent = bytearray()
        """Payload that is not passed on yet, because it is shorter than a part."""
        self.is_in_parts = False
        self.is_unreadable = False
        self.check = Utf8Check()

    def unmasked(self, data: memoryview) -> bytes:
        """Return the next payload bytes of the frame unmasked, and rotate the key accordingly."""
        if not self.key:
            return bytes(data)
        payload = apply_mask(data, self.key)
        turn = len(data) % _KEY_BYTES
        self.key = self.key[turn:] + self.key[:turn]
        return payload


def _close_reason(reason: str) -> str:
    """Shorten a reason to what fits into a close frame: at most 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")


def socket_address(sock: socket.socket) -> str:
    """Return the peer's address for messages: ``IP:PORT``, IPv6 in brackets, or ``unix``."""
    if sock.family == socket.AF_UNIX:
        return "unix"
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
