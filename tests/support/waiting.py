"""Bounded waits for conditions that no event announces."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 60.0
"""Seconds until something that must happen counts as missing: what takes milliseconds on an idle
machine takes several seconds on one with twenty busy processes per core."""

RUN_SECONDS: Final = 600.0
"""Seconds until a program that works for a while (a generator, a suite) counts as hung."""

_POLL_SECONDS: Final = 0.01
"""Polling interval: short beside a start of a process, long beside a look into /proc."""


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Block until a condition holds; return False if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


async def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Let the event loop run until a condition holds; return False if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def is_gone(pid: int) -> bool:
    """Return True if a process has exited (also if it is a zombie)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"
