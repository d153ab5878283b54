"""The wire as it went: every message of a session with its time, without secrets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from exec_server_conformance.redaction import Redactor
from exec_server_conformance.results import TraceEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_CHARACTERS = 800
"""How much of a message is kept: enough for all but bulk data."""

MOST_ENTRIES = 5000
"""How many messages are kept; a server that floods must not fill the memory."""


class Trace:
    """The messages of one session, over all its connections, as they went."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.redactor = Redactor()
        self.entries: list[TraceEntry] = []

    def add(self, connection: str, direction: Literal["sent", "received"], data: bytes) -> int:
        """Note a message; returns its index."""
        if len(self.entries) < MOST_ENTRIES:
            self.entries.append(self._entry(connection, direction, data))
        return len(self.entries) - 1

    @property
    def last_received(self) -> int | None:
        """Index of the newest message of the server; None if there is none."""
        indices = range(len(self.entries) - 1, -1, -1)
        return next((one for one in indices if self.entries[one].direction == "received"), None)

    def _entry(
        self, connection: str, direction: Literal["sent", "received"], data: bytes
    ) -> TraceEntry:
        shown = self.redactor.message(data.decode("utf-8", "replace"))
        return TraceEntry(
            seconds=round(time.monotonic() - self._begin, 6),
            connection=connection,
            direction=direction,
            text=shown[:SHOWN_CHARACTERS],
            characters=len(shown),
        )


def lines(entries: list[TraceEntry]) -> Iterator[str]:
    """Each entry as a line of text."""
    for entry in entries:
        arrow = "->" if entry.direction == "sent" else "<-"
        rest = "" if entry.characters == len(entry.text) else f"… ({entry.characters} characters)"
        yield f"{entry.seconds:8.3f} {entry.connection} {arrow} {entry.text}{rest}"
