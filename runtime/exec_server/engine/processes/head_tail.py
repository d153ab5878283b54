"""The beginning and the end of an output of any length, in bounded memory.

The first half of the limit keeps what came first, the second half what came last; what lies between
is counted and dropped. As long as no more than the limit has come, nothing is missing.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Excerpt(msgspec.Struct, frozen=True):
    """The beginning and the end of an output, and how much lies between."""

    head: bytes
    omitted: int
    """Bytes between ``head`` and ``tail``; 0 if both together are the whole output."""
    tail: bytes


class HeadTail:
    """Keeps both ends of what one stream brings.

    Pieces are kept as they come, not copied, so that the end of a stream takes no memory besides
    that of an OutputLog which retains the same pieces.
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
        """``limit`` bounds both ends together, in bytes."""
        self._tail_limit = limit // 2
        self._head_room = limit - self._tail_limit
        self._head: list[bytes] = []
        self._head_bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._total = 0

    def append(self, data: bytes) -> None:
        """Take in what came next."""
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
        """The sum of the sizes of all retained pieces."""
        return self._head_bytes + self._tail_bytes

    def shrink(self, size: int) -> None:
        """Drop the oldest pieces of the end, but not the last one, until so many bytes are less.

        The beginning stays, but does not grow any more.
        """
        self._head_room = 0
        goal = self._tail_bytes - size
        while self._tail_bytes > goal and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())

    def excerpt(self) -> Excerpt:
        """Both ends as they are now."""
        head = b"".join(self._head)
        tail = b"".join(self._tail)
        tail = tail[max(0, len(tail) - self._tail_limit) :]
        return Excerpt(head, self._total - len(head) - len(tail), tail)
