"""Native paths and the ``file:`` URIs that stand for them in v2."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

_PLAIN: Final = "/!$&'()*+,;=:@-._~"
"""Characters of a URI's path that need no escape, besides letters and digits (RFC 3986)."""


def to_uri(path: str) -> str:
    """The URI of an absolute native path, whose undecodable bytes are surrogates."""
    return f"file://{quote_from_bytes(os.fsencode(path), _PLAIN)}"


def from_uri(uri: str) -> str:
    """The native path of a URI; bytes that are not UTF-8 become surrogates."""
    path = uri.removeprefix("file://")
    return os.fsdecode(unquote_to_bytes(path))
