"""Computation away from the event loop: parsing and matching that takes more than milliseconds.

All of it has one thread, because Python runs one at a time anyway, and the event loop has to wait
for each of those that compute. What waits for files belongs elsewhere (``asyncio.to_thread``):
here, everything that is queued behind it would wait as well.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


async def compute(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what the function returns, or raise what it raises.

    It must come to an end by itself within seconds. It is not called if this is cancelled before
    its turn.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_executor(), partial(function, *args, **kwargs))


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
