"""Queued, non-blocking writes to a child's standard input.

A write of any size is accepted while less than the limit is queued; otherwise the writer waits. A
child that does not read delays only the writers to that child.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from exec_server.engine.memory_budget import MemoryBudget

WRITE_QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Queued bytes per process above which a writer waits: the released servers queue 128 writes, which
is as much for writes of 64 KiB (v1, process/write)."""

_WRITE_COST: Final = 64
"""Bytes counted per queued write besides its data, so that the number of tiny writes is bounded."""

_TURN_BYTES: Final = 64 * 1024
"""Bytes written per turn of the event loop, so that a fast reader does not delay other
processes."""


class StdinWriter:
    """The write queue of a pipe or terminal that a child reads its input from."""

    __slots__ = (
        "_fd",
        "_is_finishing",
        "_limit",
        "_loop",
        "_memory",
        "_offset",
        "_owns_fd",
        "_queue",
        "_queued",
        "_waiting",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        limit: int,
        memory: MemoryBudget,
        *,
        owns_fd: bool,
    ) -> None:
        """Write to ``fd``, which is non-blocking; close it with this writer if ``owns_fd``.

        Queued bytes count in ``memory``: without room there, writers wait.
        """
        self._memory = memory
        self._loop = loop
        self._fd = fd
        self._limit = limit
        self._owns_fd = owns_fd
        self._queue: deque[bytes] = deque()
        self._queued = 0
        # Bytes of the first queued write that have been written already.
        self._offset = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._is_finishing = False

    async def write(self, data: bytes) -> None:
        """Queue bytes, waiting for room if necessary.

        They are discarded if the child has closed its input. Raises the error passed to ``close``.
        """
        if self._fd < 0 or not data:
            return
        if not self._queue:
            self._enqueue(data)
            self._flush()
            if self._queue and self._fd >= 0:
                self._loop.add_writer(self._fd, self._flush)
        elif self._has_room(data):
            self._enqueue(data)
        else:
            await self._wait_for_room(data)

    def finish(self) -> None:
        """Close once all queued bytes are written; no write may follow."""
        if self._queue:
            self._is_finishing = True
        else:
            self.close()

    def close(self, error: Exception | None = None) -> None:
        """Discard queued bytes; waiting writers raise ``error``, or return if it is None."""
        if self._fd < 0:
            return
        if self._queue:
            self._loop.remove_writer(self._fd)
        if self._owns_fd:
            os.close(self._fd)
        self._fd = -1
        self._queue.clear()
        self._memory.release(self._queued)
        self._queued = 0
        while self._waiting:
            _, admitted = self._waiting.popleft()
            if not admitted.done():
                if error is None:
                    admitted.set_result(None)
                else:
                    admitted.set_exception(error)

    async def _wait_for_room(self, data: bytes) -> None:
        entry = (data, self._loop.create_future())
        self._waiting.append(entry)
        try:
            await entry[1]
        except BaseException:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise

    def _flush(self) -> None:
        """Write as much as the child's end accepts, at most _TURN_BYTES."""
        queue = self._queue
        share = _TURN_BYTES
        try:
            while queue:
                if share <= 0:
                    return
                data = queue[0]
                start = self._offset
                written = os.write(self._fd, memoryview(data)[start : start + share])
                share -= written
                self._offset += written
                if self._offset < len(data):
                    continue
                queue.popleft()
                self._offset = 0
                self._queued -= len(data) + _WRITE_COST
                self._memory.release(len(data) + _WRITE_COST)
                self._admit()
        except BlockingIOError:
            return
        except OSError:  # EPIPE, or EIO on a terminal: there is no reader left
            self.close()
            return
        self._loop.remove_writer(self._fd)
        if self._is_finishing:
            self.close()

    def _admit(self) -> None:
        """Queue the writes of waiting writers, in order, while there is room."""
        while self._waiting and (not self._queue or self._has_room(self._waiting[0][0])):
            data, admitted = self._waiting.popleft()
            if not admitted.done():
                self._enqueue(data)
                admitted.set_result(None)

    def _has_room(self, data: bytes) -> bool:
        """Return True if bytes may be added to a queue that is not empty."""
        return self._queued < self._limit and self._memory.has_room(len(data))

    def _enqueue(self, data: bytes) -> None:
        size = len(data) + _WRITE_COST
        self._queue.append(data)
        self._queued += size
        self._memory.add(size)
