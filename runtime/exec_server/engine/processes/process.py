"""One process, from its start until its retention ends.

The states of a process, which are also the order of its events::

    running   output*                          on_output for each read
    exited    the leader has exited            on_exited, once; output read before comes first
    closed    all output streams have ended    on_closed, once and last; then it is retained

A descendant that holds a pipe open keeps a process from closing, and its output still counts. If
the process was terminated, ``closed`` follows the exit immediately.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Literal, Protocol, TypeVar

import msgspec

from exec_server.engine.processes import pty
from exec_server.engine.processes.event_waiters import NO_OUTPUT, EventWaiters
from exec_server.engine.processes.head_tail import HeadTail
from exec_server.engine.processes.output_log import OutputLog
from exec_server.engine.processes.output_reader import OutputReader
from exec_server.engine.processes.output_stream import PipeStream, PtyStream
from exec_server.engine.processes.process_state import ExitStatus, ReadView, Snapshot
from exec_server.engine.processes.signal_gate import SignalGate
from exec_server.engine.processes.stdin import StdinWriter
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from exec_server.engine.memory_budget import MemoryBudget
    from exec_server.engine.processes.output_log import OutputChunk, StreamName
    from exec_server.engine.processes.output_reader import OutputPause
    from exec_server.engine.processes.process_state import WriteStatus
    from exec_server.engine.processes.spawn import Child, SpawnSpec

_PROCESS_COST: Final = 8192
"""Approximate bytes of memory that a process takes without output."""

_UNKNOWN_EXIT_CODE: Final = -1
"""Reported if other code of this operating system process has waited for the child."""

_PIDFD_SIGNAL_PROCESS_GROUP: Final = 4
"""linux/pidfd.h; available since Linux 6.9."""

C_co = TypeVar("C_co", covariant=True)
C_contra = TypeVar("C_contra", contravariant=True)


class ProcessEvents(Protocol[C_contra]):
    """Receives the events of processes: on the loop's thread, in the order of seq, each once."""

    def on_output(self, process: Process[C_contra], chunk: OutputChunk) -> None:
        """Handle a chunk of output."""
        ...

    def on_exited(self, process: Process[C_contra], seq: int, status: ExitStatus) -> None:
        """Handle the exit of the process; descendants may still write."""
        ...

    def on_closed(self, process: Process[C_contra], seq: int) -> None:
        """Handle the end of all output, the last event."""
        ...


class ProcessLimits(msgspec.Struct, frozen=True):
    """Limits of each process of a table; see ProcessTable."""

    retained_bytes: int
    retained_chunks: int
    write_queue_bytes: int


class ProcessOwner(Protocol[C_contra]):
    """The table of a process, as the process uses it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Event loop that everything runs on."""

    @property
    def events(self) -> ProcessEvents[C_contra]:
        """Receiver of the events."""

    @property
    def limits(self) -> ProcessLimits:
        """Limits of each process."""

    @property
    def memory(self) -> MemoryBudget:
        """Budget that queued input counts in."""

    @property
    def output_pause(self) -> OutputPause:
        """Backpressure on output."""

    @property
    def is_ended(self) -> bool:
        """True once all processes were killed and none can be started any more."""

    def note_reaped(self, process: Process[C_contra]) -> None:
        """Note that the process has been waited for."""

    def note_output(self, process: Process[C_contra]) -> None:
        """Note that the process has written output."""

    def note_closed(self, process: Process[C_contra]) -> None:
        """Note that the process has closed."""


