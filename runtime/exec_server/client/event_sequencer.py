"""The events of one process as they come from the server, put in order.

Notifications may overtake each other; the sequence numbers tell. What is missing after a lost
connection is not repeated by the server: from then on each subscription reads it again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from exec_server.client.events import UNPLACED, Closed, Exited, Output
from exec_server.client.limits import HELD_BYTES, HELD_EVENTS

if TYPE_CHECKING:
    from exec_server.client.events import PlacedEvent, Snapshot
    from exec_server.client.subscription import Subscription

MAX_HELD: Final = 64
"""Events kept back because an earlier one has not come. Servers swap neighbours; an event that is
overtaken by so many will not come any more."""

HOLD_SECONDS: Final = 1.0
"""How long an event may be missing, while later ones are there, before it is looked for."""

SEQ_BEYOND: Final = 2**62
"""Reading after this number returns no output, only the state of the process."""


class Source(Protocol):
    """The connection, as the feed of a process needs it."""

    @property
    def can_read(self) -> bool:
        """Whether output that was sent once can be read again."""
        ...

    async def read(self, process_id: str, after_seq: int, max_bytes: int | None) -> Snapshot:
        """Retained output with a higher number. Raises ServerError if nothing is retained."""
        ...

    def hold(self, holder: object) -> None:
        """Stop reading from the server on behalf of ``holder``."""
        ...

    def release(self, holder: object) -> None:
        """``holder`` does not mind any more that the server is read."""
        ...

    def reorder(self, feed: Feed) -> None:
        """An event is missing; ask for the state of the process."""
        ...


class Feed:
    """What is known of one process. ``process_id`` is set once the server has named it."""

    def __init__(self, source: Source, process_id: str) -> None:
        self.source = source
        self.process_id = process_id
        self.is_started = False
        """Whether the server has said that the process runs."""
        self.next_seq = 1
        """The number of the next event in order."""
        self.exited: Exited | None = None
        self.closed: Closed | None = None
        self.failure: Exception | None = None
        """Why no more events will come, if the connection was lost for good."""
        self._held: dict[int, PlacedEvent] = {}
        self._held_bytes = 0
        self._dropped_seq = 0
        """The highest number of an event that could not be kept."""
        self._subscriptions: list[Subscription] = []
        self._watchers: list[asyncio.Future[None]] = []
        self._exit_known = asyncio.Event()
        self._end_known = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether no more events will come."""
        return self.closed is not None or self.failure is not None

    # Subscriptions

    def add(self, subscription: Subscription) -> None:
        """Tell this one from now on."""
        self._subscriptions.append(subscription)

    def discard(self, subscription: Subscription) -> None:
        """Do not tell this one any more."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # Events

    def take(self, event: PlacedEvent) -> None:
        """Take a notification, in whatever order they come."""
        seq = event.seq
        if seq == self.next_seq:
            self._apply(event)
            self._apply_held()
        elif seq > self.next_seq:
            self._hold(event)

    def _hold(self, event: PlacedEvent) -> None:
        """Keep an event until those before it have come."""
        size = _size(event)
        if len(self._held) >= HELD_EVENTS or self._held_bytes + size > HELD_BYTES:
            self._dropped_seq = max(self._dropped_seq, event.seq)
            return
        self._unhold(event.seq)
        self._held[event.seq] = event
        self._held_bytes += size
        if len(self._held) == 1:
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self._look_for, self.next_seq)
        if len(self._held) == MAX_HELD:
            self.source.reorder(self)

    def _unhold(self, seq: int) -> PlacedEvent | None:
        event = self._held.pop(seq, None)
        if event is not None:
            self._held_bytes -= _size(event)
        return event

    def _look_for(self, seq: int) -> None:
        """Ask for the state of the process if this event is still missing."""
        if self.next_seq == seq and self._held and not self.is_over:
            self.source.reorder(self)

    def take_unnumbered(self, event: PlacedEvent) -> None:
        """Take an event of a revision without sequence numbers, where arrival is the order."""
        self._apply(msgspec.structs.replace(event, seq=self.next_seq))

    def _apply_held(self) -> None:
        while self._held:
            event = self._unhold(self.next_seq)
            if event is None:
                return
            self._apply(event)

    def _apply(self, event: PlacedEvent) -> None:
        self.next_seq += 1
        if type(event) is Exited:
            if self.exited is None:
                self.exited = event
            self._exit_known.set()
        elif type(event) is Closed:
            self.closed = event
            self._exit_known.set()
            self._end_known.set()
        for subscription in self._subscriptions:
            subscription.push(event)
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    def resynchronise(self, state: Snapshot) -> bool:
        """Take the state of the process, read with SEQ_BEYOND, for what was missed.

        Returns true if the state has advanced, but not beyond all events that were dropped here.
        """
        known = self.next_seq
        if state.next_seq > self.next_seq:
            self.next_seq = state.next_seq
            for seq in [seq for seq in self._held if seq < self.next_seq]:
                self._unhold(seq)
            for subscription in self._subscriptions:
                subscription.fall_behind()
        if state.exit_code is not None and self.exited is None:
            self.exited = Exited(UNPLACED, state.exit_code, state.sandbox_denied)
            self._exit_known.set()
        if state.closed and self.closed is None:
            self.closed = Closed(state.next_seq - 1)
            self._end_known.set()
        self._apply_held()
        self._tell_watchers()
        for subscription in self._subscriptions:
            subscription.wake()
        return known < self.next_seq <= self._dropped_seq and not self.is_over

    def fail(self, error: Exception) -> None:
        """No more events will come."""
        if self.is_over:
            return
        self.failure = error
        self._exit_known.set()
        self._end_known.set()
        self._tell_watchers()
        for subscription in self._subscriptions:
            subscription.wake()

    # Waiting

    async def wait_beyond(self, seq: int) -> None:
        """Return when an event of this number or a higher one is known, or none will come."""
        while self.next_seq <= seq and not self.is_over:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    async def wait_exited(self) -> Exited:
        """Return when the process has ended; raises what made that unknowable."""
        await self._exit_known.wait()
        if self.exited is None:
            assert self.failure is not None
            raise self.failure
        return self.exited

    async def wait_closed(self) -> None:
        """Return when the process has ended and its output as well."""
        await self._end_known.wait()
        if self.closed is None:
            assert self.failure is not None
            raise self.failure


def _size(event: PlacedEvent) -> int:
    return len(event.data) if type(event) is Output else 0
