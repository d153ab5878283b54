"""What a transport and a connection know of each other.

A transport owns the bytes: framing, limits, flow control and the way a connection ends. It gives
whole messages to a Receiver and takes whole messages through the Channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG_MESSAGE_BYTES: Final = 32 * 1024
"""A message of at least this size is delivered in parts. What a shorter one costs, at most some
milliseconds, is spent at once; nearly all messages are far below it."""


class StreamedMessage(Protocol):
    """A message produced piece by piece while it is being sent.

    ``length`` is known before the first piece, because a frame header announces it; the pieces
    add up to exactly that many bytes.
    """

    length: int
    held_bytes: int
    """Bytes of memory that it takes until it is finished; 0 if it reads from a file."""

    def next_piece(self) -> bytes:
        """The next piece, never empty, until ``length`` bytes have been given.

        Raises OSError when the rest cannot be had; the connection is then beyond repair.
        """
        ...

    def finish(self) -> None:
        """Called once, when the last piece was taken or the connection is gone."""
        ...


class Channel(Protocol):
    """The sending side of a transport, as a connection sees it."""

    peer: str
    """Name of the peer in messages for people: ``exec-server websocket 127.0.0.1:4711``."""

    message_kind: str
    """Name of the messages in errors about malformed ones; as in the released servers."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that have left so far; as long as they grow, the peer reads."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent."""
        ...

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one message, in pieces, ahead of every queued notification."""
        ...

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        """Queue one message that is produced while it is sent."""
        ...

    def send_notification(self, pieces: Sequence[bytes]) -> None:
        """Queue one message, in pieces, behind everything queued."""
        ...

    def pause_reading(self) -> None:
        """Deliver no more messages until ``resume_reading``."""
        ...

    def resume_reading(self) -> None:
        """Deliver messages again."""
        ...

    def close(self, reason: str, *, violation: bool = False) -> None:
        """Send what is queued, then end the connection; ``violation``: the peer is at fault."""
        ...


class Receiver(Protocol):
    """The receiving side of a connection, as a transport sees it."""

    def receive(self, data: bytes) -> None:
        """Take one whole message, shorter than LONG_MESSAGE_BYTES."""
        ...

    def receive_part(self, part: bytes, *, is_last: bool) -> None:
        """Take the next part of a long message."""
        ...

    def refuse(self, detail: str) -> None:
        """Answer input that the transport could not turn into a message (id -1).

        It ends the message whose parts were being delivered.
        """
        ...

    def pause_writing(self) -> None:
        """The send queue exceeded its high-water mark: stop producing output."""
        ...

    def resume_writing(self) -> None:
        """The send queue fell below its low-water mark: produce output again."""
        ...

    def ended(self, *, orderly: bool) -> None:
        """No more messages will come.

        ``orderly``: the peer ended its side and may still read, so pending replies are delivered.
        """
        ...
