"""The event sequencer of a process: notifications in, events in order out.

Notifications may overtake each other, and are ordered by their sequence numbers. The server does
not repeat notifications that were missed with a lost connection; each subscription then reads the
retained output instead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from exec_server.client.events import UNPLACED, Closed, Exited, Output
from exec_server.client.limits import HELD_BYTES, HELD_EVENTS

if TYPE_CHECKING:
    from exec_server.client.events import PlacedEvent, ProcessEvent, Snapshot

MAX_HELD: Final = 64
"""Events held because an earlier one is missing, above which the state of the process is read.
Servers swap neighbours; an event that so many have overtaken was lost."""

HOLD_SECONDS: Final = 1.0
"""Time that an event may be missing, while later ones are held, before the state of the process is
read. Neighbours that a server swaps are milliseconds apart."""

SEQ_BEYOND: Final = 2**62
"""Reading after this number returns no output, only the state of the process."""


class EventSource(Protocol):
    """Origin of the events of a process."""

    @property
    def can_read(self) -> bool:
        """True if output that was sent before can be read again."""
        ...

    async def read(self, process_id: str, after_seq: int, max_bytes: int | None) -> Snapshot:
        """Return retained output above ``after_seq``; ServerError if the process is unknown."""
        ...

    def pause_reading(self, holder: object) -> None:
        """Stop reading from the server on behalf of ``holder``."""
        ...

    def resume_reading(self, holder: object) -> None:
        """Read again, unless another holder has paused reading."""
        ...

    def resynchronize(self, sequencer: EventSequencer) -> None:
        """Read the state of a process that lacks events, and apply it."""
        ...


class Subscriber(Protocol):
    """Consumer of the ordered events of a process."""

    def push(self, event: ProcessEvent) -> None:
        """Take the next event."""
        ...

    def fall_behind(self) -> None:
        """Note that events before the next one were missed."""
        ...

    def wake(self) -> None:
        """Check the state of the sequencer, which has changed."""
        ...


class EventSequencer:
    """The events and the state of one process, as far as they have arrived."""

    def __init__(self, source: EventSource, process_id: str) -> None:
        self.source = source
        self.process_id = process_id
        self.is_started = False
        """True once the server has confirmed the start."""
        self.next_seq = 1
        """The number of the next event in order."""
        self.exited: Exited | None = None
        self.closed: Closed | None = None
        self.failure: Exception | None = None
        """The reason why no more events will arrive, after the connection was lost for good."""
        self._held: dict[int, PlacedEvent] = {}
        self._held_bytes = 0
        self._dropped_seq = 0
        """Highest number of an event that could not be held."""
        self._subscriptions: list[Subscriber] = []
        self._watchers: list[asyncio.Future[None]] = []
        self._exit_known = asyncio.Event()
        self._end_known = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """True if no more events will arrive."""
        return self.closed is not None or self.failure is not None

    # Subscriptions

    def add(self, subscription: Subscriber) -> None:
        """Pass on events from now on."""
        self._subscriptions.append(subscription)

    def discard(self, subscription: Subscriber) -> None:
        """Pass on no more events."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # Events

    def take(self, event: PlacedEvent) -> None:
        """Take a notification, in any order."""
        seq = event.seq
        if seq == self.next_seq:
            self._apply(event)
            self._apply_held()
        elif seq > self.next_seq:
            self._hold(event)

    def _hold(self, event: PlacedEvent) -> None:
        """Keep an event until the ones before it have arrived."""
        size = _size(event)
        if len(self._held) >= HELD_EVENTS or self._held_bytes + size > HELD_BYTES:
            self._dropped_seq = max(self._dropped_seq, event.seq)
            return
        self._release_held(event.seq)
        self._held[event.seq] = event
        self._held_bytes += size
        if len(self._held) == 1:
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self._check_missing, self.next_seq)
        if len(self._held) == MAX_HELD:
            self.source.resynchronize(self)

    def _release_held(self, seq: int) -> PlacedEvent | None:
        event = self._held.pop(seq, None)
        if event is not None:
            self._held_bytes -= _size(event)
        return event

    def _check_missing(self, seq: int) -> None:
        """Read the state of the process if this event is still missing."""
        if self.next_seq == seq and self._held and not self.is_over:
            self.source.resynchronize(self)

    def take_unnumbered(self, event: PlacedEvent) -> None:
        """Take an event of a revision without sequence numbers, in the order of arrival."""
        self._apply(msgspec.structs.replace(event, seq=self.next_seq))

    def _apply_held(self) -> None:
        while self._held:
            event = self._release_held(self.next_seq)
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
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    def apply_state(self, state: Snapshot) -> bool:
        """Replace missed events by the state of the process, which was read with SEQ_BEYOND.

        Returns true if the state is still behind an event that was dropped here.
        """
        known = self.next_seq
        if state.next_seq > self.next_seq:
            self.next_seq = state.next_seq
            for seq in [seq for seq in self._held if seq < self.next_seq]:
                self._release_held(seq)
            for subscription in self._subscriptions:
                subscription.fall_behind()
        if state.exit_code is not None and self.exited is None:
            self.exited = Exited(UNPLACED, state.exit_code, state.sandbox_denied)
            self._exit_known.set()
        if state.closed and self.closed is None:
            self.closed = Closed(state.next_seq - 1)
            self._end_known.set()
        self._apply_held()
        self._wake_watchers()
        for subscription in self._subscriptions:
            subscription.wake()
        return known < self.next_seq <= self._dropped_seq and not self.is_over

    def fail(self, error: Exception) -> None:
        """End the sequence with an error."""
        if self.is_over:
            return
        self.failure = error
        self._exit_known.set()
        self._end_known.set()
        self._wake_watchers()
        for subscription in self._subscriptions:
            subscription.wake()

    # Waiting

    async def wait_beyond(self, seq: int) -> None:
        """Return when an event with this number or a higher one has arrived, or none will."""
        while self.next_seq <= seq and not self.is_over:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    async def wait_exited(self) -> Exited:
        """Return when the process has exited. Raises the error that ended the sequence."""
        await self._exit_known.wait()
        if self.exited is None:
            assert self.failure is not None
            raise self.failure
        return self.exited

    async def wait_closed(self) -> None:
        """Return when the process has exited and its output has ended."""
        await self._end_known.wait()
        if self.closed is None:
            assert self.failure is not None
            raise self.failure


def _size(event: PlacedEvent) -> int:
    return len(event.data) if type(event) is Output else 0
