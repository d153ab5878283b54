"""Retention of output and of closed processes: how long, and within how much memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

RETENTION_SECONDS: Final = 30.0
"""Seconds for which a closed process can still be read and keeps its id (v1 since 0.128, v2)."""


class Retained(Protocol):
    """A process, as far as its retention is concerned."""

    counted_bytes: int
    """Bytes that the retention has counted for it."""

    @property
    def id(self) -> str:
        """Id of the process."""

    @property
    def output_bytes(self) -> int:
        """Approximate memory of the retained output."""

    @property
    def fixed_bytes(self) -> int:
        """Approximate memory of the process without output."""

    def shrink(self, size: int) -> None:
        """Retain less output, to free about ``size`` bytes."""


class Retention:
    """Memory accounting of all processes of a table, and expiry of the closed ones."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        max_bytes: int,
        forget: Callable[[str], object],
    ) -> None:
        """Call ``forget`` with the id of each closed process that expires.

        A process expires ``seconds`` after it was added, or as soon as all together take more than
        ``max_bytes``, the oldest first.
        """
        self._loop = loop
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._forget = forget
        self._bytes = 0
        # Closed processes in the order of their expiry, with one timer for all of them.
        self._closed: deque[tuple[float, Retained]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """Approximate memory of all retained output, and of the closed processes."""
        return self._bytes

    def count_output(self, process: Retained) -> None:
        """Count new output of a process, and free memory beyond the limit.

        Closed processes are forgotten first; without any, the process retains less output.
        """
        self._recount(process)
        while self._bytes > self._max_bytes and self._closed:
            self._forget_oldest()
        if self._bytes > self._max_bytes:
            process.shrink(self._bytes - self._max_bytes)
            self._recount(process)

    def add_closed(self, process: Retained) -> None:
        """Retain a process that has closed until it expires."""
        deadline = self._loop.time() + self._seconds
        self._closed.append((deadline, process))
        self._bytes += process.fixed_bytes
        process.counted_bytes += process.fixed_bytes
        while self._bytes > self._max_bytes and len(self._closed) > 1:
            self._forget_oldest()
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._forget_expired)

    def close(self) -> None:
        """Stop the timer and drop all closed processes."""
        self._closed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _recount(self, process: Retained) -> None:
        size = process.output_bytes
        self._bytes += size - process.counted_bytes
        process.counted_bytes = size

    def _forget_expired(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._closed:
            deadline, _ = self._closed[0]
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._forget_expired)
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, process = self._closed.popleft()
        self._bytes -= process.counted_bytes
        self._forget(process.id)
