"""Byte contents of results that are read only while the response is being sent."""

from __future__ import annotations

import io
from typing import Final, Protocol

PIECE_BYTES: Final = 72 * 1024
"""Bytes read at a time: a multiple of 3, so that encoded pieces join without padding, and below
96 KiB when encoded, where the allocator does not yet map fresh pages for every object."""


class ByteSource(Protocol):
    """Sequential bytes, such as an open file."""

    def read(self, max_bytes: int, /) -> bytes:
        """Return the next bytes, at most ``max_bytes``; empty at the end."""
        ...

    def close(self) -> object:
        """Release the source."""
        ...


class StreamedBytes(bytes):
    """Placeholder for ``size`` bytes that are read from ``source`` only when they are sent.

    It is an empty ``bytes`` object, so that it fits a field of a model.
    """

    source: ByteSource
    size: int
    held_bytes: int = 0
    """Bytes of memory that the source takes."""

    @classmethod
    def of(cls, source: ByteSource, size: int) -> StreamedBytes:
        """Return a placeholder for exactly ``size`` bytes of ``source``."""
        instance = cls()
        instance.source = source
        instance.size = size
        return instance

    @classmethod
    def over(cls, data: bytes) -> StreamedBytes:
        """Return a placeholder for bytes in memory, which are then encoded in pieces too."""
        instance = cls.of(io.BytesIO(data), len(data))
        instance.held_bytes = len(data)
        return instance
