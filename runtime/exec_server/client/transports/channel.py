"""The interface between a transport and the connection above it, on the client's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exec_server.transports.channel import Receiver


class Transport(Protocol):
    """An open way to one server; it gives whole messages to a Receiver."""

    @property
    def peer(self) -> str:
        """The server, as errors name it: ``ws://127.0.0.1:4711``, ``stdio:codex exec-server``."""
        ...

    @property
    def end_reason(self) -> str:
        """Reason why the connection ended; empty while it is open."""
        ...

    @property
    def has_violated(self) -> bool:
        """True if the server broke the framing of the transport, or a limit of this client."""
        ...

    def limit_messages(self, max_bytes: int) -> None:
        """Take no messages of more than this many bytes from now on."""
        ...

    def send(self, message: bytes, *, at_once: bool = False) -> None:
        """Queue one message; ``at_once``: others are not likely to follow in the same turn."""
        ...

    def pause_receiving(self) -> None:
        """Leave what the server sends where it is, so that it slows down in the end."""
        ...

    def resume_receiving(self) -> None:
        """Go on reading."""
        ...

    def close(self) -> None:
        """Send what is queued, then end the connection; the receiver is told if it was not."""
        ...

    def abort(self) -> None:
        """End the connection now, whatever is queued."""
        ...

    async def wait_closed(self) -> None:
        """Return when nothing of the connection is left, no process either."""
        ...


class Dialer(Protocol):
    """A way to connect, again and again where a session outlives its connection."""

    @property
    def target(self) -> str:
        """Name of the peer in error messages."""
        ...

    @property
    def can_resume(self) -> bool:
        """True if a session may outlive a connection of this kind."""
        ...

    async def dial(self, receiver: Receiver) -> Transport:
        """Connect. Raises ConnectFailed; the caller bounds the time."""
        ...
