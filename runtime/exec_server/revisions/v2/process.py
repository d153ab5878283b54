"""Handlers of process/* in v2: exit codes show signals, writes have ids and are deduplicated."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

from exec_server import jsonrpc
from exec_server.engine import path_uri
from exec_server.engine.cancellation import run_in_thread
from exec_server.engine.native_text import environment
from exec_server.engine.processes.child_env import prepare_child_environment
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.sandbox import bubblewrap
from exec_server.engine.sandbox.denial import looks_denied
from exec_server.errors import InvalidArgument, InvalidRequest, SpawnFailed, system_text
from exec_server.revisions.process_events import NumberedEvents, exit_code_of_signals
from exec_server.revisions.v2 import sandbox as sandboxes
from exec_server.tasks import start_eagerly
from exec_server_protocol.v2.process import (
    OutputChunk as ProtocolChunk,
)
from exec_server_protocol.v2.process import (
    ProcessClosedParams,
    ProcessExitedParams,
    ProcessOutputParams,
    ProcessReadParams,
    ProcessReadResult,
    ProcessSignalParams,
    ProcessSignalResult,
    ProcessStartParams,
    ProcessStartResult,
    ProcessTerminateParams,
    ProcessTerminateResult,
    ProcessWriteParams,
    ProcessWriteResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus, WriteStatus
    from exec_server.revisions.accepted_writes import AcceptedWrites
    from exec_server.revisions.interface import ConnectionContext, NotificationEncoder
    from exec_server_protocol.v2.sandbox import SandboxType

_LONG_NAME: Final = 64
"""Length above which the id of a write takes more memory than its digest."""

_SPAWN_KINDS: Final = {errno.ENOENT: "spawnNotFound", errno.EACCES: "spawnPermissionDenied"}
"""Kinds of failed starts by errno; any other is ``spawnFailed`` (codex 0.171)."""

SCOPE_ID_MAX_BYTES: Final = 256
"""Maximum length of shellSnapshot.scopeId."""


class ProcessContext(NumberedEvents):
    """Encoder of v2 for one process, with the state of its writes."""

    __slots__ = (
        "_is_confined",
        "_looks_denied",
        "_pending_writes",
        "revision",
    )

    output_params = ProcessOutputParams
    closed_params = ProcessClosedParams

    def __init__(self, spec: SpawnSpec, revision: str = "v2") -> None:
        """``revision`` is v2, or the extension of it that started the process."""
        self.revision = revision
        self._pending_writes: dict[str, asyncio.Task[WriteStatus]] = {}
        self._is_confined = spec.confinement is not None
        self._looks_denied: bool | None = None

    def exited(self, process: Process[object], seq: int, status: ExitStatus) -> bytes:
        """Encode process/exited."""
        params = ProcessExitedParams(
            process_id=process.id,
            seq=seq,
            exit_code=exit_code_of_signals(process, status),
            sandbox_denied=self.looks_denied(process),
        )
        return jsonrpc.notification("process/exited", params)

    def looks_denied(self, process: Process[object]) -> bool:
        """Return True if the process failed, apparently because of its sandbox."""
        if not self._is_confined or process.status is None:
            return False
        if self._looks_denied is None:
            code = exit_code_of_signals(process, process.status)
            self._looks_denied = looks_denied(code, process.read().chunks)
        return self._looks_denied

    async def write_once(
        self, process: Process[object], write_id: str, data: bytes, accepted: AcceptedWrites
    ) -> WriteStatus:
        """Queue input unless a write with this id was accepted before, whatever its data.

        A write that waits for room continues if its connection is lost, because a client without a
        response sends it again with the same id.
        """
        if (self, _short(write_id)) in accepted:
            return "accepted"
        task = self._pending_writes.get(write_id)
        if task is None:
            outcome = start_eagerly(process.write(data))
            if not isinstance(outcome, asyncio.Task):
                return self._remember(write_id, outcome, accepted)
            task = self._pending_writes[write_id] = outcome
            task.add_done_callback(lambda task: self._finish_write(write_id, task, accepted))
        return await asyncio.shield(task)

    def _finish_write(
        self, write_id: str, task: asyncio.Task[WriteStatus], accepted: AcceptedWrites
    ) -> None:
        del self._pending_writes[write_id]
        if not task.cancelled() and task.exception() is None:
            self._remember(write_id, task.result(), accepted)

    def _remember(
        self, write_id: str, status: WriteStatus, accepted: AcceptedWrites
    ) -> WriteStatus:
        if status == "accepted":
            accepted.add((self, _short(write_id)))
        return status


def _short(write_id: str) -> str | bytes:
    """Return the id of a write, or its digest if the id is long."""
    if len(write_id) <= _LONG_NAME:
        return write_id
    return hashlib.sha256(write_id.encode()).digest()


def _working_directory(uri: str) -> str:
    try:
        return path_uri.parse(uri)
    except InvalidRequest as error:
        raise InvalidArgument(
            f"cwd URI `{uri}` is not valid on this exec-server host: {error}"
        ) from None


async def spawn_spec(params: ProcessStartParams, rows: int = 24, cols: int = 80) -> SpawnSpec:
    """Return the spec of a process to start, sandboxed if required.

    A terminal is ``rows`` by ``cols``. Raises InvalidRequest or InvalidArgument.
    """
    if params.network_proxy is not None:
        raise InvalidRequest("networkProxy: this server does not start network proxies")
    snapshot = params.shell_snapshot
    if snapshot and not 1 <= len(snapshot.scope_id.encode()) <= SCOPE_ID_MAX_BYTES:
        raise InvalidArgument(
            f"shell snapshot scope must be non-empty and at most {SCOPE_ID_MAX_BYTES} bytes"
        )
    spec = SpawnSpec(
        argv=params.argv,
        cwd=_working_directory(params.cwd),
        env=await prepare_child_environment(params.env_policy, params.env, environment()),
        tty=params.tty,
        pipe_stdin=params.pipe_stdin,
        arg0=params.arg0,
        rows=rows,
        cols=cols,
    )
    if params.sandbox is None:
        return spec
    policy = sandboxes.policy_for_process(params.sandbox, spec.cwd, spec.env)
    if policy is None:
        return spec
    if params.enforce_managed_network:
        raise InvalidRequest("enforceManagedNetwork: this server does not manage networks")
    wrapper = bubblewrap.require()
    view = await run_in_thread(partial(wrapper.plan, policy))
    return wrapper.wrap_spec(spec, view, allows_network=policy.allows_network)


@contextlib.contextmanager
def classified_failures() -> Iterator[None]:
    """Give the failures of a start their kind, which is sent as ``error.data.kind``."""
    try:
        yield
    except SpawnFailed as error:
        error.kind = "spawnFailed"
        raise
    except OSError as error:
        if error.errno is None:
            raise
        failure = SpawnFailed(system_text(error.errno))
        failure.kind = _SPAWN_KINDS.get(error.errno, "spawnFailed")
        raise failure from error


def sandbox_type(spec: SpawnSpec) -> SandboxType:
    """Return the kind of sandbox; the closest released value for ours is ``linuxSeccomp``."""
    return "none" if spec.confinement is None else "linuxSeccomp"


class ProcessesV2:
    """Handlers of process/* that revisions extending v2 share."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    def _find(self, process_id: str) -> Process[NotificationEncoder] | None:
        return self._connection.session.processes.get(process_id)

    def _known(self, process_id: str) -> Process[NotificationEncoder]:
        process = self._find(process_id)
        if process is None:
            raise InvalidRequest(f"unknown process id {process_id}")
        return process

    async def read(self, params: ProcessReadParams) -> ProcessReadResult:
        """Return retained output, waiting for some if there is none."""
        process = self._known(params.process_id)
        view = await process.read_wait(
            params.after_seq or 0,
            params.max_bytes,
            params.wait_ms or 0,
            wait_for_room=self._connection.wait_for_room,
        )
        status = view.status
        return ProcessReadResult(
            chunks=[
                ProtocolChunk(seq=chunk.seq, stream=chunk.stream, chunk=chunk.data)
                for chunk in view.chunks
            ],
            next_seq=view.process_next_seq if params.max_bytes is None else view.next_seq,
            exited=view.exited,
            exit_code=None if status is None else exit_code_of_signals(process, status),
            closed=view.closed,
            failure=None,
            sandbox_denied=(
                isinstance(process.context, ProcessContext)
                and process.context.looks_denied(process)
            ),
        )

    async def write(self, params: ProcessWriteParams) -> ProcessWriteResult:
        """Queue input for the process, once per write id."""
        if not params.write_id:
            raise InvalidArgument("writeId must not be empty")
        process = self._find(params.process_id)
        if process is None or not isinstance(process.context, ProcessContext):
            return ProcessWriteResult(status="unknownProcess")
        return ProcessWriteResult(
            status=await process.context.write_once(
                process,
                params.write_id,
                params.chunk,
                self._connection.session.accepted_writes,
            )
        )

    async def signal(self, params: ProcessSignalParams) -> ProcessSignalResult:
        """Interrupt the process group, if the process exists."""
        process = self._find(params.process_id)
        if process is not None:
            process.signal(signal.SIGINT)
        return ProcessSignalResult()


class ProcessV2(ProcessesV2):
    """Handlers of process/*."""

    async def start(self, params: ProcessStartParams) -> ProcessStartResult:
        """Start a process; its notifications follow the response."""
        with classified_failures():
            spec = await spawn_spec(params)
            processes = self._connection.session.processes
            processes.start(params.process_id, spec, context=ProcessContext(spec))
        return ProcessStartResult(process_id=params.process_id, sandbox_type=sandbox_type(spec))

    async def terminate(self, params: ProcessTerminateParams) -> ProcessTerminateResult:
        """Kill the process group."""
        process = self._find(params.process_id)
        return ProcessTerminateResult(running=process is not None and process.terminate())
