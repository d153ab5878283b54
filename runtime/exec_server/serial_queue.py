"""One-at-a-time execution in order of arrival, for requests whose effects depend on order.

File system calls of a connection pass through one lane, and so does process/start, which may
depend on a file written just before. An idle lane runs its work at once and costs nothing. Work
that has queued up is done by turns, so that other connections are served in between, and only
while there is room for its answers.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

TURN_SECONDS: Final = 0.0005
"""Time for queued work before others on the event loop get their turn; as for what a stream
reads."""


class Lane:
    """A queue of work, of which at most one piece is under way."""

    def __init__(self, loop: AbstractEventLoop, has_room: Callable[[], bool]) -> None:
        """Queued work is left alone while ``has_room`` returns False; see ``advance``."""
        self._loop = loop
        self._has_room = has_room
        self._waiting: deque[Callable[[], bool]] = deque()
        self._held = False
        self._turn_comes = False

    @property
    def is_idle(self) -> bool:
        """True if nothing is under way or waiting."""
        return not (self._held or self._waiting)

    def submit(self, work: Callable[[], bool]) -> None:
        """Run ``work`` when everything submitted before is done.

        ``work`` returns True if it is still under way; its end is then told by ``release``.
        """
        if self._held or self._waiting:
            self._waiting.append(work)
        else:
            self._held = work()

    def release(self) -> None:
        """The piece of work under way is done."""
        self._held = False
        self.advance()

    def advance(self) -> None:
        """Go on with what waits; also to be called when there is room again."""
        end = time.monotonic() + TURN_SECONDS
        while self._waiting and not (self._held or self._turn_comes) and self._has_room():
            self._held = self._waiting.popleft()()
            if time.monotonic() >= end:
                self._turn_comes = True
                self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn_comes = False
        self.advance()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
