"""Signal handlers for an event loop, without the modules that asyncio loads for its own."""

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
    """Call ``callback`` on the loop when a signal arrives; return a function that undoes it.

    It does the same as ``loop.add_signal_handler``, which imports ``inspect`` to refuse coroutines.
    Raises ValueError outside of the main thread.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)

    before = signal.signal(signum, handle)
    # Interrupted system calls are resumed, except for the one that the loop waits in.
    signal.siginterrupt(signum, False)

    def end() -> None:
        signal.signal(signum, signal.SIG_DFL if before is None else before)

    return end
