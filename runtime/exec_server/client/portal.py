"""An event loop in a thread of its own, for callers that have none.

The synchronous client is generated from the asynchronous one; every call of it goes through here.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

T = TypeVar("T")
WrapperT = TypeVar("WrapperT")


class Portal:
    """Runs coroutines of any thread in the event loop of its own, until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="exec_server.client", daemon=True
        )
        self._thread.start()

    def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Await what ``make`` returns in the loop; returns or raises what comes of it.

        A caller that is interrupted, by Ctrl-C for example, cancels it.
        """

        async def run() -> T:
            return await make()

        if self.is_closed:
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in the loop's thread."""

        async def run() -> T:
            return function()

        return self.call(run)

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Step through an asynchronous iterator."""
        while True:
            try:
                yield self.call(iterator.__anext__)
            except StopAsyncIteration:
                return

    @property
    def is_closed(self) -> bool:
        """True once nothing can be run any more."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Stop the loop, and wait until its thread has ended."""
        if self.is_closed:
            return
        self.call(self._wind_down)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _wind_down(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


class BlockingContextManager(Generic[T, WrapperT]):
    """An asynchronous context manager as a plain one, whose value is wrapped."""

    def __init__(
        self,
        portal: Portal,
        manager: AbstractAsyncContextManager[T],
        wrap: Callable[[Portal, T], WrapperT],
    ) -> None:
        self._portal = portal
        self._manager = manager
        self._wrap = wrap

    def __enter__(self) -> WrapperT:
        return self._wrap(self._portal, self._portal.call(self._manager.__aenter__))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        return self._portal.call(lambda: self._manager.__aexit__(kind, error, traceback))
