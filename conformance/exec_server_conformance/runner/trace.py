"""Wire trace of a session: every message with its time, redacted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import TraceEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

Direction: TypeAlias = Literal["sent", "received"]

SHOWN_CHARACTERS = 800
"""Maximum length of a message in the trace; enough for all but bulk data."""

MAX_ENTRIES = 5000
"""Maximum number of messages in the trace, which bounds memory when a server floods."""


KEPT_BYTES = 16 << 20
"""Maximum number of bytes kept before they are redacted and truncated."""


class _Message(NamedTuple):
    seconds: float
    connection: str
    direction: Direction
    data: bytes


class Trace:
    """Messages of one session over all its connections, in order.

    Redaction is deferred until the trace is read: most sessions pass, and their traces are not
    read.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._redactor: Redactor | None = None
        self._entries: list[TraceEntry] = []
        self._pending: list[_Message] = []
        self._pending_bytes = 0
        self.last_received: int | None = None
        """Index of the latest message from the server; None if there is none."""

    def add(self, connection: str, direction: Direction, data: bytes) -> int:
        """Add a message and return its index."""
        index = len(self._entries) + len(self._pending)
        if index == MAX_ENTRIES:
            return index - 1
        seconds = round(time.monotonic() - self._begin, 6)
        self._pending.append(_Message(seconds, connection, direction, data))
        self._pending_bytes += len(data)
        if direction == "received":
            self.last_received = index
        if self._pending_bytes > KEPT_BYTES:
            self._flush()
        return index

    @property
    def redactor(self) -> Redactor:
        """Redactor that knows the secrets of all messages so far."""
        return self._flush()

    @property
    def entries(self) -> list[TraceEntry]:
        """Redacted messages."""
        self._flush()
        return self._entries

    def _flush(self) -> Redactor:
        """Redact pending messages in order, since earlier messages identify secrets."""
        if self._redactor is None:
            self._redactor = Redactor()
        for message in self._pending:
            shown = self._redactor.message(message.data.decode("utf-8", "replace"))
            self._entries.append(
                TraceEntry(
                    seconds=message.seconds,
                    connection=message.connection,
                    direction=message.direction,
                    text=shown[:SHOWN_CHARACTERS],
                    characters=len(shown),
                )
            )
        self._pending.clear()
        self._pending_bytes = 0
        return self._redactor


def lines(entries: list[TraceEntry]) -> Iterator[str]:
    """Format each entry as a line of text."""
    for entry in entries:
        arrow = "->" if entry.direction == "sent" else "<-"
        rest = "" if entry.characters == len(entry.text) else f"… ({entry.characters} characters)"
        yield f"{entry.seconds:8.3f} {entry.connection} {arrow} {entry.text}{rest}"
