"""The wire as it went: every message of a session with its time, without secrets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import TraceEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

Direction: TypeAlias = Literal["sent", "received"]

SHOWN_CHARACTERS = 800
"""How much of a message is kept: enough for all but bulk data."""

MOST_ENTRIES = 5000
"""How many messages are kept; a server that floods must not fill the memory."""


KEPT_BYTES = 16 << 20
"""How much of the messages is kept as it came until somebody looks, or there is more."""


class _Message(NamedTuple):
    seconds: float
    connection: str
    direction: Direction
    data: bytes


class Trace:
    """The messages of one session, over all its connections, as they went.

    Secrets are taken out when somebody looks: most sessions pass, and nobody does.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._redactor: Redactor | None = None
        self._entries: list[TraceEntry] = []
        self._unread: list[_Message] = []
        self._unread_bytes = 0
        self.last_received: int | None = None
        """Index of the newest message of the server; None if there is none."""

    def add(self, connection: str, direction: Direction, data: bytes) -> int:
        """Note a message; returns its index."""
        index = len(self._entries) + len(self._unread)
        if index == MOST_ENTRIES:
            return index - 1
        seconds = round(time.monotonic() - self._begin, 6)
        self._unread.append(_Message(seconds, connection, direction, data))
        self._unread_bytes += len(data)
        if direction == "received":
            self.last_received = index
        if self._unread_bytes > KEPT_BYTES:
            self._read()
        return index

    @property
    def redactor(self) -> Redactor:
        """It knows the secrets that were in messages."""
        return self._read()

    @property
    def entries(self) -> list[TraceEntry]:
        """The messages without secrets."""
        self._read()
        return self._entries

    def _read(self) -> Redactor:
        """Take the secrets out of what has come; what came first tells what is one."""
        if self._redactor is None:
            self._redactor = Redactor()
        for message in self._unread:
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
        self._unread.clear()
        self._unread_bytes = 0
        return self._redactor


def lines(entries: list[TraceEntry]) -> Iterator[str]:
    """Each entry as a line of text."""
    for entry in entries:
        arrow = "->" if entry.direction == "sent" else "<-"
        rest = "" if entry.characters == len(entry.text) else f"… ({entry.characters} characters)"
        yield f"{entry.seconds:8.3f} {entry.connection} {arrow} {entry.text}{rest}"
