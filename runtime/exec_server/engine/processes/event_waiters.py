"""Coroutines that wait for events of one process: the long polls."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

NO_OUTPUT: Final = 2**64
"""Cursor of a waiter interested only in the exit and the closing, not in output."""


class EventWaiters:
    """The waiters of one process, each with the number of the last event that it has seen."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    async def wait(self, after_seq: int, deadline: float | None) -> None:
        """Wait for an event above ``after_seq``, for ``wake_all``, or for the deadline."""
        woken = self._loop.create_future()
        waiter = (after_seq, woken)
        self._waiters.append(waiter)
        timer = None if deadline is None else self._loop.call_at(deadline, release, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()
            with contextlib.suppress(ValueError):  # already removed by a wake-up
                self._waiters.remove(waiter)

    def wake(self, seq: int) -> None:
        """Wake the waiters that have not seen event ``seq``."""
        waiters = self._waiters
        if not waiters:
            return
        self._waiters = [waiter for waiter in waiters if waiter[0] >= seq]
        for after_seq, woken in waiters:
            if after_seq < seq:
                release(woken)

    def wake_all(self) -> None:
        """Wake every waiter."""
        waiters, self._waiters = self._waiters, []
        for _, woken in waiters:
            release(woken)


def release(future: asyncio.Future[None]) -> None:
    """Complete a future unless it is done, for example cancelled."""
    if not future.done():
        future.set_result(None)
