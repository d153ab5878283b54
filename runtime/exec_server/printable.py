"""Escaping of untrusted text for logs and terminals.

Text from a peer may contain terminal escape sequences, line feeds and characters that reverse the
direction of text.
"""

from __future__ import annotations

import logging
import re
from typing import Final

MAX_LINE_CHARS: Final = 1000
"""Maximum length of a log line: text from a peer may have millions of characters."""

UNSAFE: Final = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1 controls, which terminals obey
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # undecodable bytes
    "]"
)
"""Characters that a terminal interprets instead of showing them, or that cannot be encoded."""


def printable(text: str, limit: int | None = None) -> str:
    """Return the text with every character escaped that a terminal would not show as such.

    Undecodable bytes appear as ``\\xff``. Text beyond ``limit`` characters is cut off.
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
    """Formatter of log records as single printable lines of bounded length."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; an exception appears as its name and text, without a traceback."""
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        return self._prefix + printable(text, MAX_LINE_CHARS)
