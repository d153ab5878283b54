"""Eager start of coroutines: a task is created only if the coroutine has to wait.

Most requests are answered without waiting for anything. A task for each would cost more than the
work itself, and would let later requests overtake earlier ones.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")


def start_eagerly(coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
    """Run a coroutine up to its first wait; return its result, or a task that continues it.

    What the coroutine raises before its first wait is raised here. Until that wait there is no
    current task, so ``asyncio.timeout`` and the like must not be its first step.
    """
    try:
        pending = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    rest = _continue(coroutine, pending)
    # Started, so that a cancellation before the task's first step reaches the coroutine.
    rest.send(None)
    return asyncio.get_running_loop().create_task(rest)


class _Yield:
    """Awaitable that yields ``value`` to the driver of the coroutine and returns its answer."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __await__(self) -> Generator[object, Any, Any]:
        return (yield self._value)


async def _continue(coroutine: Coroutine[Any, Any, T], pending: object) -> T:
    """Drive a coroutine that has already yielded ``pending``."""
    value: Any = None
    error: BaseException | None = None
    try:
        await _Yield(None)
    except BaseException as caught:
        # The task is not waiting for it yet, so it does not cancel it either.
        if isinstance(pending, asyncio.Future):
            pending.cancel()
        error = caught
    else:
        try:
            value = await _Yield(pending)
        except BaseException as caught:
            error = caught
    while True:
        try:
            pending = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        error = None
        try:
            value = await _Yield(pending)
        except BaseException as caught:
            error = caught
