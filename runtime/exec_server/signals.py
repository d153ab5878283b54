"""Signals told to an event loop, without what the loop itself would load for it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType


def on_signal(
    loop: asyncio.AbstractEventLoop, signum: signal.Signals, callback: Callable[[], object]
) -> Callable[[], None]:
    """Have a loop call back when a signal comes; returns what ends that.

    As ``loop.add_signal_handler``, which loads how functions are inspected, to refuse coroutines.
    Raises ValueError outside of the main thread.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    before = signal.signal(signum, handle)
    # System calls go on afterwards, but the one that the loop waits in, which returns.
    signal.siginterrupt(signum, False)

    def end() -> None:
        signal.signal(signum, signal.SIG_DFL if before is None else before)

    return end
