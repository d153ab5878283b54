"""Memory that is no longer used goes back to the system.

Answers that a client did not read, or output that nobody will ask for, can take hundreds of
megabytes for a while. The C library keeps what is freed of them if anything that lies above is
still in use, and so a server would stay as large as it once was. It is asked to give everything
back some time after connections and sessions have ended, if that is worth its while.

Only for a server that has its operating system process to itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

WAIT_SECONDS: Final = 5.0
"""How long after an end: many end together, and one search serves them all. It takes about a
millisecond for each 8 MiB that are given back."""

WORTH_BYTES: Final = 16 * 1024 * 1024
"""How far above the least that it has taken this process must be for anything to be done."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class UnusedMemory:
    """What the C library keeps of the memory that this process has freed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._least = resident_bytes()

    def give_back_soon(self) -> None:
        """Something that may have been large is no longer used."""
        if self._timer is None:
            self._timer = self._loop.call_later(WAIT_SECONDS, self._give_back)

    def close(self) -> None:
        """Do nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_back(self) -> None:
        self._timer = None
        if resident_bytes() < self._least + WORTH_BYTES:
            return
        _trim()
        # Not what is left now, much of which may be in use: when that ends there is more to give.
        self._least = min(self._least, resident_bytes())


def resident_bytes() -> int:
    """Memory that this process takes at the moment; 0 where it cannot be learned."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _trim() -> None:
    """malloc_trim(3), where the C library has it."""
    import ctypes  # noqa: PLC0415 (takes a while to load; no earlier than it is needed)

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
