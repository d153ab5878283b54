"""The output of a process: sequence numbers, and what is retained for later reading.

One counter serves everything a process tells: every chunk of output, its exit and its closing
take the next number, from 1, without gaps (v1 and v2, process/output · exited · closed). Retained
are the newest chunks, as many as a limit allows and their sizes sum up to at most another; a chunk
is kept whole or not at all.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]

RETAINED_BYTES: Final = 1024 * 1024
"""Bytes retained per process over all its streams; every revision's value."""

RETAINED_CHUNKS: Final = 65_536
"""Chunks retained per process: one of a single byte takes about a hundred times its size."""

CHUNK_COST: Final = 160
"""Memory that a chunk takes on top of its bytes, with its places in the lists."""

_COMPACT_AFTER: Final = 1024
"""Evicted places that may lie at the front of the list before it is moved up: keeps eviction O(1)
without ever wasting more than half of a long list."""


class OutputChunk(msgspec.Struct, frozen=True):
    """What one read brought: its number, the stream it came from, and the bytes."""

    seq: int
    stream: StreamName
    data: bytes


_EVICTED: Final = OutputChunk(0, "stdout", b"")


class OutputLog:
    """Numbers the events of one process and retains its newest output."""

    __slots__ = ("_bytes", "_chunk_limit", "_chunks", "_evicted", "_gap", "_limit", "next_seq")

    def __init__(
        self, retained_bytes: int = RETAINED_BYTES, retained_chunks: int = RETAINED_CHUNKS
    ) -> None:
        self._limit = retained_bytes
        self._chunk_limit = retained_chunks
        self._bytes = 0
        self._chunks: list[OutputChunk] = []
        self._evicted = 0
        # The number of the last event among the chunks that was no output; see _index_after.
        self._gap = 0
        self.next_seq = 1
        """The number the next event will get."""

    @property
    def retained_bytes(self) -> int:
        """The sum of the sizes of all retained chunks."""
        return self._bytes

    @property
    def memory_bytes(self) -> int:
        """About what the retained chunks take in memory."""
        return self._bytes + CHUNK_COST * (len(self._chunks) - self._evicted)

    def append(self, stream: StreamName, data: bytes) -> OutputChunk:
        """Number a chunk and retain it, at the expense of the oldest."""
        chunk = OutputChunk(self.next_seq, stream, data)
        self.next_seq += 1
        self._chunks.append(chunk)
        self._bytes += len(data)
        if self._bytes > self._limit or len(self._chunks) - self._evicted > self._chunk_limit:
            self._evict()
        return chunk

    def shrink(self, size: int) -> None:
        """Drop the oldest chunks, but not the last one, until so much less memory is taken."""
        goal = self.memory_bytes - size
        while self.memory_bytes > goal and len(self._chunks) - self._evicted > 1:
            self._drop_oldest()
        self._compact()

    def take_seq(self) -> int:
        """Number an event that is no output. At most one may be followed by more output."""
        seq = self.next_seq
        self.next_seq += 1
        if not self._gap:
            self._gap = seq
        return seq

    def read(self, after_seq: int, max_bytes: int | None) -> list[OutputChunk]:
        """Retained chunks with a number above ``after_seq``, oldest first.

        The first is returned whatever its size; more follow while the sum of the sizes stays
        within ``max_bytes``, and none once the sum has reached it (v1, process/read).
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
        """The place of the first retained chunk above ``after_seq``.

        Numbers and places run in parallel, but for the one number that the exit has taken.
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
