"""One-at-a-time execution in order of arrival, for requests whose effects depend on order.

The file system calls of a connection pass through one queue, and so does process/start, which may
depend on a file written just before. If the queue is idle, work runs at once and costs nothing
extra. Queued work runs in slices, so that other connections are served in between, and only while
there is room for its responses.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

TURN_SECONDS: Final = 0.0005
"""Time for queued work before the event loop serves others; the same as for the input of a
stream."""


class SerialQueue:
    """A queue with one slot: at most one piece of work is in flight."""

    def __init__(self, loop: AbstractEventLoop, has_room: Callable[[], bool]) -> None:
        """Queued work waits while ``has_room`` returns False; see ``advance``."""
        self._loop = loop
        self._has_room = has_room
        self._pending: deque[Callable[[], bool]] = deque()
        self._is_occupied = False
        self._is_turn_scheduled = False

    @property
    def is_idle(self) -> bool:
        """True if nothing is in flight or pending."""
        return not (self._is_occupied or self._pending)

    def submit(self, work: Callable[[], bool]) -> None:
        """Run ``work`` when everything submitted before is done.

        ``work`` returns True if it keeps the slot, until ``release_slot`` is called.
        """
        if self._is_occupied or self._pending:
            self._pending.append(work)
        else:
            self._is_occupied = work()

    def release_slot(self) -> None:
        """Mark the work in flight as done."""
        self._is_occupied = False
        self.advance()

    def advance(self) -> None:
        """Run pending work; must also be called when there is room again."""
        end = time.monotonic() + TURN_SECONDS
        while self._pending and not (self._is_occupied or self._is_turn_scheduled):
            if not self._has_room():
                return
            self._is_occupied = self._pending.popleft()()
            if time.monotonic() >= end:
                self._is_turn_scheduled = True
                self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_turn_scheduled = False
        self.advance()

    def clear(self) -> None:
        """Drop pending work."""
        self._pending.clear()
