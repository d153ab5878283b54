"""Head and tail of an output of any length, in bounded memory.

The first half of the limit holds the first bytes, the second half the last ones; the bytes between
them are counted and dropped. An output within the limit is retained completely.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Excerpt(msgspec.Struct, frozen=True):
    """Head and tail of an output, and the number of bytes between them."""

    head: bytes
    omitted: int
    """Bytes between ``head`` and ``tail``; 0 if the output is complete."""
    tail: bytes


class HeadTail:
    """Head and tail of one stream.

    Chunks are kept without copying, so the tail takes no memory beyond that of an OutputLog that
    retains the same chunks.
    """

    __slots__ = (
        "_head",
        "_head_bytes",
        "_head_room",
        "_tail",
        "_tail_bytes",
        "_tail_limit",
        "_total",
    )

    def __init__(self, limit: int) -> None:
        """Retain at most ``limit`` bytes, head and tail together."""
        self._tail_limit = limit // 2
        self._head_room = limit - self._tail_limit
        self._head: list[bytes] = []
        self._head_bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._total = 0

    def append(self, data: bytes) -> None:
        """Append a chunk."""
        self._total += len(data)
        if self._head_room:
            first = data[: self._head_room]
            self._head.append(first)
            self._head_room -= len(first)
            self._head_bytes += len(first)
            data = data[len(first) :]
            if not data:
                return
        tail = self._tail
        tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(tail[0]) >= self._tail_limit:
            self._tail_bytes -= len(tail.popleft())
            if not tail:
                return

    @property
    def retained_bytes(self) -> int:
        """Total size of all retained chunks."""
        return self._head_bytes + self._tail_bytes

    def shrink(self, size: int) -> None:
        """Drop the oldest chunks of the tail, except the last one, to free ``size`` bytes.

        The head is kept, but does not grow any more.
        """
        self._head_room = 0
        goal = self._tail_bytes - size
        while self._tail_bytes > goal and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())

    def excerpt(self) -> Excerpt:
        """Return the current head and tail."""
        head = b"".join(self._head)
        tail = b"".join(self._tail)
        tail = tail[max(0, len(tail) - self._tail_limit) :]
        return Excerpt(head, self._total - len(head) - len(tail), tail)
