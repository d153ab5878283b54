"""Return of freed memory to the operating system.

Unread responses and retained output can take hundreds of megabytes for a while. The C library keeps
freed memory if memory above it is still in use, so a server would stay as large as it once was.
Some time after connections and sessions have ended, the C library is asked to return all free
memory, if the process has grown considerably.

This is for servers that have an operating system process of their own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

WAIT_SECONDS: Final = 5.0
"""Delay after the end of a connection or session, as many end together. Returning memory takes
about a millisecond for every 8 MiB."""

WORTH_BYTES: Final = 16 * 1024 * 1024
"""Growth of the process above its smallest size from which memory is returned."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class UnusedMemory:
    """Freed memory of this process that the C library keeps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._least = resident_bytes()

    def give_back_soon(self) -> None:
        """Return memory in WAIT_SECONDS, as something that may have been large was freed."""
        if self._timer is None:
            self._timer = self._loop.call_later(WAIT_SECONDS, self._give_back)

    def close(self) -> None:
        """Cancel what is scheduled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_back(self) -> None:
        self._timer = None
        if resident_bytes() < self._least + WORTH_BYTES:
            return
        _trim()
        # Not simply the current size: much of it may be in use and freed later.
        self._least = min(self._least, resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if it is unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _trim() -> None:
    """Call malloc_trim(3) if the C library has it."""
    import ctypes  # noqa: PLC0415 (slow to import)

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
