"""Processes: starting them, telling what they do, ending them.

A ``ProcessTable`` holds the processes of one session. Everything happens in callbacks of the event
loop's thread, which never waits: output is read when there is some, exits are told by pidfds (so
children of others are left alone), input queues in a bounded way.

The life of a process, which is also the order of its events::

    running   output*                 on_output for each read
    exited    the leader has ended    on_exited, once; what could be read by then comes before
    closed    and its output as well  on_closed, once and last; then it is retained for a while

A descendant that holds a pipe open keeps a process from closing, and its output still counts,
unless the process was terminated: then ``closed`` follows the exit at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import msgspec

from exec_server.engine.memory_budget import MemoryBudget
from exec_server.engine.processes import pty
from exec_server.engine.processes.head_tail import Excerpt, HeadTail
from exec_server.engine.processes.output_log import (
    RETAINED_BYTES,
    RETAINED_CHUNKS,
    OutputChunk,
    OutputLog,
    StreamName,
)
from exec_server.engine.processes.output_stream import PipeStream, PtyStream
from exec_server.engine.processes.spawn import Child, SpawnSpec, prepare_parent, spawn
from exec_server.engine.processes.stdin import WRITE_QUEUE_BYTES, StdinWriter
from exec_server.errors import InvalidArgument, InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    from exec_server.engine.processes.watchdog import Watchdog

__all__ = [
    "EXECUTIONS",
    "Excerpt",
    "Execution",
    "ExitStatus",
    "OutputChunk",
    "Process",
    "ProcessEvents",
    "ProcessTable",
    "ReadView",
    "Snapshot",
    "SpawnSpec",
    "StreamName",
    "WriteStatus",
]

RETENTION_SECONDS: Final = 30.0
"""How long a closed process can still be read and keeps its id (v1 since 0.128, v2)."""

REAP_SECONDS: Final = 5.0
"""How long ``aclose`` waits for killed processes. Only one that this user may not kill, or that
hangs in the kernel, takes longer; it cannot be waited for without hanging as well."""

_DRAIN_BYTES: Final = 1024 * 1024
"""What is read of a stream at its process's end before the exit is told: all that a pipe can hold,
but not more, lest a descendant that goes on writing keeps the exit back."""

_PAST_EVERY_SEQ: Final = 2**64
"""What a poller has seen that waits for the end alone."""

_PROCESS_COST: Final = 8192
"""Bytes that a process takes without any output, roughly."""

_UNKNOWN_EXIT_CODE: Final = -1
"""Told when somebody else in this process has waited for the child."""

_PIDFD_SIGNAL_PROCESS_GROUP: Final = 4
"""linux/pidfd.h; known to kernels since 6.9."""

WriteStatus: TypeAlias = Literal["accepted", "stdinClosed"]

Execution: TypeAlias = Literal["direct", "prepared"]
"""Whether a command is run as its author wrote it, or as its sender made it fit to be run."""

EXECUTIONS: Final[frozenset[Execution]] = frozenset(("direct", "prepared"))


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended; exactly one of the two is set."""

    code: int | None
    """0 to 255; -1 if it could not be learned."""
    signal: int | None
    """The number of the signal that killed it."""


class ReadView(msgspec.Struct, frozen=True):
    """What a read of a process finds (v1 and v2, process/read)."""

    chunks: list[OutputChunk]
    next_seq: int
    """One more than the last number in ``chunks``; without chunks the next that is unused."""
    process_next_seq: int
    """The next number that is unused, whatever was returned."""
    exited: bool
    status: ExitStatus | None
    closed: bool


class Snapshot(msgspec.Struct, frozen=True):
    """Beginning and end of the output of each stream, and the state (draft, process/snapshot)."""

    streams: Mapping[StreamName, Excerpt]
    """``pty`` of a process with a terminal, else ``stdout`` and ``stderr``."""
    next_seq: int
    """The number of the first event that is not in it."""
    status: ExitStatus | None
    closed: bool


class ProcessEvents(Protocol):
    """Hears of what processes do: on the loop's thread, in the order of seq, each seq once."""

    def on_output(self, process: Process, chunk: OutputChunk) -> None:
        """The process has written something."""
        ...

    def on_exited(self, process: Process, seq: int, status: ExitStatus) -> None:
        """The process itself has ended; descendants may still write."""
        ...

    def on_closed(self, process: Process, seq: int) -> None:
        """Nothing more will come of the process."""
        ...


