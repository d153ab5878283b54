"""Texts for people without secrets, and JSON without terminal escapes.

URLs and command lines of the user may hold credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from exec_server.printable import UNSAFE

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN: Final = "***"
"""Stands in place of a secret."""

TEXT_CHARACTERS: Final = 4096
"""Length to which a text is cut for display: any error message that is meant to be read fits."""


def json_printable(text: str) -> str:
    """JSON with the same meaning whose strings hold nothing that a terminal would obey."""
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}" if match[0] != "\n" else "\n", text)


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
