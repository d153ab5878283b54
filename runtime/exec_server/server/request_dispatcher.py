"""The requests of one connection: their order, their limits and their tasks.

A request runs at once and is answered as soon as it is done, so one that waits delays no other.
Serialized requests (file system calls and process starts) keep their order of arrival: they pass
through one queue. So does a request about a process whose start is still queued there.

Memory that a pending request takes counts against the client's budget. A request that exceeds a
limit is refused, but one that only waits for its turn in the queue is not: instead, nothing more is
read from a client that has queued too much.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from exec_server.errors import InvalidRequest
from exec_server.tasks import start_eagerly

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.engine.memory_budget import MemoryBudget
    from exec_server.serial_queue import SerialQueue
    from exec_server.server.request import Request
    from exec_server.server.response_writer import ResponseWriter
    from exec_server.settings import Settings

_QUEUE_SHARE: Final = 4
"""Part of the memory budget that queued requests may take before no more are read. They are not
refused, so there must be enough left for everything else."""


class RequestDispatcher:
    """Runs requests, and has their results and failures sent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        writer: ResponseWriter,
        queue: SerialQueue,
        on_full: Callable[[bool], None],
    ) -> None:
        """``queue`` is for serialized requests.

        ``on_full`` is called with True when they take too much memory, with False when they no
        longer do.
        """
        self._loop = loop
        self._settings = settings
        self._writer = writer
        self._queue = queue
        self._on_full = on_full
        self._memory: MemoryBudget | None = None
        self._is_shutting_down = False
        self._queued_bytes = 0
        self._queued_starts: dict[str, int] = {}
        self._slot_released = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    @property
    def has_requests(self) -> bool:
        """True if a request is in flight or queued."""
        return bool(self._tasks) or not self._queue.is_idle

    @property
    def is_idle(self) -> bool:
        """True if, besides, no body is being sent to the peer."""
        return not (self._streams or self.has_requests)

    @property
    def memory(self) -> MemoryBudget:
        """The client's budget; set when the session is opened."""
        assert self._memory is not None
        return self._memory

    @memory.setter
    def memory(self, memory: MemoryBudget) -> None:
        self._memory = memory

    def shut_down(self) -> None:
        """Accept only requests about processes that exist already."""
        self._is_shutting_down = True

    def track(self, stream: asyncio.Task[None]) -> None:
        """Count a task that goes on sending after the response."""
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)

    def release_slot(self) -> None:
        """Let requests behind the one that is running start before it is done."""
        self._slot_released = True

    def check_limits(self, request: Request) -> None:
        """Raise InvalidRequest for a request that may not be started now."""
        method = request.method
        if self._is_shutting_down and not method.about_process:
            raise InvalidRequest("the server is shutting down")
        if not method.may_wait:
            return
        allowed = self._settings.max_requests
        if len(self._tasks) + len(self._streams) >= allowed:
            raise InvalidRequest(f"at most {allowed} requests of a connection may wait at a time")
        # A single one is bounded by the limit of a message; serialized ones have to wait.
        if not method.serialized:
            held = self.memory.held_bytes
            # Weighing takes longer than this for nearly all requests, which are far from the limit.
            if held and held + request.greatest_weight > self.memory.max_bytes:
                self.memory.check_room(request.weigh(self._settings))

    def dispatch(self, request: Request) -> None:
        """Start a request now, or when everything that it must not overtake is done."""
        method = request.method
        if method.serialized:
            if self._queue.is_idle:
                self._queue.submit(lambda: self._run(request, holds_slot=True))
            else:
                self._enqueue_serialized(request)
        elif (
            self._queued_starts
            and getattr(request.params, "process_id", None) in self._queued_starts
        ):
            # It names a process whose start is still queued.
            self._enqueue(request, lambda: self._run(request, holds_slot=False))
        else:
            self._run(request, holds_slot=False)

    def _enqueue_serialized(self, request: Request) -> None:
        starts = self._queued_starts
        started_id: str | None = None
        if request.method.starts_process:
            started_id = request.params.process_id
            starts[started_id] = starts.get(started_id, 0) + 1

        def run() -> bool:
            if started_id is not None:
                starts[started_id] -= 1
                if not starts[started_id]:
                    del starts[started_id]
            return self._run(request, holds_slot=True)

        self._enqueue(request, run)

    def _enqueue(self, request: Request, run: Callable[[], bool]) -> None:
        """Queue a request; if too much memory is queued, the peer has to wait.

        The request is not refused: a client that sends many files at once has done nothing wrong,
        and the queue moves on by itself.
        """
        limit = self._settings.max_held_bytes // _QUEUE_SHARE
        size = request.weigh(self._settings)
        memory = self.memory

        def run_in_turn() -> bool:
            was_full = self._queued_bytes > limit
            self._queued_bytes -= size
            memory.release(size)
            if was_full and self._queued_bytes <= limit:
                self._on_full(False)
            return run()

        self._queued_bytes += size
        memory.add(size)
        if self._queued_bytes > limit >= self._queued_bytes - size:
            self._on_full(True)
        self._queue.submit(run_in_turn)

    def _run(self, request: Request, *, holds_slot: bool) -> bool:
        """Run a request; True if it holds the slot beyond this call."""
        self._slot_released = False
        try:
            outcome = start_eagerly(request.method.call(request.params))
        except Exception as error:  # every failure has a response
            self._writer.send_failure(request, error)
            return False
        if not isinstance(outcome, asyncio.Task):
            return self._writer.send_result(request, outcome, holds_slot=holds_slot)
        self._tasks.add(outcome)
        size = request.weigh(self._settings)
        memory = self.memory
        memory.add(size)
        holds_slot = holds_slot and not self._slot_released

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            memory.release(size)
            is_streamed = False
            if not task.cancelled():
                failure = task.exception()
                if failure is None:
                    result = task.result()
                    is_streamed = self._writer.send_result(request, result, holds_slot=holds_slot)
                else:
                    self._writer.send_failure(request, failure)
            if holds_slot and not is_streamed:
                self._queue.release_slot()

        outcome.add_done_callback(done)
        return holds_slot

    # The end

    async def wait_for_progress(self, poll_seconds: float, max_seconds: float) -> None:
        """Wait until a request is done, at most ``max_seconds``.

        If there is only a response that is being sent, wait ``poll_seconds``.
        """
        self._queue.advance()
        waiting = self._tasks or {self._loop.create_task(asyncio.sleep(poll_seconds))}
        await asyncio.wait(waiting, timeout=max_seconds, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """Cancel every request in flight and drop those that are queued."""
        self._queue.clear()
        if self._memory is not None:
            self._memory.release(self._queued_bytes)
        self._queued_bytes = 0
        for task in list(self._tasks):
            task.cancel()

    async def aclose(self) -> None:
        """Cancel every request and wait until none is left."""
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