class Process:
    """One process of a table, from its start until its retention is over."""

    __slots__ = (
        "_abandoned",
        "_confinement",
        "_excerpts",
        "_held_signals",
        "_input_closed",
        "_inside",
        "_killing",
        "_log",
        "_pidfd",
        "_pollers",
        "_stdin",
        "_streams",
        "_table",
        "_terminated",
        "argv",
        "closed",
        "context",
        "counted_bytes",
        "fixed_bytes",
        "id",
        "pid",
        "pipe_stdin",
        "status",
        "tty",
    )

    def __init__(
        self, table: ProcessTable, process_id: str, spec: SpawnSpec, child: Child, context: object
    ) -> None:
        """Take over a child; see ProcessTable.start."""
        self.id = process_id
        self.context = context
        """Whatever the starter wants to find again in the events."""
        self.pid = child.pid
        """Also its process group and session."""
        self.argv = list(_asked_argv(spec))
        """Program and arguments, as they were asked for."""
        self.fixed_bytes = _fixed_bytes(process_id, self.argv)
        """Memory that it takes without any output."""
        self.tty = spec.tty
        self.pipe_stdin = spec.pipe_stdin
        self.status: ExitStatus | None = None
        """How the process ended; None while it runs."""
        self.closed = False
        """Whether it has ended and no output will follow."""
        self.counted_bytes = 0
        """Memory that its table has counted for it."""
        self._table = table
        self._pidfd = child.pidfd
        self._log = OutputLog(table.retained_bytes, table.retained_chunks)
        self._pollers: list[tuple[int, asyncio.Future[None]]] = []
        self._terminated = False
        self._abandoned = False
        self._killing: asyncio.TimerHandle | None = None
        self._input_closed = False
        self._confinement = spec.confinement
        self._held_signals: list[int] = []
        self._inside = None if spec.confinement is None else table.loop.create_future()
        self._stdin: StdinWriter | None = None
        self._streams: tuple[PipeStream | PtyStream, ...]
        if spec.tty:
            self._streams = (PtyStream(child.stdout),)
        else:
            self._streams = (PipeStream("stdout", child.stdout), PipeStream("stderr", child.stderr))
        self._excerpts: dict[StreamName, HeadTail] = {
            stream.name: HeadTail(table.retained_bytes) for stream in self._streams
        }
        if child.stdin >= 0:
            self._stdin = StdinWriter(
                table.loop,
                child.stdin,
                table.write_queue_bytes,
                table.memory,
                owns_fd=not spec.tty,
            )

    @property
    def exited(self) -> bool:
        """Whether the process itself has ended."""
        return self.status is not None

    @property
    def next_seq(self) -> int:
        """The number that the next event of this process will get."""
        return self._log.next_seq

    @property
    def output_bytes(self) -> int:
        """About what it takes to retain its output."""
        return self._log.memory_bytes + sum(kept.retained_bytes for kept in self._excerpts.values())

    def read(self, after_seq: int = 0, max_bytes: int | None = None) -> ReadView:
        """Retained output numbered above ``after_seq``, and the state at this moment.

        At least one chunk is returned if there is any, then more up to ``max_bytes`` in all.
        """
        log = self._log
        chunks = log.read(after_seq, max_bytes)
        return ReadView(
            chunks=chunks,
            next_seq=chunks[-1].seq + 1 if chunks else log.next_seq,
            process_next_seq=log.next_seq,
            exited=self.status is not None,
            status=self.status,
            closed=self.closed,
        )

    def shrink(self, size: int) -> None:
        """Retain less output, to take about so much less memory."""
        self._log.shrink(size)
        for kept in self._excerpts.values():
            kept.shrink(size)

    async def read_wait(
        self,
        after_seq: int,
        max_bytes: int | None,
        wait_ms: int,
        *,
        wait_for_room: Callable[[], Awaitable[None]] | None = None,
    ) -> ReadView:
        """Read as soon as there is something that the caller has not seen, or when time is up.

        That is a chunk above ``after_seq``, an exit above it, or the closing, which is the last
        there is to see (v1 since 0.128 and v2, process/read). ``wait_ms`` may be any u64.

        After a wait, ``wait_for_room`` is awaited before anything is taken: what many wait for
        comes to all of them at once.
        """
        view = self.read(after_seq, max_bytes)
        if wait_ms <= 0 or self._is_news(view, after_seq):
            return view
        deadline = self._table.loop.time() + wait_ms / 1000
        while True:
            await self._poll(after_seq, deadline)
            if wait_for_room is not None:
                await wait_for_room()
            view = self.read(after_seq, max_bytes)
            if self._table.loop.time() >= deadline or self._is_news(view, after_seq):
                return view

    async def wait(
        self, until: Literal["exited", "closed"] = "exited", timeout_ms: int | None = None
    ) -> None:
        """Return when the process has come so far, or when time is up (draft, process/wait).

        ``timeout_ms`` may be any u64; None waits as long as it takes.
        """
        loop = self._table.loop
        deadline = None if timeout_ms is None else loop.time() + timeout_ms / 1000
        while not (self.closed or self._abandoned or (until == "exited" and self.exited)):
            if deadline is not None and loop.time() >= deadline:
                return
            await self._poll(_PAST_EVERY_SEQ, deadline)

    def snapshot(self) -> Snapshot:
        """Beginning and end of everything that was written until now, and the state."""
        return Snapshot(
            streams={name: kept.excerpt() for name, kept in self._excerpts.items()},
            next_seq=self._log.next_seq,
            status=self.status,
            closed=self.closed,
        )

    async def write(self, data: bytes) -> WriteStatus:
        """Queue bytes for the process's input, waiting only if its queue is full.

        ``stdinClosed`` if it has none, or none any more. ``accepted`` also if the process has ended
        by itself or does not read any more; the bytes vanish then (v1, process/write).
        Raises OperationFailed once it was terminated.
        """
        if not (self.tty or self.pipe_stdin) or self._input_closed:
            return "stdinClosed"
        if self._terminated:
            raise _write_failed()
        if self.tty and self._inside is not None:
            # What is typed can mean a signal, which must not come before there is anyone to get it.
            await asyncio.shield(self._inside)
        if self._stdin is not None:
            await self._stdin.write(data)
        return "accepted"

    def close_stdin(self) -> None:
        """Let the process find the end of its input after what was written until now. Idempotent.

        Raises InvalidRequest if its standard input is no pipe of ours.
        """
        if self.tty:
            raise InvalidRequest(
                f"process {self.id} has a terminal, whose input is not closed but ended by the "
                "character that the terminal has for it"
            )
        if not self.pipe_stdin:
            raise InvalidRequest(f"process {self.id} has no standard input to close")
        self._input_closed = True
        if self._stdin is not None:
            self._stdin.finish()

    def resize(self, rows: int, cols: int) -> None:
        """Give the terminal another size; without effect once the process has closed.

        Raises InvalidRequest if the process has no terminal, InvalidArgument for an impossible
        size.
        """
        if not self.tty:
            raise InvalidRequest(f"process {self.id} has no terminal")
        if self._streams:
            pty.resize(self._streams[0].fd, rows, cols)

    def terminate_gracefully(self, seconds: float) -> bool:
        """Ask the process group to end, and kill what is left of it after some seconds.

        Asking again brings the kill forward, but never puts it off. True unless there is nothing
        to end.
        """
        if self.status is not None or self._terminated:
            return False
        self.signal(signal.SIGTERM)
        # What is stopped hears of it only when it goes on.
        self.signal(signal.SIGCONT)
        deadline = self._table.loop.time() + seconds
        if self._killing is None or deadline < self._killing.when():
            if self._killing is not None:
                self._killing.cancel()
            self._killing = self._table.loop.call_at(deadline, self._end_now)
        return True

    def terminate(self) -> bool:
        """Kill the process group; True if this call did it, False if there was nothing to kill."""
        if self.status is not None or self._terminated:
            return False
        self._terminated = True
        self.signal(signal.SIGKILL)
        if self._stdin is not None:
            self._stdin.close(_write_failed())
            self._stdin = None
        return True

    def signal(self, signum: int) -> None:
        """Send a signal to the process group, unless the process has ended.

        While a confined program is on its way in, it is held back: there is nobody yet to get it.
        """
        if self._inside is not None and signum != signal.SIGKILL:
            self._held_signals.append(signum)
        elif self.status is None:
            # Not waited for yet, so the number is still its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signum)

    # What the table does with a process

    def _begin(self) -> None:
        """Watch the child. Raises OSError if the kernel watches no more; see _undo."""
        loop = self._table.loop
        loop.add_reader(self._pidfd, self._on_exit)
        for stream in self._streams:
            loop.add_reader(stream.fd, self._on_readable, stream)
        if self._confinement is not None:
            loop.add_reader(self._confinement.go_ahead, self._on_go_ahead)

    def _undo(self) -> None:
        """Take back a start: no process and no descriptor is left."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._release_descriptors()

    def _end_now(self) -> None:
        """Kill whatever is left of the process and close it without regard to who holds a pipe."""
        if self.status is None:
            self.terminate()
        elif not self.closed:
            self._terminated = True
            # The leader's number may be another's by now, but its pidfd still means the group.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(
                    self._pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP
                )
            self._settle()

    def _abandon(self) -> None:
        """Forget a process that does not die: release everything that waits for it."""
        self._abandoned = True
        self._release_descriptors()
        self._wake_pollers(None)

    # What the child does

    def _on_go_ahead(self) -> None:
        """Signals reach the confined program, or there will be none."""
        if self._confinement is not None:
            self._table.loop.remove_reader(self._confinement.go_ahead)
        if self._inside is not None:
            _release(self._inside)
            self._inside = None
        for signum in self._held_signals:
            self.signal(signum)
        self._held_signals.clear()

    def _on_readable(self, stream: PipeStream | PtyStream) -> None:
        if self._table.is_paused:
            self._table.hold(self, stream)
            return
        data = stream.read()
        if data:
            self._tell_output(stream, data)
        elif data is not None:
            self._end_stream(stream)
            self._close_if_done()

    def _on_exit(self) -> None:
        # Before the number is given back by waiting, so that what is told of this output may still
        # end in a kill that hits nobody else.
        for stream in self._streams:
            self._drain(stream)
        try:
            pid, wait_status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            status = ExitStatus(code=_UNKNOWN_EXIT_CODE, signal=None)
        else:
            if not pid:
                return
            code = os.waitstatus_to_exitcode(wait_status)
            status = ExitStatus(code, None) if code >= 0 else ExitStatus(None, -code)
        table = self._table
        table.loop.remove_reader(self._pidfd)
        self.status = status
        table.note_reaped(self)
        seq = self._log.take_seq()
        table.events.on_exited(self, seq, status)
        self._wake_pollers(None)
        if self._terminated:
            self._settle()
        else:
            self._close_if_done()

    def _settle(self) -> None:
        """Close a terminated process that has exited, with what can still be read of it now."""
        table = self._table
        for stream in self._streams:
            self._drain(stream)
        if any(stream.is_open for stream in self._streams):
            if table.is_paused and not table.is_ended:
                table.settle_later(self._settle)
                return
            for stream in self._streams:
                self._end_stream(stream)
        self._close_if_done()

    def _drain(self, stream: PipeStream | PtyStream) -> None:
        """Read what has been written until now, unless nobody takes it."""
        left = _DRAIN_BYTES
        while left > 0 and stream.is_open and not self._table.is_paused:
            data = stream.read()
            if data is None:
                return
            if not data:
                self._end_stream(stream)
                return
            left -= len(data)
            self._tell_output(stream, data)

    def _tell_output(self, stream: PipeStream | PtyStream, data: bytes) -> None:
        chunk = self._log.append(stream.name, data)
        self._excerpts[stream.name].append(data)
        self._table.count_output(self)
        self._table.events.on_output(self, chunk)
        if self._pollers:
            self._wake_pollers(chunk.seq)

    def _end_stream(self, stream: PipeStream | PtyStream) -> None:
        if stream.is_open:
            self._table.loop.remove_reader(stream.fd)
            stream.close()

    def _close_if_done(self) -> None:
        if self.closed or self.status is None or any(stream.is_open for stream in self._streams):
            return
        self.closed = True
        seq = self._log.take_seq()
        self._release_descriptors()
        self._table.retain(self)
        self._table.events.on_closed(self, seq)
        self._wake_pollers(None)

    def _release_descriptors(self) -> None:
        loop = self._table.loop
        if self._killing is not None:
            self._killing.cancel()
            self._killing = None
        if self._stdin is not None:
            self._stdin.close(_write_failed() if self._terminated else None)
            self._stdin = None
        for stream in self._streams:
            self._end_stream(stream)
            if self.tty:
                os.close(stream.fd)
        self._streams = ()
        if self._confinement is not None:
            self._on_go_ahead()
            self._confinement.close()
            self._confinement = None
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    # Long polls

    async def _poll(self, after_seq: int, deadline: float | None) -> None:
        """Wait for an event above ``after_seq``, for the exit, the close, or the deadline."""
        loop = self._table.loop
        woken = loop.create_future()
        poller = (after_seq, woken)
        self._pollers.append(poller)
        timer = None if deadline is None else loop.call_at(deadline, _release, woken)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()
            with contextlib.suppress(ValueError):  # a wake-up has taken it off the list
                self._pollers.remove(poller)

    def _is_news(self, view: ReadView, after_seq: int) -> bool:
        return bool(
            view.chunks
            or view.closed
            or (view.exited and after_seq < view.process_next_seq - 1)
            or self._abandoned
        )

    def _wake_pollers(self, seq: int | None) -> None:
        """Wake those who have not seen event ``seq``; all of them if it is None."""
        pollers = self._pollers
        self._pollers = [poller for poller in pollers if seq is not None and poller[0] >= seq]
        for after_seq, woken in pollers:
            if seq is None or after_seq < seq:
                _release(woken)


def _asked_argv(spec: SpawnSpec) -> Sequence[str]:
    return spec.argv if spec.asked_argv is None else spec.asked_argv


def _fixed_bytes(process_id: str, argv: Sequence[str]) -> int:
    """About what a process takes in memory before it writes anything."""
    return _PROCESS_COST + sys.getsizeof(process_id) + sum(map(sys.getsizeof, argv))


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _write_failed() -> OperationFailed:
    return OperationFailed("failed to write to process stdin")


def _no_tag() -> None:
    """Processes are not tagged."""


class ProcessTable:
    """The processes of one session, by the ids their client gave them."""

    def __init__(
        self,
        events: ProcessEvents,
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
        """Everything runs on ``loop``, and is to be called on its thread.

        ``watchdog`` kills the processes if this one dies; what they are tagged with ``tag`` says
        (see ``process_tags``). Output is retained up to
        ``retained_bytes`` and ``retained_chunks`` per process for reading, and as many bytes per
        stream for its snapshot; a closed process is retained for ``retention_seconds``, or until
        the output of all processes takes more than ``max_retained_bytes``. A write waits while
        ``write_queue_bytes`` or more are queued for its process, or there is no room in ``memory``,
        where also what runs is counted. No more than ``max_running`` processes run at a time, and
        only of the kinds ``executions``.
        """
        prepare_parent()
        self.events = events
        self.loop = loop
        self.retained_bytes = retained_bytes
        self.retained_chunks = retained_chunks
        self.write_queue_bytes = write_queue_bytes
        self.memory = memory or MemoryBudget()
        self.is_paused = False
        """Whether output is left in the pipes for now."""
        self.is_ended = False
        """Whether everything was killed and nothing can be started any more."""
        self._watchdog = watchdog
        self._tag = tag
        self._retention_seconds = retention_seconds
        self._max_retained_bytes = max_retained_bytes
        self._retained_bytes = 0
        self._max_running = max_running
        self._executions = executions
        self._processes: dict[str, Process] = {}
        self._running: set[Process] = set()
        self._all_reaped: asyncio.Future[None] | None = None
        self._held: list[tuple[Process, PipeStream | PtyStream]] = []
        self._unsettled: list[Callable[[], None]] = []
        # Closed processes in the order in which their time is over; one timer for all.
        self._retained: deque[tuple[float, Process]] = deque()
        self._retention_timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Process]:
        """Every process that can be read, running or retained."""
        return iter(list(self._processes.values()))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._processes)

    @property
    def running(self) -> int:
        """How many of them run."""
        return len(self._running)

    def get(self, process_id: str) -> Process | None:
        """The process with this id, running or retained."""
        return self._processes.get(process_id)

    def start(
        self,
        process_id: str,
        spec: SpawnSpec,
        *,
        execution: Execution = "direct",
        context: object = None,
    ) -> Process:
        """Start a process; when this returns, the program is running.

        Its events come from the loop, so none before the caller has returned there.

        Raises InvalidArgument for an empty argv, InvalidRequest for an id that is taken or where a
        limit stands against it, and OperationFailed or OSError if the program cannot be started;
        the id is free then, and the spec's confinement closed.
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
            process._begin()
        except BaseException:
            process._undo()
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
        self.memory.check_room(_fixed_bytes(process_id, _asked_argv(spec)))

    def pause(self) -> None:
        """Leave output where it is until ``resume``. Exits are still told."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on reading where ``pause`` stopped."""
        if not self.is_paused:
            return
        self.is_paused = False
        held, self._held = self._held, []
        for process, stream in held:
            if stream.is_open:
                self.loop.add_reader(stream.fd, process._on_readable, stream)
        unsettled, self._unsettled = self._unsettled, []
        for settle in unsettled:
            self.loop.call_soon(settle)

    def kill_all(self) -> None:
        """Kill every process group. This is the end: nothing can be started afterwards.

        Each process exits and closes without regard to descendants that have left its group.
        """
        self.is_ended = True
        for process in self:
            process._end_now()

    async def aclose(self) -> None:
        """Kill every process and forget it; nothing is left when this returns. Idempotent."""
        self.kill_all()
        if self._running:
            if self._all_reaped is None:
                self._all_reaped = self.loop.create_future()
            await asyncio.wait((self._all_reaped,), timeout=REAP_SECONDS)
        for process in list(self._running):
            process._abandon()
        self._running.clear()
        self._processes.clear()
        self._retained.clear()
        self._held.clear()
        if self._retention_timer is not None:
            self._retention_timer.cancel()
            self._retention_timer = None

    # What processes ask of their table

    def hold(self, process: Process, stream: PipeStream | PtyStream) -> None:
        """Stop watching a stream that has something while nothing is taken.

        Only those that do are touched, so a pause costs nothing for all the others.
        """
        self.loop.remove_reader(stream.fd)
        self._held.append((process, stream))

    def settle_later(self, settle: Callable[[], None]) -> None:
        """Call ``settle`` after the next ``resume``."""
        self._unsettled.append(settle)

    def note_reaped(self, process: Process) -> None:
        """The process has been waited for."""
        if self._watchdog is not None:
            self._watchdog.remove(process.pid)
        self._running.discard(process)
        if not self._running and self._all_reaped is not None:
            _release(self._all_reaped)

    def count_output(self, process: Process) -> None:
        """Count what a process has written, and make room for it.

        Closed processes are forgotten first; without any, the process keeps less of its own.
        """
        self._recount(process)
        while self._retained_bytes > self._max_retained_bytes and self._retained:
            self._forget_oldest()
        if self._retained_bytes > self._max_retained_bytes:
            process.shrink(self._retained_bytes - self._max_retained_bytes)
            self._recount(process)

    def _recount(self, process: Process) -> None:
        size = process.output_bytes
        self._retained_bytes += size - process.counted_bytes
        process.counted_bytes = size

    def retain(self, process: Process) -> None:
        """Keep a process that has closed for as long as it can be asked for."""
        deadline = self.loop.time() + self._retention_seconds
        self._retained.append((deadline, process))
        self.memory.release(process.fixed_bytes)
        self._retained_bytes += process.fixed_bytes
        process.counted_bytes += process.fixed_bytes
        while self._retained_bytes > self._max_retained_bytes and len(self._retained) > 1:
            self._forget_oldest()
        if self._retention_timer is None:
            self._retention_timer = self.loop.call_at(deadline, self._forget_expired)

    def _forget_expired(self) -> None:
        self._retention_timer = None
        now = self.loop.time()
        while self._retained:
            deadline, _ = self._retained[0]
            if deadline > now:
                self._retention_timer = self.loop.call_at(deadline, self._forget_expired)
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, process = self._retained.popleft()
        del self._processes[process.id]
        self._retained_bytes -= process.counted_bytes
