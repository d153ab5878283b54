"""Waiting, within bounds, for what happens outside of the event loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.targets import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable


async def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes to hold in time."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"
