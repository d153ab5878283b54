"""Text from outside, made fit for a log or a terminal."""

from __future__ import annotations

import logging
from typing import Final

MAX_LINE_CHARS: Final = 1000
"""Longest line of a log: what a peer sends may have millions of characters."""


def printable(text: str) -> str:
    """Return text on one line, with an escape in place of each character that is not printable.

    Nothing in it can begin another line, move a terminal's cursor or reverse the order of letters.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class OneLineFormatter(logging.Formatter):
    """Formats each record as one printable line of bounded length, whatever its arguments are."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. Of an exception there is the name and the text, but no traceback."""
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        if len(text) > MAX_LINE_CHARS:
            text = f"{text[:MAX_LINE_CHARS]}... ({len(text)} characters)"
        return self._prefix + printable(text)
