"""Bytes on their way to a child, in order, without ever waiting for the child to read them.

A write is taken at once while less than a limit is queued, however large it is itself, so one big
write passes and a child that does not read holds up no more than whoever writes to it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from exec_server.engine.memory_budget import MemoryBudget

WRITE_QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Bytes queued for one process above which a writer waits; what the real servers' 128 places hold
when they are filled with 64 KiB each (v1, process/write)."""

_WRITE_COST: Final = 64
"""Bytes that a queued write counts on top of its own, so that tiny ones are bounded as well."""

_TURN_BYTES: Final = 64 * 1024
"""Bytes written in one turn: a child that reads as fast as we write must not hold up the others."""


class StdinWriter:
    """The queue in front of a pipe or terminal that a child reads its input from."""

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
        """``fd`` is non-blocking; it is closed with this writer if ``owns_fd``.

        What is queued counts in ``memory``: without room there, nothing is added to a queue.
        """
        self._memory = memory
        self._loop = loop
        self._fd = fd
        self._limit = limit
        self._owns_fd = owns_fd
        self._queue: deque[bytes] = deque()
        self._queued = 0
        # How much of the first piece in the queue the child's pipe has taken.
        self._offset = 0
        self._waiting: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._is_finishing = False

    async def write(self, data: bytes) -> None:
        """Queue bytes, after room has been made for them if need be.

        They vanish if the child has closed its input. Raises what ``close`` is given.
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
        """Close as soon as the child has taken everything; no more is to be written."""
        if self._queue:
            self._is_finishing = True
        else:
            self.close()

    def close(self, error: Exception | None = None) -> None:
        """Drop what is queued; writers that wait for room get the error, or none."""
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
        """Write what the child's end takes now, up to one turn's share."""
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
        except OSError:  # EPIPE, on a terminal EIO: nobody will read it any more
            self.close()
            return
        self._loop.remove_writer(self._fd)
        if self._is_finishing:
            self.close()

    def _admit(self) -> None:
        """Take from the waiting writers, in order, what there is room for."""
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
