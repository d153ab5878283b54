"""Handlers of process/* in the draft: those of v2, and the rest of a process API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server import jsonrpc
from exec_server.jsonrpc import INTERNAL_ERROR
from exec_server.revisions.failures import describe_failure
from exec_server.revisions.process_events import exit_code_of_signals
from exec_server.revisions.v2.process import (
    ProcessContext,
    ProcessesV2,
    classified_failures,
    sandbox_type,
    spawn_spec,
)
from exec_server_protocol.draft import errors
from exec_server_protocol.draft.process import (
    GracefulTermination,
    ListedProcess,
    OutputExcerpt,
    ProcessCloseStdinParams,
    ProcessCloseStdinResult,
    ProcessFailedParams,
    ProcessListParams,
    ProcessListResult,
    ProcessResizeParams,
    ProcessResizeResult,
    ProcessSnapshotParams,
    ProcessSnapshotResult,
    ProcessStartedParams,
    ProcessStartParams,
    ProcessStartResult,
    ProcessTerminateParams,
    ProcessTerminateResult,
    ProcessWaitParams,
    ProcessWaitResult,
)

if TYPE_CHECKING:
    from exec_server.engine.processes.head_tail import Excerpt
    from exec_server.engine.processes.process import Process

REVISION: Final = "draft"


class ProcessDraft(ProcessesV2):
    """Handlers of process/*."""

    async def start(self, params: ProcessStartParams) -> ProcessStartResult:
        """Start a process; its notifications follow the response."""
        with classified_failures():
            spec = await spawn_spec(params, params.rows, params.cols)
            self._connection.session.processes.start(
                params.process_id,
                spec,
                execution=params.execution,
                context=ProcessContext(spec, REVISION),
            )
        return ProcessStartResult(process_id=params.process_id, sandbox_type=sandbox_type(spec))

    def start_follow_up(self, params: ProcessStartParams, outcome: object) -> bytes | None:
        """Encode process/started or process/failed, if the client asked for them."""
        if not params.notify_start:
            return None
        if isinstance(outcome, BaseException):
            code, text = describe_failure(outcome, "exec", errors.NOT_FOUND)
            failed = ProcessFailedParams(
                process_id=params.process_id,
                code=INTERNAL_ERROR if code is None else code,
                message=text,
            )
            return jsonrpc.notification("process/failed", failed)
        process = self._find(params.process_id)
        if process is None:
            return None
        started = ProcessStartedParams(process_id=params.process_id, pid=process.pid)
        return jsonrpc.notification("process/started", started)

    async def resize(self, params: ProcessResizeParams) -> ProcessResizeResult:
        """Change the size of the terminal."""
        self._known(params.process_id).resize(params.rows, params.cols)
        return ProcessResizeResult()

    async def close_stdin(self, params: ProcessCloseStdinParams) -> ProcessCloseStdinResult:
        """Close the input behind what was written."""
        self._known(params.process_id).close_stdin()
        return ProcessCloseStdinResult()

    async def wait(self, params: ProcessWaitParams) -> ProcessWaitResult:
        """Return the state of the process when it has ended, or after the timeout."""
        process = self._known(params.process_id)
        await process.wait(params.until, params.timeout_ms)
        return ProcessWaitResult(
            exited=process.exited, exit_code=_exit_code(process), closed=process.closed
        )

    async def snapshot(self, params: ProcessSnapshotParams) -> ProcessSnapshotResult:
        """Return the beginning and the end of the output, and the state."""
        process = self._known(params.process_id)
        taken = process.snapshot()
        streams = taken.streams
        return ProcessSnapshotResult(
            stdout=_excerpt(streams.get("stdout")),
            stderr=_excerpt(streams.get("stderr")),
            terminal=_excerpt(streams.get("pty")),
            truncated=any(excerpt.omitted for excerpt in streams.values()),
            next_seq=taken.next_seq,
            running=taken.status is None,
            exit_code=_exit_code(process),
            closed=taken.closed,
        )

    async def list(self, params: ProcessListParams) -> ProcessListResult:
        """Return all processes that can be read, oldest first."""
        return ProcessListResult(
            processes=[
                ListedProcess(
                    process_id=process.id,
                    pid=process.pid,
                    argv=process.argv,
                    tty=process.tty,
                    next_seq=process.next_seq,
                    running=not process.exited,
                    exit_code=_exit_code(process),
                    closed=process.closed,
                )
                for process in self._connection.session.processes
            ]
        )

    async def terminate(self, params: ProcessTerminateParams) -> ProcessTerminateResult:
        """Kill the process group, or terminate it gracefully."""
        process = self._find(params.process_id)
        if process is None:
            is_ending = False
        elif isinstance(params.mode, GracefulTermination):
            is_ending = process.terminate_gracefully(params.mode.timeout_ms / 1000)
        else:
            is_ending = process.terminate()
        return ProcessTerminateResult(running=is_ending)


def _exit_code(process: Process[object]) -> int | None:
    return None if process.status is None else exit_code_of_signals(process, process.status)


def _excerpt(found: Excerpt | None) -> OutputExcerpt | None:
    if found is None:
        return None
    return OutputExcerpt(head=found.head, omitted=found.omitted, tail=found.tail)
