"""Computation in a background thread: parsing and matching that takes more than milliseconds.

There is a single thread, because Python executes one thread at a time, and each one that computes
delays the event loop. Operations that wait for files belong into other threads
(``asyncio.to_thread``): here they would delay all computations behind them.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from exec_server.engine.cancellation import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
R = TypeVar("R")


async def compute(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in the background thread and return its result.

    The function must finish within seconds. It is not called if this is cancelled before it is
    started, and can check for a later cancellation (see ``cancellation``).
    """
    return await run_in_thread(partial(function, *args, **kwargs), _executor())


@cache
def _executor() -> ThreadPoolExecutor:
    # Most servers never need it.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
