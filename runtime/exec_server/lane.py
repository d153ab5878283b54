"""One-at-a-time execution in order of arrival, for requests whose effects depend on order.

File system calls of a connection pass through one lane, and so does process/start, which may
depend on a file written just before. An idle lane runs its work at once and costs nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Lane:
    """A queue of work, of which at most one piece is under way."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], bool]] = deque()
        self._held = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self._held

    def submit(self, work: Callable[[], bool]) -> None:
        """Run ``work`` when everything submitted before is done.

        ``work`` returns True if it is still under way; its end is then told by ``release``.
        """
        if self._held:
            self._waiting.append(work)
        else:
            self._held = work()

    def release(self) -> None:
        """The piece of work under way is done."""
        self._held = False
        while self._waiting and not self._held:
            self._held = self._waiting.popleft()()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
