"""Cooperative cancellation of work in threads, for instance when a client disconnects.

A thread cannot be cancelled from outside, so long-running work calls ``check_cancelled`` between
its steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

R = TypeVar("R")

_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


async def run_in_thread(work: Callable[[], R], executor: Executor | None = None) -> R:
    """Run ``work`` in a thread; after a cancellation its next ``check_cancelled`` raises.

    The default executor is that of the event loop.
    """
    cancelled = threading.Event()

    def run() -> R:
        _cancelled.set(cancelled)  # in a copy of the context
        return work()

    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, contextvars.copy_context().run, run)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def check_cancelled() -> None:
    """Raise OperationFailed if the work of this thread was cancelled."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise OperationFailed("the operation was cancelled")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore cancellation within the block, for steps that must not be left unfinished."""
    token = _cancelled.set(None)
    try:
        yield
    finally:
        _cancelled.reset(token)