class Process(Generic[C_co]):
    """One process of a table."""

    __slots__ = (
        "_excerpts",
        "_gate",
        "_is_abandoned",
        "_is_input_closed",
        "_is_terminated",
        "_kill_timer",
        "_log",
        "_owner",
        "_pidfd",
        "_reader",
        "_stdin",
        "_terminal",
        "_waiters",
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
        self,
        owner: ProcessOwner[C_co],
        process_id: str,
        spec: SpawnSpec,
        child: Child,
        context: C_co,
    ) -> None:
        """Take over a child; see ProcessTable.start."""
        self.id = process_id
        self.context = context
        """Data of the caller that started the process, available to its event handlers."""
        self.pid = child.pid
        """Process id, which is also the process group and the session."""
        self.argv = list(_requested_argv(spec))
        """Program and arguments as requested, without the sandbox's own."""
        self.fixed_bytes = fixed_bytes(process_id, spec)
        """Approximate memory of the process without output."""
        self.tty = spec.tty
        self.pipe_stdin = spec.pipe_stdin
        self.status: ExitStatus | None = None
        """Exit status; None while the process runs."""
        self.closed = False
        """True once the process has exited and all its output streams have ended."""
        self.counted_bytes = 0
        """Bytes that the table's retention has counted for this process."""
        self._owner = owner
        self._pidfd = child.pidfd
        self._is_terminated = False
        self._is_abandoned = False
        self._is_input_closed = False
        self._kill_timer: asyncio.TimerHandle | None = None
        self._waiters = EventWaiters(owner.loop)
        self._gate: SignalGate | None = None
        if spec.confinement is not None:
            self._gate = SignalGate(owner.loop, spec.confinement, self.signal)
        self._terminal = child.stdout if spec.tty else -1
        streams: Sequence[PipeStream | PtyStream]
        if spec.tty:
            streams = (PtyStream(child.stdout),)
        else:
            streams = (PipeStream("stdout", child.stdout), PipeStream("stderr", child.stderr))
        self._reader: OutputReader | None = OutputReader(
            owner.loop, owner.output_pause, streams, self._emit_output, self._close_if_done
        )
        limits = owner.limits
        self._log = OutputLog(limits.retained_bytes, limits.retained_chunks)
        self._excerpts: dict[StreamName, HeadTail] = {
            stream.name: HeadTail(limits.retained_bytes) for stream in streams
        }
        self._stdin: StdinWriter | None = None
        if child.stdin >= 0:
            self._stdin = StdinWriter(
                owner.loop,
                child.stdin,
                limits.write_queue_bytes,
                owner.memory,
                owns_fd=not spec.tty,
            )

    @property
    def exited(self) -> bool:
        """True once the process itself has exited."""
        return self.status is not None

    @property
    def next_seq(self) -> int:
        """Number of the next event of this process."""
        return self._log.next_seq

    # Output

    @property
    def output_bytes(self) -> int:
        """Approximate memory of the retained output."""
        return self._log.memory_bytes + sum(kept.retained_bytes for kept in self._excerpts.values())

    def shrink(self, size: int) -> None:
        """Retain less output, to free about ``size`` bytes."""
        self._log.shrink(size)
        for kept in self._excerpts.values():
            kept.shrink(size)

    def read(self, after_seq: int = 0, max_bytes: int | None = None) -> ReadView:
        """Return retained output numbered above ``after_seq``, and the current state.

        At least one chunk is returned if there is any, then more up to ``max_bytes`` in total.
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

    async def read_wait(
        self,
        after_seq: int,
        max_bytes: int | None,
        wait_ms: int,
        *,
        wait_for_room: Callable[[], Awaitable[None]] | None = None,
    ) -> ReadView:
        """Read as soon as there is an event above ``after_seq``, at the latest after ``wait_ms``.

        Such an event is a chunk, the exit, or the closing, which is reported whatever ``after_seq``
        is (v1 since 0.128 and v2, process/read). ``wait_ms`` may be any u64.

        After a wait, ``wait_for_room`` is awaited before output is taken: one event can wake many
        readers at once.
        """
        view = self.read(after_seq, max_bytes)
        if wait_ms <= 0 or self._has_news(view, after_seq):
            return view
        deadline = self._owner.loop.time() + wait_ms / 1000
        while True:
            await self._waiters.wait(after_seq, deadline)
            if wait_for_room is not None:
                await wait_for_room()
            view = self.read(after_seq, max_bytes)
            if self._owner.loop.time() >= deadline or self._has_news(view, after_seq):
                return view

    def _has_news(self, view: ReadView, after_seq: int) -> bool:
        return bool(
            view.chunks
            or view.closed
            or (view.exited and after_seq < view.process_next_seq - 1)
            or self._is_abandoned
        )

    async def wait(
        self, until: Literal["exited", "closed"] = "exited", timeout_ms: int | None = None
    ) -> None:
        """Wait until the process has exited or closed, or until the timeout (draft, process/wait).

        ``timeout_ms`` may be any u64; None means no timeout.
        """
        loop = self._owner.loop
        deadline = None if timeout_ms is None else loop.time() + timeout_ms / 1000
        while not (self.closed or self._is_abandoned or (until == "exited" and self.exited)):
            if deadline is not None and loop.time() >= deadline:
                return
            await self._waiters.wait(NO_OUTPUT, deadline)

    def snapshot(self) -> Snapshot:
        """Return head and tail of the output so far, and the current state."""
        return Snapshot(
            streams={name: kept.excerpt() for name, kept in self._excerpts.items()},
            next_seq=self._log.next_seq,
            status=self.status,
            closed=self.closed,
        )

    # Input

    async def write(self, data: bytes) -> WriteStatus:
        """Queue bytes for the process's input; wait only while the queue is full.

        Return ``stdinClosed`` if the process has no input or it was closed. Return ``accepted``
        also if the process has exited by itself or has stopped reading; then the bytes are
        discarded (v1, process/write). Raises OperationFailed once the process was terminated.
        """
        if not (self.tty or self.pipe_stdin) or self._is_input_closed:
            return "stdinClosed"
        if self._is_terminated:
            raise _write_failed()
        if self.tty and self._gate is not None:
            # Input of a terminal can cause a signal, which would not reach the program yet.
            await self._gate.wait()
        if self._stdin is not None:
            await self._stdin.write(data)
        return "accepted"

    def close_stdin(self) -> None:
        """Close the process's input after the bytes written so far. Idempotent.

        Raises InvalidRequest unless the standard input is a pipe.
        """
        if self.tty:
            raise InvalidRequest(
                f"process {self.id} has a terminal, whose input is ended by writing its "
                "end-of-file character"
            )
        if not self.pipe_stdin:
            raise InvalidRequest(f"process {self.id} has no standard input to close")
        self._is_input_closed = True
        if self._stdin is not None:
            self._stdin.finish()

    def resize(self, rows: int, cols: int) -> None:
        """Resize the terminal; without effect once the process has closed.

        Raises InvalidRequest if the process has no terminal, InvalidArgument for an invalid size.
        """
        if not self.tty:
            raise InvalidRequest(f"process {self.id} has no terminal")
        if self._terminal >= 0:
            pty.resize(self._terminal, rows, cols)

    # Signals and termination

    def signal(self, signum: int) -> None:
        """Send a signal to the process group, unless the process has exited.

        It is queued while the process is still entering its sandbox.
        """
        if self._gate is not None and not self._gate.is_open and signum != signal.SIGKILL:
            self._gate.hold(signum)
        elif self.status is None:
            # The process has not been waited for, so its id cannot have been reused.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signum)

    def terminate(self) -> bool:
        """Kill the process group; return False if it was terminated or has exited already."""
        if self.status is not None or self._is_terminated:
            return False
        self._is_terminated = True
        self.signal(signal.SIGKILL)
        if self._stdin is not None:
            self._stdin.close(_write_failed())
            self._stdin = None
        return True

    def terminate_gracefully(self, seconds: float) -> bool:
        """Send SIGTERM to the process group, and SIGKILL to the rest of it after ``seconds``.

        A further call can bring the kill forward, but cannot postpone it. Return False if the
        process was terminated or has exited already.
        """
        if self.status is not None or self._is_terminated:
            return False
        self.signal(signal.SIGTERM)
        # A stopped process handles SIGTERM only after it continues.
        self.signal(signal.SIGCONT)
        deadline = self._owner.loop.time() + seconds
        if self._kill_timer is None or deadline < self._kill_timer.when():
            if self._kill_timer is not None:
                self._kill_timer.cancel()
            self._kill_timer = self._owner.loop.call_at(deadline, self.end_now)
        return True

    # Called by the table

    def begin(self) -> None:
        """Watch the child. Raises OSError if the kernel refuses; then call ``rollback``."""
        self._owner.loop.add_reader(self._pidfd, self._on_exit)
        assert self._reader is not None
        self._reader.start()
        if self._gate is not None:
            self._gate.watch()

    def rollback(self) -> None:
        """Undo a start: kill the child, wait for it, and release all descriptors."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self._release_descriptors()

    def end_now(self) -> None:
        """Kill the rest of the process group and close, even if descendants hold a pipe open."""
        if self.status is None:
            self.terminate()
        elif not self.closed:
            self._is_terminated = True
            # The leader's id may have been reused, but its pidfd still refers to the group.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(
                    self._pidfd, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP
                )
            self._finalize()

    def abandon(self) -> None:
        """Give up on a process that cannot be killed: release descriptors and waiters."""
        self._is_abandoned = True
        self._release_descriptors()
        self._waiters.wake_all()

    # Events of the child

    def _emit_output(self, stream: PipeStream | PtyStream, data: bytes) -> None:
        chunk = self._log.append(stream.name, data)
        self._excerpts[stream.name].append(data)
        self._owner.note_output(self)
        self._owner.events.on_output(self, chunk)
        self._waiters.wake(chunk.seq)

    def _on_exit(self) -> None:
        # Drain before waiting, which releases the process id: a handler of this output may still
        # kill the process group.
        if self._reader is not None:
            self._reader.drain()
        try:
            pid, wait_status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            status = ExitStatus(code=_UNKNOWN_EXIT_CODE, signal=None)
        else:
            if not pid:
                return
            code = os.waitstatus_to_exitcode(wait_status)
            status = ExitStatus(code, None) if code >= 0 else ExitStatus(None, -code)
        owner = self._owner
        owner.loop.remove_reader(self._pidfd)
        self.status = status
        owner.note_reaped(self)
        seq = self._log.take_seq()
        owner.events.on_exited(self, seq, status)
        self._waiters.wake_all()
        if self._is_terminated:
            self._finalize()
        else:
            self._close_if_done()

    def _finalize(self) -> None:
        """Close a terminated process that has exited, after the output available now."""
        owner, reader = self._owner, self._reader
        if reader is None:
            return
        reader.drain()
        if reader.is_open:
            if owner.output_pause.is_set and not owner.is_ended:
                owner.output_pause.on_clear(partial(owner.loop.call_soon, self._finalize))
                return
            reader.close()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.closed or self.status is None:
            return
        if self._reader is not None and self._reader.is_open:
            return
        self.closed = True
        seq = self._log.take_seq()
        self._release_descriptors()
        self._owner.note_closed(self)
        self._owner.events.on_closed(self, seq)
        self._waiters.wake_all()

    def _release_descriptors(self) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        if self._stdin is not None:
            self._stdin.close(_write_failed() if self._is_terminated else None)
            self._stdin = None
        if self._reader is not None:
            # The reader refers to this object: without the cycle, memory is freed immediately.
            self._reader.close()
            self._reader = None
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        self._owner.loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1


def fixed_bytes(process_id: str, spec: SpawnSpec) -> int:
    """Return the approximate memory of a process without output."""
    argv = _requested_argv(spec)
    return _PROCESS_COST + sys.getsizeof(process_id) + sum(map(sys.getsizeof, argv))


def _requested_argv(spec: SpawnSpec) -> Sequence[str]:
    return spec.argv if spec.asked_argv is None else spec.asked_argv


def _write_failed() -> OperationFailed:
    return OperationFailed("failed to write to process stdin")
