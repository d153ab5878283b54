"""Revision v1 (codex 0.121 to 0.139): native absolute paths, exit code -1 or 1 for a signal."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pybase64

from exec_server import jsonrpc
from exec_server.connection import BoundMethod, BoundRevision
from exec_server.engine import files, http
from exec_server.engine.environ import EnvironmentPolicy, child_environment
from exec_server.engine.shell import login_shell
from exec_server.engine.spawn import SpawnSpec
from exec_server.errors import EngineError, InvalidArgument, InvalidRequest
from exec_server.handlers.sandbox import refuse_restrictive
from exec_server.long_message import PIECE_BYTES, StreamedBytes
from exec_server_protocol.v1 import errors
from exec_server_protocol.v1.environment import (
    EnvironmentInfoParams,
    EnvironmentInfoResult,
    Shell,
)
from exec_server_protocol.v1.filesystem import (
    DirectoryEntry,
    FsCanonicalizeParams,
    FsCanonicalizeResult,
    FsCopyParams,
    FsCopyResult,
    FsCreateDirectoryParams,
    FsCreateDirectoryResult,
    FsGetMetadataParams,
    FsGetMetadataResult,
    FsJoinParams,
    FsJoinResult,
    FsParentParams,
    FsParentResult,
    FsReadDirectoryParams,
    FsReadDirectoryResult,
    FsReadFileParams,
    FsReadFileResult,
    FsRemoveParams,
    FsRemoveResult,
    FsWriteFileParams,
    FsWriteFileResult,
)
from exec_server_protocol.v1.http import (
    HttpHeader,
    HttpRequestBodyDeltaParams,
    HttpRequestParams,
    HttpRequestResult,
)
from exec_server_protocol.v1.methods import FAMILIES
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
from exec_server_protocol.v1.server import ROUTES, bind
from exec_server_protocol.v1.session import (
    InitializedParams,
    InitializeParams,
    InitializeResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.connection import Connection
    from exec_server.engine.process import ExitStatus, OutputChunk, Process
    from exec_server_protocol.table import Method

LARGE_WRITE_BYTES: Final = 1024 * 1024
"""Files above this are written in a thread, so that nothing else has to wait."""

_SPLICE_BYTES: Final = 2048
"""Output above this is spliced into its message instead of passing the JSON encoder."""


class V1Announcer:
    """Process events in v1's shapes."""

    def output(self, process: Process, chunk: OutputChunk) -> Sequence[bytes]:
        """process/output, its base64 a piece of its own when it is large."""
        data = chunk.data
        if len(data) < _SPLICE_BYTES:
            params = ProcessOutputParams(
                process_id=process.id, seq=chunk.seq, stream=chunk.stream, chunk=data
            )
            return (jsonrpc.notification("process/output", params),)
        params = ProcessOutputParams(
            process_id=process.id, seq=chunk.seq, stream=chunk.stream, chunk=b""
        )
        head, tail = jsonrpc.split_at_empty(jsonrpc.notification("process/output", params), "chunk")
        return (head, pybase64.b64encode(data), tail)

    def exited(self, process: Process, seq: int, status: ExitStatus) -> bytes:
        """process/exited."""
        params = ProcessExitedParams(
            process_id=process.id, seq=seq, exit_code=exit_code(process, status)
        )
        return jsonrpc.notification("process/exited", params)

    def closed(self, process: Process, seq: int) -> bytes:
        """process/closed."""
        params = ProcessClosedParams(process_id=process.id, seq=seq)
        return jsonrpc.notification("process/closed", params)


_ANNOUNCER: Final = V1Announcer()


def exit_code(process: Process, status: ExitStatus) -> int:
    """v1's code: the exit code, or for any signal -1 on pipes and 1 on a terminal."""
    if status.code is not None:
        return status.code
    return 1 if process.tty else -1


class LifecycleV1:
    """The handshake."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create or resume the session."""
        session = self._connection.open_session(params.resume_session_id)
        return InitializeResult(session_id=session.id)

    async def initialized(self, params: InitializedParams) -> None:
        """The connection itself notes that the handshake is over."""


