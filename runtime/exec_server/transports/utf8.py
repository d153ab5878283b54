"""Validation of UTF-8 without a decoded copy of the whole."""

from __future__ import annotations

import codecs
from typing import Final

_PIECE_BYTES: Final = 1024 * 1024
"""Bytes decoded at a time: a text takes up to four times its size when it is decoded."""


def first_invalid_byte(data: bytes) -> int | None:
    """Return the position of the first byte that is no UTF-8; None if there is none."""
    if data.isascii():
        return None
    decoder = codecs.getincrementaldecoder("utf-8")()
    with memoryview(data) as view:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            begun = len(decoder.getstate()[0])  # of a character that the last piece has cut
            try:
                decoder.decode(piece, final=start + len(piece) == len(data))
            except UnicodeDecodeError as error:
                return start - begun + error.start
    return None
