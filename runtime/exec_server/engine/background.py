"""Computation away from the event loop: parsing and matching that takes more than milliseconds.

All of it has one thread, because Python runs one at a time anyway, and the event loop has to wait
for each of those that compute. What waits for files belongs elsewhere (``asyncio.to_thread``):
here, everything that is queued behind it would wait as well.
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
    """Return what the function returns, or raise what it raises.

    It must end by itself within seconds. It is not called if this is cancelled before its turn, and
    ends early if it checks for that (see ``cancellation``).
    """
    return await run_in_thread(partial(function, *args, **kwargs), _executor())


@cache
def _executor() -> ThreadPoolExecutor:
    # Loaded when it is needed, which for most servers is never.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