class ProcessV1:
    """process/*."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _find(self, process_id: str) -> Process:
        process = self._connection.session.processes.get(process_id)
        if process is None:
            raise InvalidRequest(f"unknown process id {process_id}")
        return process

    async def start(self, params: ProcessStartParams) -> ProcessStartResult:
        """Start a process; its notifications follow this answer."""
        policy = params.env_policy
        env = child_environment(
            None
            if policy is None
            else EnvironmentPolicy(
                inherit=policy.inherit,
                ignore_default_excludes=policy.ignore_default_excludes,
                exclude=policy.exclude,
                set=policy.set,
                include_only=policy.include_only,
            ),
            params.env,
            os.environ,
        )
        spec = SpawnSpec(
            argv=params.argv,
            cwd=params.cwd,
            env=env,
            tty=params.tty,
            pipe_stdin=params.pipe_stdin,
            arg0=params.arg0,
        )
        self._connection.session.processes.start(params.process_id, spec, context=_ANNOUNCER)
        return ProcessStartResult(process_id=params.process_id)

    async def read(self, params: ProcessReadParams) -> ProcessReadResult:
        """Retained output, now or when there is some."""
        process = self._find(params.process_id)
        view = await process.read_wait(params.after_seq or 0, params.max_bytes, params.wait_ms or 0)
        return ProcessReadResult(
            chunks=[
                ProtocolChunk(seq=chunk.seq, stream=chunk.stream, chunk=chunk.data)
                for chunk in view.chunks
            ],
            next_seq=view.next_seq,
            exited=view.exited,
            exit_code=None if view.status is None else exit_code(process, view.status),
            closed=view.closed,
            failure=None,
        )

    async def write(self, params: ProcessWriteParams) -> ProcessWriteResult:
        """Queue bytes for the standard input."""
        process = self._connection.session.processes.get(params.process_id)
        if process is None:
            return ProcessWriteResult(status="unknownProcess")
        return ProcessWriteResult(status=await process.write(params.chunk))

    async def terminate(self, params: ProcessTerminateParams) -> ProcessTerminateResult:
        """Kill the process group."""
        process = self._connection.session.processes.get(params.process_id)
        return ProcessTerminateResult(running=process is not None and process.terminate())


class FilesystemV1:
    """fs/*."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read_file(self, params: FsReadFileParams) -> FsReadFileResult:
        """A whole file; a large one is read while it is sent."""
        refuse_restrictive(params.sandbox)
        source = files.open_for_read(files.normalize(params.path))
        try:
            if source.size is None:
                # A FIFO may have no writer for long; it changes nothing others could depend on.
                self._connection.leave_lane()
                await source.load()
            assert source.size is not None
            if source.size > PIECE_BYTES:
                return FsReadFileResult(data_base64=StreamedBytes.of(source, source.size))
            data = source.read(source.size) if source.size else b""
        except BaseException:
            source.close()
            raise
        source.close()
        return FsReadFileResult(data_base64=data)

    async def write_file(self, params: FsWriteFileParams) -> FsWriteFileResult:
        """Create or replace the content of a file."""
        text = params.data_base64
        refuse_restrictive(params.sandbox)
        try:
            data = pybase64.b64decode(text, validate=True)
        except ValueError as error:
            raise InvalidRequest(
                f"fs/writeFile requires valid base64 dataBase64: {error}"
            ) from None
        rest = len(data) % 3
        if rest and not text.endswith(pybase64.b64encode_as_string(data[-rest:])):
            raise InvalidRequest(
                "fs/writeFile requires valid base64 dataBase64: non-zero trailing bits"
            )
        path = files.normalize(params.path)
        if len(data) > LARGE_WRITE_BYTES:
            pending = await asyncio.to_thread(files.write_file, path, data)
        else:
            pending = files.write_file(path, data)
        if pending is not None:
            await pending.finish()
        return FsWriteFileResult()

    async def create_directory(self, params: FsCreateDirectoryParams) -> FsCreateDirectoryResult:
        """Make a directory, by default with its parents."""
        refuse_restrictive(params.sandbox)
        files.create_directory(files.normalize(params.path), params.recursive is not False)
        return FsCreateDirectoryResult()

    async def get_metadata(self, params: FsGetMetadataParams) -> FsGetMetadataResult:
        """Kind and times."""
        refuse_restrictive(params.sandbox)
        found = files.get_metadata(files.normalize(params.path))
        return FsGetMetadataResult(
            is_directory=found.is_directory,
            is_file=found.is_file,
            is_symlink=found.is_symlink,
            created_at_ms=found.created_at_ms,
            modified_at_ms=found.modified_at_ms,
        )

    async def read_directory(self, params: FsReadDirectoryParams) -> FsReadDirectoryResult:
        """The entries of a directory."""
        refuse_restrictive(params.sandbox)
        return FsReadDirectoryResult(
            entries=[
                DirectoryEntry(
                    file_name=entry.file_name,
                    is_directory=entry.is_directory,
                    is_file=entry.is_file,
                )
                for entry in files.read_directory(files.normalize(params.path))
            ]
        )

    async def remove(self, params: FsRemoveParams) -> FsRemoveResult:
        """Remove a file, a link or a tree."""
        refuse_restrictive(params.sandbox)
        path = files.normalize(params.path)
        recursive, force = params.recursive is not False, params.force is not False
        if recursive and os.path.isdir(path) and not os.path.islink(path):
            await asyncio.to_thread(files.remove, path, recursive, force)
        else:
            files.remove(path, recursive, force)
        return FsRemoveResult()

    async def copy(self, params: FsCopyParams) -> FsCopyResult:
        """Copy a file, a link or a tree."""
        refuse_restrictive(params.sandbox)
        source = files.normalize(params.source_path)
        destination = files.normalize(params.destination_path)
        await asyncio.to_thread(files.copy, source, destination, params.recursive)
        return FsCopyResult()

    async def canonicalize(self, params: FsCanonicalizeParams) -> FsCanonicalizeResult:
        """The path without symbolic links."""
        refuse_restrictive(params.sandbox)
        path = files.canonicalize(files.normalize(params.path))
        return FsCanonicalizeResult(path=files.displayable(path))

    async def join(self, params: FsJoinParams) -> FsJoinResult:
        """Join two paths, as text."""
        return FsJoinResult(path=files.join(params.base_path, params.path))

    async def parent(self, params: FsParentParams) -> FsParentResult:
        """The parent of a path, as text."""
        return FsParentResult(path=files.parent(params.path))


class HttpV1:
    """http/request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = http.HttpClient()
        self._streams: dict[str, asyncio.Task[None] | None] = {}

    async def request(self, params: HttpRequestParams) -> HttpRequestResult:
        """Make a request; the body comes with the answer or as notifications after it."""
        request = http.HttpRequest(
            method=params.method,
            url=params.url,
            headers=[(header.name, header.value) for header in params.headers],
            body=params.body_base64,
            timeout_ms=params.timeout_ms,
        )
        if not params.stream_response:
            response = await self._client.fetch(request)
            return HttpRequestResult(
                status=response.status,
                headers=_headers(response.headers),
                body_base64=response.body,
            )
        stream_id = params.request_id
        if stream_id in self._streams:
            raise InvalidArgument(
                f"http/request streamResponse requestId `{stream_id}` is already active"
            )
        self._streams[stream_id] = None
        try:
            stream = await self._client.open(request)
        except BaseException:
            del self._streams[stream_id]
            raise
        # A task starts after this answer is queued, so the first delta follows it.
        self._streams[stream_id] = asyncio.create_task(self._pump(stream_id, stream))
        return HttpRequestResult(
            status=stream.status, headers=_headers(stream.headers), body_base64=b""
        )

    async def _pump(self, stream_id: str, stream: http.HttpStream) -> None:
        seq = 0
        error: str | None = None
        try:
            async for piece in stream:
                seq += 1
                self._delta(stream_id, seq, piece)
                await self._connection.wait_uncongested()
        except EngineError as failure:
            error = str(failure)
        finally:
            await stream.aclose()
            del self._streams[stream_id]
        self._delta(stream_id, seq + 1, b"", done=True, error=error)

    def _delta(
        self,
        stream_id: str,
        seq: int,
        data: bytes,
        *,
        done: bool = False,
        error: str | None = None,
    ) -> None:
        params = HttpRequestBodyDeltaParams(
            request_id=stream_id, seq=seq, delta_base64=data, done=done, error=error
        )
        self._connection.notify((jsonrpc.notification("http/request/bodyDelta", params),))

    async def aclose(self) -> None:
        """Drop every upstream connection."""
        tasks = [task for task in self._streams.values() if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._client.aclose()


def _headers(headers: list[tuple[str, str]]) -> list[HttpHeader]:
    return [HttpHeader(name=name, value=value) for name, value in headers]


class EnvironmentV1:
    """environment/*."""

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """What commands are best written for."""
        shell = login_shell()
        return EnvironmentInfoResult(shell=Shell(name=shell.name, path=shell.path))


@dataclass(frozen=True, slots=True)
class HandlersV1:
    """The handlers of one connection."""

    lifecycle: LifecycleV1
    process: ProcessV1
    filesystem: FilesystemV1
    http: HttpV1
    environment: EnvironmentV1


def _decoder(route: Method) -> Callable[[msgspec.Raw], Any]:
    decode = msgspec.json.Decoder(route.params).decode
    if route.params_presence == "ignored":
        return lambda _raw: decode(b"{}")
    if route.params_presence == "optional":
        return lambda raw: decode(b"{}" if bytes(raw) == b"null" else raw)
    return decode


_DECODERS: Final = {name: _decoder(route) for name, route in ROUTES.items()}

_IN_LANE: Final = frozenset(
    {name for name, route in ROUTES.items() if route.family == "filesystem"} | {"process/start"}
)


class V1:
    """Revision v1, for the server's list."""

    name = "v1"

    def bind(self, connection: Connection) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        http_handler = HttpV1(connection)
        calls = bind(
            HandlersV1(
                lifecycle=LifecycleV1(connection),
                process=ProcessV1(connection),
                filesystem=FilesystemV1(connection),
                http=http_handler,
                environment=EnvironmentV1(),
            )
        )
        return BoundRevision(
            name=self.name,
            methods={
                name: BoundMethod(
                    method=name,
                    family=FAMILIES[route.family].state_name or "",
                    decode=_DECODERS[name],
                    call=calls[name],
                    base64_params=route.base64_params,
                    in_lane=name in _IN_LANE,
                    before_handshake=name == "initialize",
                    not_found_code=errors.NOT_FOUND,
                )
                for name, route in ROUTES.items()
                if route.kind == "request"
            },
            large_members={
                FsReadFileResult: ("data_base64", "dataBase64"),
                HttpRequestResult: ("body_base64", "bodyBase64"),
            },
            aclose=http_handler.aclose,
        )
