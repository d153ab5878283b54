"""One consumer of a process's events, with a bounded queue of its own.

Events are queued as they come. A consumer that is so slow that its queue would grow beyond its
bound is dealt with as the caller chose:

``reread``   the queue takes no more; when the consumer has emptied it, output is read again from
             what the server retains (1 MiB for codex). What that no longer holds is a Gap.
``drop``     the queue takes no more until there is room; what came meanwhile is a Gap. (What was
             missed with a lost connection is read again nevertheless.)
``block``    nothing is read from the server until there is room, on the whole connection, so that
             in the end the process itself has to wait. Nothing is lost, unless so much output
             comes ahead of an answer that somebody waits for that it is read again as above.

However slow, it delays no other consumer (but with ``block``, which says so).
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

    from exec_server.client.event_sequencer import Feed
    from exec_server.client.events import ProcessEvent

Overflow: TypeAlias = Literal["reread", "drop", "block"]
"""What becomes of output that a slow consumer has no room for."""

BUFFER_BYTES: Final = 1024 * 1024
"""Output that is kept for a consumer unless the caller says otherwise."""


class Subscription:
    """The events of a process for one consumer, from the first one on."""

    def __init__(
        self,
        feed: Feed,
        *,
        streams: Collection[str] | None = None,
        buffer_bytes: int | None = BUFFER_BYTES,
        overflow: Overflow = "reread",
    ) -> None:
        """Output of ``streams`` only, or of all. ``buffer_bytes`` None means without bound."""
        self._feed = feed
        self._streams = streams
        self._buffer_bytes = buffer_bytes
        self._overflow = overflow if feed.source.can_read or overflow == "block" else "drop"
        self._queue: deque[ProcessEvent] = deque()
        self._queued_bytes = 0
        self._cursor = 1
        """The number of the next event to queue."""
        self._is_behind = False
        """Whether the queue lacks events that have come already."""
        self._gap: Gap | None = None
        self._exit_queued = False
        self._close_queued = False
        self._holds_connection = False
        self._waiter: asyncio.Future[None] | None = None
        feed.add(self)

    def split(self, streams: Collection[str]) -> Subscription:
        """A subscription for some streams that has missed nothing this one still has."""
        part = Subscription(
            self._feed,
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
        """Output that waits to be consumed here."""
        return self._queued_bytes

    def close(self) -> None:
        """Take no more events."""
        self._feed.discard(self)
        self._queue.clear()
        self._queued_bytes = 0
        self._close_queued = True
        self._release()
        self.wake()

    # What the feed tells

    def push(self, event: ProcessEvent) -> None:
        """Take the next event in order."""
        if self._is_behind:
            self.wake()
            return
        seq = self._feed.next_seq - 1
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
                    overflow = "reread" if self._feed.source.can_read else "drop"
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
        """Events before the feed's next one have been missed."""
        self._is_behind = self._cursor < self._feed.next_seq

    def wake(self) -> None:
        """There may be something new."""
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
        # A gap is closed only when much of the queue is free, so that there are few of them.
        limit = self._buffer_bytes if self._gap is None else self._buffer_bytes // 2
        return self._queued_bytes + size <= limit

    def _is_flooded(self, size: int) -> bool:
        """True if more has come than may be queued while the connection should not be read."""
        allowed = (self._buffer_bytes or 0) + BLOCKED_BYTES
        return self._queued_bytes + size > allowed or len(self._queue) >= BLOCKED_EVENTS

    def _close_gap(self) -> None:
        if self._gap is not None:
            self._queue.append(self._gap)
            self._gap = None

    # What the consumer does

    async def next(self) -> ProcessEvent | None:
        """The next event; None after the last one.

        Raises ConnectionLost, after what had come until then.
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
                if self._feed.failure is not None:
                    raise self._feed.failure
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
        """Queue the exit and the close if they are known otherwise than from an event."""
        feed = self._feed
        if feed.exited is not None and not self._exit_queued:
            self._append(feed.exited)
        if feed.closed is not None and not self._close_queued:
            self._append(feed.closed)
        return bool(self._queue)

    def _hold(self) -> None:
        if not self._holds_connection:
            self._holds_connection = True
            self._feed.source.hold(self)

    def _release(self) -> None:
        if self._holds_connection:
            self._holds_connection = False
            self._feed.source.release(self)

    # Reading again

    async def _catch_up(self) -> None:
        """Queue some of the output that the server retains, up to the feed's next event.

        What the server has retained since will come as notifications, which the feed puts in order.
        """
        feed = self._feed
        exited = feed.exited
        is_exit_unplaced = exited is not None and exited.seq == UNPLACED and not self._exit_queued
        # All that is retained tells where the exit was, and that it is no lost output.
        max_bytes = None if is_exit_unplaced else self._buffer_bytes
        try:
            snapshot = await feed.source.read(feed.process_id, self._cursor - 1, max_bytes)
        except ServerError:
            # It is no longer retained.
            snapshot = Snapshot([], feed.next_seq, None, closed=True)
        if self._close_queued:
            return
        outputs = [
            output for output in snapshot.outputs if self._cursor <= output.seq < feed.next_seq
        ]
        exit_seq = UNPLACED if feed.exited is None else feed.exited.seq
        if is_exit_unplaced:
            exit_seq = self._place_exit(outputs)
        for output in outputs:
            self._skip_to(output.seq, exit_seq)
            self._cursor = output.seq + 1
            if self._streams is None or output.stream in self._streams:
                self._append(output)
        if not snapshot.outputs:
            self._skip_to(min(snapshot.next_seq, feed.next_seq), exit_seq)
        elif snapshot.outputs[-1].seq >= feed.next_seq - 1:
            self._skip_to(feed.next_seq, exit_seq)
        self._is_behind = self._cursor < feed.next_seq

    def _place_exit(self, outputs: Sequence[Output]) -> int:
        """Where an exit without a place was, judged by all output that is retained.

        Output is forgotten from its oldest end only: a number that is missing between two outputs,
        or behind the last one, is the exit's. Otherwise it is before the first one.
        """
        if not outputs:
            return self._cursor
        for place, output in enumerate(outputs, outputs[0].seq):
            if output.seq != place:
                return place
        behind = outputs[-1].seq + 1
        newest = self._feed.next_seq - 1 - (self._feed.closed is not None)
        return behind if behind <= newest else outputs[0].seq - 1

    def _skip_to(self, seq: int, exit_seq: int) -> None:
        """Go on at this number; what is skipped is lost unless it is the exit or the close."""
        first, last = self._cursor, seq - 1
        if last < first:
            return
        self._cursor = seq
        exited, closed = self._feed.exited, self._feed.closed
        passes_exit = exited is not None and first <= exit_seq <= last
        passes_close = closed is not None and first <= closed.seq <= last
        if last - first + 1 > passes_exit + passes_close:
            self._queue.append(Gap(first, last))
        if exited is not None and passes_exit and not self._exit_queued:
            self._append(exited)
