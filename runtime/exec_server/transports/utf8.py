"""Validation of UTF-8 in text that is whole or arrives in pieces."""

from __future__ import annotations

import codecs


def first_invalid_byte(data: bytes) -> int | None:
    """Return the position of the first byte that is not UTF-8 in a short text, or None."""
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return error.start
    return None


class InvalidUtf8(ValueError):
    """A text is not UTF-8; ``position`` is the offset of the first invalid byte."""

    def __init__(self, position: int) -> None:
        super().__init__(f"invalid UTF-8 at byte {position}")
        self.position = position


class Utf8Check:
    """Incremental check of one text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._position = 0
        self._cut = 0

    def feed(self, piece: bytes, *, is_last: bool) -> None:
        """Check the next bytes; a piece may end within a character. Raises InvalidUtf8."""
        if self._cut or not piece.isascii():
            try:
                self._decoder.decode(piece, is_last)
            except UnicodeDecodeError as error:
                raise InvalidUtf8(self._position - self._cut + error.start) from None
            self._cut = len(self._decoder.getstate()[0])
        self._position += len(piece)
