"""The process table of a session: starts processes and holds them by id.

Everything runs in callbacks of the event loop's thread, which never blocks: output is read when
some is available, exits are reported by pidfds (so children started elsewhere are left alone), and
input is queued within a limit.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar

from exec_server.engine.memory_budget import MemoryBudget
from exec_server.engine.processes.event_waiters import release
from exec_server.engine.processes.output_log import RETAINED_BYTES, RETAINED_CHUNKS
from exec_server.engine.processes.output_reader import OutputPause
from exec_server.engine.processes.process import Process, ProcessLimits, fixed_bytes
from exec_server.engine.processes.retention import RETENTION_SECONDS, Retention
from exec_server.engine.processes.spawn import prepare_parent, spawn
from exec_server.engine.processes.stdin import WRITE_QUEUE_BYTES
from exec_server.errors import InvalidArgument, InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from exec_server.engine.processes.process import ProcessEvents
    from exec_server.engine.processes.spawn import SpawnSpec
    from exec_server.engine.processes.watchdog import Watchdog

REAP_SECONDS: Final = 5.0
"""Seconds for which ``aclose`` waits for killed processes. Only a process that this user may not
kill, or that hangs in the kernel, takes longer; waiting for it would block the shutdown."""

Execution: TypeAlias = Literal["direct", "prepared"]
"""Kind of a command: as written by its author, or already prepared by the client."""

EXECUTIONS: Final[frozenset[Execution]] = frozenset(("direct", "prepared"))

C = TypeVar("C")


def _no_tag() -> None:
    """Return no tag."""


class ProcessTable(Generic[C]):
    """The processes of one session, by the ids that the client gave them.

    ``C`` is the type of ``Process.context``.
    """

    def __init__(
        self,
        events: ProcessEvents[C],
        *,
        loop: asyncio.AbstractEventLoop,
        watchdog: Watchdog | None = None,
        tag: Callable[[], int | None] = _no_tag,
        retained_bytes: int = RETAINED_BYTES,
        retained_chunks: int = RETAINED_CHUNKS,
        max_retained_bytes: int = sys.maxsize,
        retention_seconds: float = RETENTION_SECONDS,
        write_queue_bytes: int = WRITE_QUEUE_BYTES,
        memory: MemoryBudget | None = None,
        max_running: int | None = None,
        executions: Collection[Execution] = EXECUTIONS,
    ) -> None:
        """Run everything on ``loop``; call all methods on its thread.

        ``watchdog`` kills the processes if this one dies, and ``tag`` returns the tag that they
        carry (see ``process_tags``). Output is retained up to ``retained_bytes`` and
        ``retained_chunks`` per process for reading, and up to as many bytes per stream for
        snapshots. A closed process is retained for ``retention_seconds``, or until all processes
        together take more than ``max_retained_bytes``. A write waits while ``write_queue_bytes``
        or more are queued for its process, or ``memory`` has no room; running processes count in
        ``memory`` as well. At most ``max_running`` processes run at a time, and only of the kinds
        in ``executions``.
        """
        prepare_parent()
        self.events = events
        self.loop = loop
        self.limits = ProcessLimits(retained_bytes, retained_chunks, write_queue_bytes)
        self.memory = memory or MemoryBudget()
        self.output_pause = OutputPause()
        self.is_ended = False
        """True once all processes were killed and none can be started any more."""
        self._watchdog = watchdog
        self._tag = tag
        self._max_running = max_running
        self._executions = executions
        self._processes: dict[str, Process[C]] = {}
        self._running: set[Process[C]] = set()
        self._all_reaped: asyncio.Future[None] | None = None
        self._retention = Retention(
            loop, retention_seconds, max_retained_bytes, self._processes.__delitem__
        )

    def __iter__(self) -> Iterator[Process[C]]:
        """Iterate over all processes, running or retained, oldest first."""
        return iter(list(self._processes.values()))

    def __len__(self) -> int:
        """Return the number of processes, running or retained."""
        return len(self._processes)

    @property
    def running(self) -> int:
        """Number of running processes."""
        return len(self._running)

    @property
    def retained_bytes(self) -> int:
        """Approximate memory of the retained output, and of the closed processes."""
        return self._retention.held_bytes

    def get(self, process_id: str) -> Process[C] | None:
        """Return the process with this id, running or retained."""
        return self._processes.get(process_id)

    def start(
        self, process_id: str, spec: SpawnSpec, *, context: C, execution: Execution = "direct"
    ) -> Process[C]:
        """Start a process; when this returns, the program is running.

        Events come from the event loop, so never before this returns. ``context`` becomes
        ``Process.context``.

        Raises InvalidArgument for an empty argv, InvalidRequest for an id in use or an exceeded
        limit, and OperationFailed or OSError if the program cannot be started; then the id is free
        and the spec's confinement is closed.
        """
        try:
            self._check_start(process_id, spec, execution)
            if self._watchdog is not None:
                self._watchdog.arm()
            process = Process(self, process_id, spec, spawn(spec, self._tag()), context)
        except BaseException:
            if spec.confinement is not None:
                spec.confinement.close()
            raise
        try:
            process.begin()
        except BaseException:
            process.rollback()
            raise
        if self._watchdog is not None:
            self._watchdog.add(process.pid)
        self._processes[process_id] = process
        self._running.add(process)
        self.memory.add(process.fixed_bytes)
        return process

    def _check_start(self, process_id: str, spec: SpawnSpec, execution: Execution) -> None:
        if not spec.argv:
            raise InvalidArgument("argv must not be empty")
        if process_id in self._processes:
            raise InvalidRequest(f"process {process_id} already exists")
        if execution not in self._executions:
            kinds = " and ".join(sorted(self._executions))
            raise InvalidRequest(
                f"this server runs {kinds} commands only, and this one is {execution}"
            )
        if self._max_running is not None and len(self._running) >= self._max_running:
            raise InvalidRequest(
                f"this server runs at most {self._max_running} processes of a client at a time"
            )
        if self.is_ended:
            raise OperationFailed("the session has ended")
        self.memory.check_room(fixed_bytes(process_id, spec))

    def pause_reading(self) -> None:
        """Leave output in the pipes until ``resume_reading``. Exits are still reported."""
        self.output_pause.set()

    def resume_reading(self) -> None:
        """Resume reading output. Idempotent."""
        self.output_pause.clear()

    def kill_all(self) -> None:
        """Kill every process group, and let no process start afterwards.

        Each process exits and closes without waiting for descendants that left its group.
        """
        self.is_ended = True
        for process in self:
            process.end_now()

    async def aclose(self) -> None:
        """Kill every process and forget it; nothing is left when this returns. Idempotent."""
        self.kill_all()
        if self._running:
            if self._all_reaped is None:
                self._all_reaped = self.loop.create_future()
            await asyncio.wait((self._all_reaped,), timeout=REAP_SECONDS)
        for process in list(self._running):
            process.abandon()
        self._running.clear()
        self._processes.clear()
        self._retention.close()
        self.output_pause.forget_callbacks()

    # Called by processes; see ProcessOwner.

    def note_reaped(self, process: Process[C]) -> None:
        """Note that a process has been waited for."""
        if self._watchdog is not None:
            self._watchdog.remove(process.pid)
        self._running.discard(process)
        if not self._running and self._all_reaped is not None:
            release(self._all_reaped)

    def note_output(self, process: Process[C]) -> None:
        """Count new output of a process."""
        self._retention.count_output(process)

    def note_closed(self, process: Process[C]) -> None:
        """Retain a process that has closed."""
        self.memory.release(process.fixed_bytes)
        self._retention.add_closed(process)
