"""Text from outside, made fit for a log or a terminal.

Names and messages of a peer may hold terminal escapes, line feeds and characters that reverse the
direction of text.
"""

from __future__ import annotations

import logging
import re
from typing import Final

MAX_LINE_CHARS: Final = 1000
"""Longest text of a log line: what a peer sends may have millions of characters."""

UNSAFE: Final = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1 controls, which terminals obey
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # undecodable bytes
    "]"
)
"""The characters that a terminal obeys instead of showing them, or that cannot be encoded."""


def printable(text: str, limit: int | None = None) -> str:
    """The text with everything escaped that a terminal would not show as a character.

    Undecodable bytes appear as ``\\xff``. Beyond ``limit`` characters the text is cut.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    return UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
        return self._prefix + printable(text, MAX_LINE_CHARS)
