"""Handlers of process/* in v1: writes have no ids, signals appear as exit code -1 or 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server import jsonrpc
from exec_server.engine.native_text import environment
from exec_server.engine.processes.child_env import prepare_child_environment
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.errors import InvalidRequest
from exec_server.revisions.process_events import NumberedEvents, exit_code_without_signals
from exec_server_protocol.v1.process import (
    OutputChunk as ProtocolChunk,
)
from exec_server_protocol.v1.process import (
    ProcessClosedParams,
    ProcessExitedParams,
    ProcessOutputParams,
    ProcessReadParams,
    ProcessReadResult,
    ProcessStartParams,
    ProcessStartResult,
    ProcessTerminateParams,
    ProcessTerminateResult,
    ProcessWriteParams,
    ProcessWriteResult,
)

if TYPE_CHECKING:
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus
    from exec_server.revisions.interface import ConnectionContext, NotificationEncoder


class V1NotificationEncoder(NumberedEvents):
    """Encoder of v1."""

    revision = "v1"
    output_params = ProcessOutputParams
    closed_params = ProcessClosedParams

    def exited(self, process: Process[object], seq: int, status: ExitStatus) -> bytes:
        """Encode process/exited."""
        params = ProcessExitedParams(
            process_id=process.id, seq=seq, exit_code=exit_code_without_signals(process, status)
        )
        return jsonrpc.notification("process/exited", params)


_ENCODER: Final = V1NotificationEncoder()


class ProcessV1:
    """Handlers of process/*."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    def _find(self, process_id: str) -> Process[NotificationEncoder]:
        process = self._connection.session.processes.get(process_id)
        if process is None:
            raise InvalidRequest(f"unknown process id {process_id}")
        return process

    async def start(self, params: ProcessStartParams) -> ProcessStartResult:
        """Start a process; its notifications follow the response."""
        spec = SpawnSpec(
            argv=params.argv,
            cwd=params.cwd,
            env=await prepare_child_environment(params.env_policy, params.env, environment()),
            tty=params.tty,
            pipe_stdin=params.pipe_stdin,
            arg0=params.arg0,
        )
        self._connection.session.processes.start(params.process_id, spec, context=_ENCODER)
        return ProcessStartResult(process_id=params.process_id)

    async def read(self, params: ProcessReadParams) -> ProcessReadResult:
        """Return retained output, waiting for some if there is none."""
        process = self._find(params.process_id)
        view = await process.read_wait(
            params.after_seq or 0,
            params.max_bytes,
            params.wait_ms or 0,
            wait_for_room=self._connection.wait_for_room,
        )
        return ProcessReadResult(
            chunks=[
                ProtocolChunk(seq=chunk.seq, stream=chunk.stream, chunk=chunk.data)
                for chunk in view.chunks
            ],
            next_seq=view.next_seq,
            exited=view.exited,
            exit_code=None
            if view.status is None
            else exit_code_without_signals(process, view.status),
            closed=view.closed,
            failure=None,
        )

    async def write(self, params: ProcessWriteParams) -> ProcessWriteResult:
        """Queue input for the process."""
        process = self._connection.session.processes.get(params.process_id)
        if process is None:
            return ProcessWriteResult(status="unknownProcess")
        return ProcessWriteResult(status=await process.write(params.chunk))

    async def terminate(self, params: ProcessTerminateParams) -> ProcessTerminateResult:
        """Kill the process group."""
        process = self._connection.session.processes.get(params.process_id)
        return ProcessTerminateResult(running=process is not None and process.terminate())
