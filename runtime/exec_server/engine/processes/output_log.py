"""The output log of a process: sequence numbers, and the chunks retained for reading.

All events of a process share one counter: each chunk of output, the exit and the closing take the
next number, from 1, without gaps (v1 and v2, process/output · exited · closed). The most recent
chunks are retained, up to a number of chunks and a number of bytes; a chunk is retained whole or
not at all.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]

RETAINED_BYTES: Final = 1024 * 1024
"""Bytes retained per process, all streams together; the value of every revision."""

RETAINED_CHUNKS: Final = 65_536
"""Chunks retained per process: a chunk of one byte takes more than a hundred bytes of memory."""

CHUNK_COST: Final = 160
"""Bytes of memory per chunk besides its data, list entries included."""

_COMPACT_AFTER: Final = 1024
"""Evicted entries at the front of the list before it is compacted: keeps eviction O(1) amortised
and wastes at most half of a long list."""


class OutputChunk(msgspec.Struct, frozen=True):
    """The data of one read, with its sequence number and stream."""

    seq: int
    stream: StreamName
    data: bytes


_EVICTED: Final = OutputChunk(0, "stdout", b"")


class OutputLog:
    """Numbers the events of one process and retains its most recent output."""

    __slots__ = ("_bytes", "_chunk_limit", "_chunks", "_evicted", "_gap", "_limit", "next_seq")

    def __init__(
        self, retained_bytes: int = RETAINED_BYTES, retained_chunks: int = RETAINED_CHUNKS
    ) -> None:
        self._limit = retained_bytes
        self._chunk_limit = retained_chunks
        self._bytes = 0
        self._chunks: list[OutputChunk] = []
        self._evicted = 0
        # Number of the event among the chunks that is not output; see _index_after.
        self._gap = 0
        self.next_seq = 1
        """Number of the next event."""

    @property
    def retained_bytes(self) -> int:
        """Total size of all retained chunks."""
        return self._bytes

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the retained chunks."""
        return self._bytes + CHUNK_COST * (len(self._chunks) - self._evicted)

    def append(self, stream: StreamName, data: bytes) -> OutputChunk:
        """Number a chunk and retain it; evict the oldest beyond the limits."""
        chunk = OutputChunk(self.next_seq, stream, data)
        self.next_seq += 1
        self._chunks.append(chunk)
        self._bytes += len(data)
        if self._bytes > self._limit or len(self._chunks) - self._evicted > self._chunk_limit:
            self._evict()
        return chunk

    def shrink(self, size: int) -> None:
        """Drop the oldest chunks, except the last one, to free ``size`` bytes of memory."""
        goal = self.memory_bytes - size
        while self.memory_bytes > goal and len(self._chunks) - self._evicted > 1:
            self._drop_oldest()
        self._compact()

    def take_seq(self) -> int:
        """Number an event that is not output. Output may follow the first such event only."""
        seq = self.next_seq
        self.next_seq += 1
        if not self._gap:
            self._gap = seq
        return seq

    def read(self, after_seq: int, max_bytes: int | None) -> list[OutputChunk]:
        """Return the retained chunks numbered above ``after_seq``, oldest first.

        The first chunk is returned whatever its size, further ones while the total stays within
        ``max_bytes`` (v1, process/read).
        """
        chunks = self._chunks
        start = self._index_after(after_seq)
        if max_bytes is None or max_bytes >= self._bytes:
            return chunks[start:]
        end = start
        total = 0
        while end < len(chunks):
            total += len(chunks[end].data)
            if total > max_bytes and end > start:
                break
            end += 1
        return chunks[start:end]

    def _index_after(self, after_seq: int) -> int:
        """Return the index of the first retained chunk above ``after_seq``.

        Numbers and indexes differ by a constant, except for the number taken by the exit.
        """
        if self._evicted == len(self._chunks):
            return self._evicted
        first = self._chunks[self._evicted].seq
        offset = after_seq + 1 - first
        if first < self._gap <= after_seq:
            offset -= 1
        return min(self._evicted + max(offset, 0), len(self._chunks))

    def _evict(self) -> None:
        while self._bytes > self._limit or len(self._chunks) - self._evicted > self._chunk_limit:
            self._drop_oldest()
        self._compact()

    def _drop_oldest(self) -> None:
        self._bytes -= len(self._chunks[self._evicted].data)
        self._chunks[self._evicted] = _EVICTED
        self._evicted += 1

    def _compact(self) -> None:
        if self._evicted > _COMPACT_AFTER and self._evicted * 2 > len(self._chunks):
            del self._chunks[: self._evicted]
            self._evicted = 0
