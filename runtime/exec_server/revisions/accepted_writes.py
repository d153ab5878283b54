"""Deduplication of writes that a client may send again after it has reconnected."""

from __future__ import annotations

from collections import deque


class AcceptedWrites:
    """The most recent writes accepted for the processes of a session.

    A write is identified by an object that stands for its process and by the write's name.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[tuple[object, str | bytes]] = set()
        self._in_order: deque[tuple[object, str | bytes]] = deque()

    def __contains__(self, write: tuple[object, str | bytes]) -> bool:
        """Return True if the write was accepted and is still remembered."""
        return write in self._known

    def __len__(self) -> int:
        """Return the number of writes remembered."""
        return len(self._known)

    def add(self, write: tuple[object, str | bytes]) -> None:
        """Remember a write; beyond the limit the oldest one is forgotten."""
        self._known.add(write)
        self._in_order.append(write)
        if len(self._known) > self._limit:
            self._known.discard(self._in_order.popleft())
