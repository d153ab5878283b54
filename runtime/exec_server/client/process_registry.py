"""The processes of a session: event routing, and recovery after a lost connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from exec_server.client.errors import ClientError, ConnectionLost, ServerError
from exec_server.client.event_sequencer import SEQ_BEYOND
from exec_server.client.events import UNPLACED, Closed, Exited, Output
from exec_server.client.limits import EARLY_BYTES, EARLY_EVENTS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from exec_server.client.event_sequencer import EventSequencer
    from exec_server.client.events import PlacedEvent, Snapshot
    from exec_server.client.revisions.base import Revision, StartSpec


class RegistryOwner(Protocol):
    """The session, as its registry uses it."""

    generation: int
    failure: ConnectionLost | None

    @property
    def revision(self) -> Revision:
        """Revision in use."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in the background until the session ends."""
        ...

    def report_violation(self, reason: str) -> None:
        """End the connection because of what the server sent."""
        ...

    def pause_reading(self, holder: object) -> None:
        """Stop reading from the server on behalf of ``holder``."""
        ...

    def resume_reading(self, holder: object) -> None:
        """Read again, unless another holder has paused reading."""
        ...


class ProcessRegistry:
    """The event sequencers of a session, by process id; the EventSource of each."""

    def __init__(self, owner: RegistryOwner) -> None:
        self._owner = owner
        self._sequencers: dict[str, EventSequencer] = {}
        self._resynchronizing: set[EventSequencer] = set()
        self._unanswered_starts = 0
        self._early_events: dict[str, list[PlacedEvent]] = {}
        """Events of processes whose start is unanswered (v0)."""
        self._early_count = self._early_bytes = 0

    @property
    def ids(self) -> list[str]:
        """Ids of the processes that have not ended."""
        return list(self._sequencers)

    def register(self, sequencer: EventSequencer) -> None:
        """Route the events of a process to its sequencer."""
        if self._owner.failure is not None:
            raise self._owner.failure
        self._sequencers[sequencer.process_id] = sequencer

    def unregister(self, sequencer: EventSequencer) -> None:
        """Route no more events to a sequencer."""
        if self._sequencers.get(sequencer.process_id) is sequencer:
            del self._sequencers[sequencer.process_id]

    def fail(self, error: ConnectionLost) -> None:
        """End every sequencer because the session is over."""
        for sequencer in self._sequencers.values():
            sequencer.fail(error)
        self._sequencers.clear()

    # Events

    def route(self, process_id: str, event: PlacedEvent) -> None:
        """Pass an event to the sequencer of its process; ignore it if the process is unknown."""
        sequencer = self._sequencers.get(process_id)
        if sequencer is None:
            if self._unanswered_starts:
                self._keep_early(process_id, event)
            return
        if self._owner.revision.numbers_events:
            sequencer.take(event)
        else:
            self._take_unnumbered(sequencer, event)
        if sequencer.closed is not None:
            self._sequencers.pop(process_id, None)

    def _keep_early(self, process_id: str, event: PlacedEvent) -> None:
        """Keep an event that may belong to a process whose start is unanswered."""
        self._early_count += 1
        self._early_bytes += len(process_id)
        if type(event) is Output:
            self._early_bytes += len(event.data)
        if self._early_count <= EARLY_EVENTS and self._early_bytes <= EARLY_BYTES:
            self._early_events.setdefault(process_id, []).append(event)
        else:
            self._owner.report_violation(
                "the server sent too much about processes it has not named"
            )

    def _take_unnumbered(self, sequencer: EventSequencer, event: PlacedEvent) -> None:
        sequencer.take_unnumbered(event)
        if isinstance(event, Exited):
            self._owner.spawn(self._close(sequencer))

    async def _close(self, sequencer: EventSequencer) -> None:
        """Report the end of the output of an exited process, where the server does not."""
        try:
            await self._owner.revision.drain_output(sequencer.process_id)
        except ClientError:
            return  # the session is over, which ``fail`` has reported to the sequencer
        sequencer.take_unnumbered(Closed(UNPLACED))
        self.unregister(sequencer)

    # Processes

    async def start(self, sequencer: EventSequencer, spec: StartSpec) -> None:
        """Start a process, whose events may arrive before the answer."""
        revision, generation = self._owner.revision, self._owner.generation
        if revision.names_processes:
            self.register(sequencer)
        else:
            self._unanswered_starts += 1
        try:
            process_id = await revision.start(spec)
        except BaseException:
            self.unregister(sequencer)
            raise
        finally:
            if not revision.names_processes:
                self._unanswered_starts -= 1
        if not revision.names_processes:
            sequencer.process_id = process_id
            self.register(sequencer)
            for event in self._early_events.pop(process_id, ()):
                self._take_unnumbered(sequencer, event)
            if not self._unanswered_starts:
                self._early_events.clear()
                self._early_count = self._early_bytes = 0
        sequencer.is_started = True
        if self._owner.generation != generation:
            self.resynchronize(sequencer)

    async def adopt(self, sequencer: EventSequencer) -> None:
        """Follow a process that was started earlier.

        Raises ServerError if the session has no process of that id.
        """
        self.register(sequencer)
        try:
            sequencer.apply_state(await self.read(sequencer.process_id, SEQ_BEYOND, None))
        except BaseException:
            self.unregister(sequencer)
            raise
        sequencer.is_started = True

    # EventSource

    @property
    def can_read(self) -> bool:
        """True if output can be read again; see EventSource."""
        return self._owner.revision.numbers_events

    async def read(self, process_id: str, after_seq: int, max_bytes: int | None) -> Snapshot:
        """Return retained output; see EventSource."""
        return await self._owner.revision.read(process_id, after_seq, max_bytes, 0)

    def pause_reading(self, holder: object) -> None:
        """Stop reading from the server; see EventSource."""
        self._owner.pause_reading(holder)

    def resume_reading(self, holder: object) -> None:
        """Read from the server again; see EventSource."""
        self._owner.resume_reading(holder)

    def resynchronize(self, sequencer: EventSequencer) -> None:
        """Read the state of a process that lacks events; see EventSource."""
        if self._owner.revision.numbers_events and sequencer not in self._resynchronizing:
            self._resynchronizing.add(sequencer)
            self._owner.spawn(self._resynchronize(sequencer))

    def resynchronize_all(self) -> None:
        """Read the state of every process that runs, after a lost connection."""
        for sequencer in list(self._sequencers.values()):
            if sequencer.is_started:
                self.resynchronize(sequencer)

    async def _resynchronize(self, sequencer: EventSequencer) -> None:
        name = sequencer.process_id
        try:
            is_behind = True
            while is_behind:
                is_behind = sequencer.apply_state(await self.read(name, SEQ_BEYOND, None))
        except ServerError as error:
            sequencer.fail(ConnectionLost(f"events of process {name} were missed: {error.message}"))
        except ClientError:
            return  # the session is over, which ``fail`` has reported to the sequencer
        finally:
            self._resynchronizing.discard(sequencer)
        if sequencer.is_over:
            self._sequencers.pop(name, None)
