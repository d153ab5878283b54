"""Ending work in a thread early, once the client that asked for it has gone.

A thread cannot be cancelled from outside. Work that may take long asks between its steps whether
it is still wanted.
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
    """Run ``work`` in a thread; a cancellation makes its next ``check_cancelled`` raise.

    The thread is one of the event loop's own unless another executor is given.
    """
    cancelled = threading.Event()

    def run() -> R:
        _cancelled.set(cancelled)  # in a context of its own
        return work()

    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, contextvars.copy_context().run, run)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def check_cancelled() -> None:
    """Raise OperationFailed if the work of this thread is no longer wanted."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise OperationFailed("the operation was cancelled")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore a cancellation: what is done within must be finished once it has begun."""
    token = _cancelled.set(None)
    try:
        yield
    finally:
        _cancelled.reset(token)
