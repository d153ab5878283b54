"""A reply whose base64 member is read, encoded and sent piece by piece.

A file of hundreds of megabytes never stands in memory, and the pieces stay small enough for the
processor's cache and the allocator's fast path.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, Protocol

import pybase64

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES: Final = 72 * 1024
"""Bytes read at a time: a multiple of 3, so that pieces join without padding, and below 96 KiB
when encoded, where the allocator does not yet map fresh pages for every object."""


class ByteSource(Protocol):
    """Sequential bytes, such as an open file."""

    def read(self, max_bytes: int, /) -> bytes:
        """The next bytes, at most ``max_bytes``; empty at the end."""
        ...

    def close(self) -> object:
        """Release the source."""
        ...


class StreamedBytes(bytes):
    """Stands for ``size`` bytes that are read from ``source`` only when they are sent.

    An empty ``bytes`` to whoever looks, so that it fits a model's field.
    """

    source: ByteSource
    size: int
    held_bytes: int = 0
    """Bytes of memory that the source takes."""

    @classmethod
    def of(cls, source: ByteSource, size: int) -> StreamedBytes:
        """The stand-in for exactly ``size`` bytes of ``source``."""
        instance = cls()
        instance.source = source
        instance.size = size
        return instance

    @classmethod
    def over(cls, data: bytes) -> StreamedBytes:
        """The stand-in for bytes at hand, so that they too are encoded in small pieces."""
        instance = cls.of(io.BytesIO(data), len(data))
        instance.held_bytes = len(data)
        return instance


class Base64Message:
    """A LongMessage: ``head``, the base64 text of a source, ``tail``.

    If the source turns out shorter than announced (a file was truncated meanwhile), the message
    ends early and is padded with the white space that JSON allows at its end.
    """

    def __init__(
        self, head: bytes, tail: bytes, content: StreamedBytes, on_finish: Callable[[], None]
    ) -> None:
        self._source = content.source
        self._raw_left = content.size
        self._next: bytes | None = head
        self._tail = tail
        self._on_finish = on_finish
        self.held_bytes = content.held_bytes
        self.length = len(head) + (content.size + 2) // 3 * 4 + len(tail)
        self._left = self.length

    def next_piece(self) -> bytes:
        """The next piece; see LongMessage."""
        if self._next is not None:
            piece, self._next = self._next, None
        elif self._raw_left > 0:
            piece = pybase64.b64encode(self._read())
        else:
            piece = self._tail + b" " * (self._left - len(self._tail))
        if not piece:
            return self.next_piece()
        self._left -= len(piece)
        return piece

    def _read(self) -> bytes:
        """Exactly one piece of the source, less only at its end."""
        wanted = min(PIECE_BYTES, self._raw_left)
        data = self._source.read(wanted)
        while len(data) < wanted:
            more = self._source.read(wanted - len(data))
            if not more:
                self._raw_left = 0
                return data
            data += more
        self._raw_left -= wanted
        return data

    def finish(self) -> None:
        """Close the source; see LongMessage."""
        self._source.close()
        self._on_finish()
