"""process/* of v2: exit codes tell signals, writes are named and done once."""

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
"""Characters of a write's name; above, it takes more memory than its digest."""

_SPAWN_KINDS: Final = {errno.ENOENT: "spawnNotFound", errno.EACCES: "spawnPermissionDenied"}
"""Kinds of failed starts by errno; any other is ``spawnFailed`` (codex 0.171)."""

SCOPE_ID_MAX_BYTES: Final = 256
"""Limit of shellSnapshot.scopeId."""


class ProcessContext(NumberedEvents):
    """What v2 knows of one process: how to tell of it, and which writes it has had."""

    __slots__ = (
        "_is_confined",
        "_looks_denied",
        "_under_way",
        "revision",
    )

    output_params = ProcessOutputParams
    closed_params = ProcessClosedParams

    def __init__(self, spec: SpawnSpec, revision: str = "v2") -> None:
        """``revision``: v2, or the extension of it that started the process."""
        self.revision = revision
        self._under_way: dict[str, asyncio.Task[WriteStatus]] = {}
        self._is_confined = spec.confinement is not None
        self._looks_denied: bool | None = None

    def exited(self, process: Process[object], seq: int, status: ExitStatus) -> bytes:
        """process/exited."""
        params = ProcessExitedParams(
            process_id=process.id,
            seq=seq,
            exit_code=exit_code_of_signals(process, status),
            sandbox_denied=self.looks_denied(process),
        )
        return jsonrpc.notification("process/exited", params)

    def looks_denied(self, process: Process[object]) -> bool:
        """Whether the process has failed, and that seems to come of its sandbox."""
        if not self._is_confined or process.status is None:
            return False
        if self._looks_denied is None:
            code = exit_code_of_signals(process, process.status)
            self._looks_denied = looks_denied(code, process.read().chunks)
        return self._looks_denied

    async def write_once(
        self, process: Process[object], write_id: str, data: bytes, accepted: AcceptedWrites
    ) -> WriteStatus:
        """Queue bytes unless a write of that name was accepted before, whatever it wrote.

        A write that waits for room goes on when its connection is lost, because a client that had
        no answer sends it again under the same name.
        """
        if (self, _short(write_id)) in accepted:
            return "accepted"
        task = self._under_way.get(write_id)
        if task is None:
            outcome = start_eagerly(process.write(data))
            if not isinstance(outcome, asyncio.Task):
                return self._note(write_id, outcome, accepted)
            task = self._under_way[write_id] = outcome
            task.add_done_callback(lambda task: self._settle(write_id, task, accepted))
        return await asyncio.shield(task)

    def _settle(
        self, write_id: str, task: asyncio.Task[WriteStatus], accepted: AcceptedWrites
    ) -> None:
        del self._under_way[write_id]
        if not task.cancelled() and task.exception() is None:
            self._note(write_id, task.result(), accepted)

    def _note(self, write_id: str, status: WriteStatus, accepted: AcceptedWrites) -> WriteStatus:
        if status == "accepted":
            accepted.add((self, _short(write_id)))
        return status


def _short(write_id: str) -> str | bytes:
    """What is remembered of a name: the name, or for a long one its digest."""
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
    """What a start asks for, confined if it has to be; a terminal is ``rows`` by ``cols``.

    Raises InvalidRequest or InvalidArgument if it cannot be done.
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
    """What a process is confined with: for the released enumeration, ours is ``linuxSeccomp``."""
    return "none" if spec.confinement is None else "linuxSeccomp"


class ProcessesV2:
    """process/*, as far as revisions that extend v2 have it as well."""

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
        """Retained output, now or when there is some."""
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
        """Queue bytes for the standard input, once per name."""
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
        """Interrupt the process group; nothing if there is none."""
        process = self._find(params.process_id)
        if process is not None:
            process.signal(signal.SIGINT)
        return ProcessSignalResult()


class ProcessV2(ProcessesV2):
    """process/*."""

    async def start(self, params: ProcessStartParams) -> ProcessStartResult:
        """Start a process; its notifications follow this answer."""
        with classified_failures():
            spec = await spawn_spec(params)
            processes = self._connection.session.processes
            processes.start(params.process_id, spec, context=ProcessContext(spec))
        return ProcessStartResult(process_id=params.process_id, sandbox_type=sandbox_type(spec))

    async def terminate(self, params: ProcessTerminateParams) -> ProcessTerminateResult:
        """Kill the process group."""
        process = self._find(params.process_id)
        return ProcessTerminateResult(running=process is not None and process.terminate())
