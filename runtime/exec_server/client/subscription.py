"""Subscriptions to the events of a process, each with a bounded queue.

The ``overflow`` policy applies when a slow consumer has filled its queue:

``reread``   Stop queueing. When the queue is empty, read the missed output from the buffer that the
             server retains (1 MiB for codex). Output that is no longer retained becomes a Gap.
``drop``     Discard output until there is room, and report it as a Gap. Output missed with a lost
             connection is still read again.
``block``    Stop reading from the server until there is room, on the whole connection, so that the
             process eventually blocks. No output is lost, except that a flood ahead of a pending
             answer is handled as with ``reread``.

A slow consumer does not delay others, except with ``block``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from exec_server.client.errors import ServerError
from exec_server.client.events import UNPLACED, Closed, Exited, Gap, Output, Snapshot
from exec_server.client.limits import BLOCKED_BYTES, BLOCKED_EVENTS, QUEUED_EVENTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from exec_server.client.event_sequencer import EventSequencer
    from exec_server.client.events import ProcessEvent

Overflow: TypeAlias = Literal["reread", "drop", "block"]
"""Policy for output that a slow consumer has no room for."""

BUFFER_BYTES: Final = 1024 * 1024
"""Default size of the queue: the output that codex retains for reading again."""


class Subscription:
    """The events of a process for one consumer, from the first one on."""

    def __init__(
        self,
        sequencer: EventSequencer,
        *,
        streams: Collection[str] | None = None,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> None:
        """Follow ``streams`` only, or all of them; no limit if ``buffer_bytes`` is None."""
        self._sequencer = sequencer
        self._streams = streams
        self._buffer_bytes = buffer_bytes
        self._overflow = overflow if sequencer.source.can_read or overflow == "block" else "drop"
        self._queue: deque[ProcessEvent] = deque()
        self._queued_bytes = 0
        self._cursor = 1
        """Number of the next event to queue."""
        self._is_behind = False
        """True if the queue lacks events that have arrived."""
        self._gap: Gap | None = None
        self._exit_queued = False
        self._close_queued = False
        self._holds_connection = False
        self._waiter: asyncio.Future[None] | None = None
        sequencer.add(self)

    def split(self, streams: Collection[str]) -> Subscription:
        """Return a subscription for some streams, with the events queued here."""
        part = Subscription(
            self._sequencer,
            streams=streams,
            buffer_bytes=self._buffer_bytes,
            overflow=self._overflow,
        )
        part._is_behind, part._gap = self._is_behind, self._gap
        for event in self._queue:
            if type(event) is not Output or event.stream in streams:
                part._append(event)
        part._cursor = self._cursor
        return part

    @property
    def queued_bytes(self) -> int:
        """Bytes of output in the queue."""
        return self._queued_bytes

    def close(self) -> None:
        """Discard the queue and take no more events."""
        self._sequencer.discard(self)
        self._queue.clear()
        self._queued_bytes = 0
        self._close_queued = True
        self._release()
        self.wake()

    # Subscriber

    def push(self, event: ProcessEvent) -> None:
        """Take the next event in order."""
        if self._is_behind:
            self.wake()
            return
        seq = self._sequencer.next_seq - 1
        if seq < self._cursor:
            return
        self._cursor = seq + 1
        if type(event) is Output:
            if self._streams is not None and event.stream not in self._streams:
                return
            size = len(event.data)
            if not self._has_room(size):
                overflow = self._overflow
                if overflow == "block" and self._is_flooded(size):
                    overflow = "reread" if self._sequencer.source.can_read else "drop"
                if overflow == "reread":
                    self._cursor = seq
                    self._is_behind = True
                    return
                if overflow == "drop":
                    self._gap = Gap(seq if self._gap is None else self._gap.first_seq, seq)
                    self.wake()
                    return
                self._hold()
        elif type(event) is Exited and self._exit_queued:
            return
        self._close_gap()
        self._append(event)
        self.wake()

    def fall_behind(self) -> None:
        """Note that events before the next one of the sequencer were missed."""
        self._is_behind = self._cursor < self._sequencer.next_seq

    def wake(self) -> None:
        """Let the consumer look for news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _append(self, event: ProcessEvent) -> None:
        if type(event) is Output:
            self._queued_bytes += len(event.data)
        elif type(event) is Exited:
            self._exit_queued = True
        elif type(event) is Closed:
            self._close_queued = True
        self._queue.append(event)

    def _has_room(self, size: int) -> bool:
        if self._buffer_bytes is None or not self._queue:
            return True
        if len(self._queue) >= QUEUED_EVENTS:
            return False
        # A gap ends only when half of the queue is free, which keeps the number of gaps low.
        limit = self._buffer_bytes if self._gap is None else self._buffer_bytes // 2
        return self._queued_bytes + size <= limit

    def _is_flooded(self, size: int) -> bool:
        """True if the queue has reached its limit for output read despite ``block``."""
        allowed = (self._buffer_bytes or 0) + BLOCKED_BYTES
        return self._queued_bytes + size > allowed or len(self._queue) >= BLOCKED_EVENTS

    def _close_gap(self) -> None:
        if self._gap is not None:
            self._queue.append(self._gap)
            self._gap = None

    # Consumer

    async def next(self) -> ProcessEvent | None:
        """Return the next event, or None after the last one.

        Raises ConnectionLost after the events that had arrived by then.
        """
        while True:
            if self._queue:
                return self._pop()
            if self._gap is not None:
                gap, self._gap = self._gap, None
                return gap
            if self._close_queued:
                return None
            if self._is_behind:
                await self._catch_up()
                continue
            if not self._queue_known_end():
                if self._sequencer.failure is not None:
                    raise self._sequencer.failure
                await self._wait()

    def _pop(self) -> ProcessEvent:
        event = self._queue.popleft()
        if type(event) is Output:
            self._queued_bytes -= len(event.data)
            has_room = 2 * self._queued_bytes <= (self._buffer_bytes or 0)
            if self._holds_connection and has_room and 2 * len(self._queue) <= QUEUED_EVENTS:
                self._release()
        return event

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("the events of a process are consumed by one task at a time")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _queue_known_end(self) -> bool:
        """Queue an exit and a close that were learned from the state of the process."""
        sequencer = self._sequencer
        if sequencer.exited is not None and not self._exit_queued:
            self._append(sequencer.exited)
        if sequencer.closed is not None and not self._close_queued:
            self._append(sequencer.closed)
        return bool(self._queue)

    def _hold(self) -> None:
        if not self._holds_connection:
            self._holds_connection = True
            self._sequencer.source.pause_reading(self)

    def _release(self) -> None:
        if self._holds_connection:
            self._holds_connection = False
            self._sequencer.source.resume_reading(self)

    # Reading again

    async def _catch_up(self) -> None:
        """Queue retained output of the server, up to the next event of the sequencer.

        Later output arrives as notifications, which the sequencer puts in order.
        """
        sequencer = self._sequencer
        exited = sequencer.exited
        is_exit_unplaced = exited is not None and exited.seq == UNPLACED and not self._exit_queued
        # The exit is found as a missing number, which takes all retained output.
        max_bytes = None if is_exit_unplaced else self._buffer_bytes
        try:
            snapshot = await sequencer.source.read(
                sequencer.process_id, self._cursor - 1, max_bytes
            )
        except ServerError:
            # The server no longer knows the process.
            snapshot = Snapshot([], sequencer.next_seq, None, closed=True)
        if self._close_queued:
            return
        outputs = [
            output for output in snapshot.outputs if self._cursor <= output.seq < sequencer.next_seq
        ]
        exit_seq = UNPLACED if sequencer.exited is None else sequencer.exited.seq
        if is_exit_unplaced:
            exit_seq = self._place_exit(outputs)
        for output in outputs:
            self._skip_to(output.seq, exit_seq)
            self._cursor = output.seq + 1
            if self._streams is None or output.stream in self._streams:
                self._append(output)
        if not snapshot.outputs:
            self._skip_to(min(snapshot.next_seq, sequencer.next_seq), exit_seq)
        elif snapshot.outputs[-1].seq >= sequencer.next_seq - 1:
            self._skip_to(sequencer.next_seq, exit_seq)
        self._is_behind = self._cursor < sequencer.next_seq

    def _place_exit(self, outputs: Sequence[Output]) -> int:
        """Return the number of an exit that was learned without one, from all retained output.

        The server discards the oldest output first, so a number missing between two outputs or
        after the last one is that of the exit. Otherwise the exit is before the first one.
        """
        if not outputs:
            return self._cursor
        for place, output in enumerate(outputs, outputs[0].seq):
            if output.seq != place:
                return place
        behind = outputs[-1].seq + 1
        newest = self._sequencer.next_seq - 1 - (self._sequencer.closed is not None)
        return behind if behind <= newest else outputs[0].seq - 1

    def _skip_to(self, seq: int, exit_seq: int) -> None:
        """Continue at ``seq``; report skipped numbers as a Gap, except the exit and the close."""
        first, last = self._cursor, seq - 1
        if last < first:
            return
        self._cursor = seq
        exited, closed = self._sequencer.exited, self._sequencer.closed
        passes_exit = exited is not None and first <= exit_seq <= last
        passes_close = closed is not None and first <= closed.seq <= last
        if last - first + 1 > passes_exit + passes_close:
            self._queue.append(Gap(first, last))
        if exited is not None and passes_exit and not self._exit_queued:
            self._append(exited)
