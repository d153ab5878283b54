"""Texts for people: without control characters, and without secrets.

Names and messages of a server may hold terminal escapes, line feeds and characters that reverse the
direction of text. URLs and command lines of the user may hold credentials.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN: Final = "***"
"""Stands in place of a secret."""

TEXT_CHARACTERS: Final = 4096
"""Length to which a text is cut for display: any error message that is meant to be read fits."""

_UNSAFE: Final = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1 controls, which terminals obey
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # undecodable bytes
    "]"
)


def printable(text: str, limit: int | None = None) -> str:
    """The text with everything escaped that a terminal would not show as a character.

    Undecodable bytes appear as ``\\xff``. Beyond ``limit`` characters the text is cut.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    return _UNSAFE.sub(_escape, text)


def json_printable(text: str) -> str:
    """JSON with the same meaning whose strings hold nothing that a terminal would obey."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}" if match[0] != "\n" else "\n", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shown_url(url: str) -> str:
    """A URL without user information, query and fragment, which may hold credentials."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Not a URL, so where it holds what is unknown: only its scheme is safe to show.
        return f"{url.partition('://')[0]}://{HIDDEN}" if "://" in url else HIDDEN
    if not parts.scheme:
        return HIDDEN if "@" in url or "?" in url else url
    host = parts.netloc.rpartition("@")[2]
    user = f"{HIDDEN}@" if "@" in parts.netloc else ""
    query = f"?{HIDDEN}" if parts.query or parts.fragment else ""
    slashes = "//" if url[len(parts.scheme) :].startswith("://") else ""
    return f"{parts.scheme}:{slashes}{user}{host}{parts.path}{query}"


def shown_command(argv: Sequence[str]) -> str:
    """The program of a command line; arguments, which may hold credentials, are left out."""
    program = argv[0] if argv else ""
    name, equals, _ = program.partition("=")
    return f"{name}={HIDDEN}" if equals else program
