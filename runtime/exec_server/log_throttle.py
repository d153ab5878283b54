"""Bound on how often one kind of event is logged: a flood must not fill the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES: Final = 20
PERIOD_SECONDS: Final = 10.0
"""At most so many messages in so many seconds: every event of an attempt made by hand, and at most
some 20 MB a day of a flood."""


class LogThrottle:
    """Decides which events of one kind are logged, and counts the others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns the time in seconds."""
        self._clock = clock
        self._period_ends = 0.0
        self._logged = 0
        self._suppressed = 0

    def admit(self) -> int | None:
        """Return the number of events suppressed before this one; None to suppress this one."""
        now = self._clock()
        if now >= self._period_ends:
            self._period_ends = now + PERIOD_SECONDS
            self._logged = 0
        if self._logged >= MESSAGES:
            self._suppressed += 1
            return None
        self._logged += 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
