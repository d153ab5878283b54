"""Run a coroutine at once, and make it a task only if it has to wait.

Most requests are answered without waiting for anything. A task for each would cost more than the
work itself, and would let later requests overtake earlier ones.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

T = TypeVar("T")


def run_until_blocked(coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
    """Run to the first wait; return the result, or a task that goes on from there.

    What the coroutine raises before its first wait is raised here. Until that wait there is no
    current task, so ``asyncio.timeout`` and the like must not be its first step.
    """
    try:
        pending = coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    rest = _continue(coroutine, pending)
    # Primed, so that a cancellation before the task's first step reaches the coroutine.
    rest.send(None)
    return asyncio.get_running_loop().create_task(rest)


class _Yield:
    """Awaiting it hands ``value`` to whoever drives the coroutine, and returns the answer."""

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
        # The task has not come to wait for it yet, so it does not cancel it either.
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
