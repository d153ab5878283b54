"""Interfaces between a transport and a connection.

A transport is responsible for bytes: framing, limits, flow control and closing. It delivers whole
messages to a Receiver and accepts whole messages through the Channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG_MESSAGE_BYTES: Final = 32 * 1024
"""Size from which a message is delivered in parts. A shorter one is processed in one go, which
takes a few milliseconds at most; nearly all messages are far below it."""


class StreamedMessage(Protocol):
    """A message that is produced piece by piece while it is being sent.

    ``length`` is known before the first piece, because the frame header contains it; the pieces
    add up to exactly that many bytes.
    """

    length: int
    held_bytes: int
    """Bytes of memory that the message takes until it is finished; 0 if it is read from a file."""

    def next_piece(self) -> bytes:
        """Return the next piece, never empty, until ``length`` bytes have been returned.

        Raises OSError if the rest cannot be produced; the connection must then be dropped.
        """
        ...

    def finish(self) -> None:
        """Release resources; called once, after the last piece or when the connection is lost."""
        ...


class Channel(Protocol):
    """The sending side of a transport, as a connection sees it."""

    peer: str
    """Name of the peer in messages for people: ``exec-server websocket 127.0.0.1:4711``."""

    message_kind: str
    """Name of the messages in errors about malformed ones; as in the released servers."""

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far; while the number grows, the peer is reading."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent."""
        ...

    def send_reply(self, pieces: Sequence[bytes]) -> None:
        """Queue one message, in pieces, ahead of every queued notification."""
        ...

    def send_streamed_reply(self, message: StreamedMessage) -> None:
        """Queue one message that is produced while it is sent, like a reply."""
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
        """Send what is queued, then close; ``violation`` if the peer broke the protocol."""
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
        """Answer input that is not a message, with id -1.

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
        """Handle the end of input: no more messages will be delivered.

        ``orderly`` if the peer ended its side and may still read, so that pending responses are
        still sent.
        """
        ...
