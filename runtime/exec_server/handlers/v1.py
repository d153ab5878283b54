"""Revision v1 (codex 0.121 to 0.139): native absolute paths, exit code -1 or 1 for a signal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from exec_server import jsonrpc
from exec_server.connection import BoundRevision
from exec_server.engine import file_operations as operations
from exec_server.engine import files, http
from exec_server.engine.environ import child_environment
from exec_server.engine.file_source import source_of
from exec_server.engine.paths import from_native, to_native
from exec_server.engine.shell import login_shell
from exec_server.engine.spawn import SpawnSpec
from exec_server.errors import InvalidRequest
from exec_server.handlers.binding import bind_methods, decoders
from exec_server.handlers.file_access import FileAccess
from exec_server.handlers.file_content import decode_content, read_content
from exec_server.handlers.http_requests import HttpRequests
from exec_server.handlers.process_events import NumberedEvents, exit_code_without_signals
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
    from collections.abc import Callable, Mapping, Sequence

    from exec_server.connection import Connection
    from exec_server.engine.file_operations import Operation
    from exec_server.engine.process import ExitStatus, Process

R = TypeVar("R")


class V1Announcer(NumberedEvents):
    """Process events in v1's shapes."""

    revision = "v1"
    output_params = ProcessOutputParams
    closed_params = ProcessClosedParams

    def exited(self, process: Process, seq: int, status: ExitStatus) -> bytes:
        """process/exited."""
        params = ProcessExitedParams(
            process_id=process.id, seq=seq, exit_code=exit_code_without_signals(process, status)
        )
        return jsonrpc.notification("process/exited", params)


_ANNOUNCER: Final = V1Announcer()


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
        spec = SpawnSpec(
            argv=params.argv,
            cwd=params.cwd,
            env=child_environment(params.env_policy, params.env, os.environ),
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
            exit_code=None
            if view.status is None
            else exit_code_without_signals(process, view.status),
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
        self._access = FileAccess()

    async def _run(self, operation: Operation[R], sandbox: Mapping[str, Any] | None) -> R:
        if sandbox is None:
            return await self._access.run(operation, None)
        # Loads the shapes of permissions, which few clients send.
        from exec_server.handlers.sandbox import policy_of  # noqa: PLC0415

        return await self._access.run(operation, policy_of(sandbox))

    async def read_file(self, params: FsReadFileParams) -> FsReadFileResult:
        """A whole file; a large one is read while it is sent."""
        opening = operations.OpenForRead(to_native(params.path), False)
        source = source_of(await self._run(opening, params.sandbox))
        return FsReadFileResult(data_base64=await read_content(self._connection, source))

    async def write_file(self, params: FsWriteFileParams) -> FsWriteFileResult:
        """Create or replace the content of a file."""
        writing = operations.WriteFile(
            data=decode_content(params.data_base64),
            path=to_native(params.path),
            durable=self._connection.settings.fsync,
        )
        await self._run(writing, params.sandbox)
        return FsWriteFileResult()

    async def create_directory(self, params: FsCreateDirectoryParams) -> FsCreateDirectoryResult:
        """Make a directory, by default with its parents."""
        making = operations.CreateDirectory(to_native(params.path), params.recursive is not False)
        await self._run(making, params.sandbox)
        return FsCreateDirectoryResult()

    async def get_metadata(self, params: FsGetMetadataParams) -> FsGetMetadataResult:
        """Kind and times."""
        found = await self._run(operations.GetMetadata(to_native(params.path)), params.sandbox)
        return FsGetMetadataResult(
            is_directory=found.is_directory,
            is_file=found.is_file,
            is_symlink=found.is_symlink,
            created_at_ms=found.created_at_ms,
            modified_at_ms=found.modified_at_ms,
        )

    async def read_directory(self, params: FsReadDirectoryParams) -> FsReadDirectoryResult:
        """The entries of a directory."""
        listing = operations.ReadDirectory(to_native(params.path))
        return FsReadDirectoryResult(
            entries=[
                DirectoryEntry(
                    file_name=entry.file_name,
                    is_directory=entry.is_directory,
                    is_file=entry.is_file,
                )
                for entry in await self._run(listing, params.sandbox)
            ]
        )

    async def remove(self, params: FsRemoveParams) -> FsRemoveResult:
        """Remove a file, a link or a tree."""
        removing = operations.Remove(
            to_native(params.path),
            recursive=params.recursive is not False,
            force=params.force is not False,
        )
        await self._run(removing, params.sandbox)
        return FsRemoveResult()

    async def copy(self, params: FsCopyParams) -> FsCopyResult:
        """Copy a file, a link or a tree."""
        copying = operations.Copy(
            to_native(params.source_path),
            to_native(params.destination_path),
            params.recursive,
            durable=self._connection.settings.fsync,
        )
        await self._run(copying, params.sandbox)
        return FsCopyResult()

    async def canonicalize(self, params: FsCanonicalizeParams) -> FsCanonicalizeResult:
        """The path without symbolic links."""
        resolving = operations.Canonicalize(to_native(params.path))
        path = from_native(await self._run(resolving, params.sandbox))
        return FsCanonicalizeResult(path=files.displayable(path))

    async def join(self, params: FsJoinParams) -> FsJoinResult:
        """Join two paths, as text."""
        return FsJoinResult(path=files.join(params.base_path, params.path))

    async def parent(self, params: FsParentParams) -> FsParentResult:
        """The parent of a path, as text."""
        return FsParentResult(path=files.parent(params.path))

    async def aclose(self) -> None:
        """Release what it holds."""
        await self._access.aclose()


class HttpV1:
    """http/request."""

    def __init__(self, requests: HttpRequests[HttpRequestResult]) -> None:
        self._requests = requests

    async def request(self, params: HttpRequestParams) -> HttpRequestResult:
        """Make a request; the body comes with the answer or as notifications after it."""
        request = http.HttpRequest(
            method=params.method,
            url=params.url,
            headers=[(header.name, header.value) for header in params.headers],
            body=params.body_base64,
            timeout_ms=params.timeout_ms,
        )
        stream_as = params.request_id if params.stream_response else None
        return await self._requests.answer(request, stream_as)


def _http_result(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> HttpRequestResult:
    """The answer to http/request."""
    return HttpRequestResult(
        status=status,
        headers=[HttpHeader(name=name, value=value) for name, value in headers],
        body_base64=body,
    )


class EnvironmentV1:
    """environment/*."""

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """What commands are best written for."""
        shell = login_shell()
        return EnvironmentInfoResult(shell=Shell(name=shell.name, path=shell.path))


class HandlersV1(msgspec.Struct, frozen=True):
    """The handlers of one connection."""

    lifecycle: LifecycleV1
    process: ProcessV1
    filesystem: FilesystemV1
    http: HttpV1
    environment: EnvironmentV1


_DECODERS: Final = decoders(ROUTES)

_IN_LANE: Final = frozenset(
    {name for name, route in ROUTES.items() if route.family == "filesystem"} | {"process/start"}
)


class _WriteName(msgspec.Struct, rename="camel"):
    write_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _starts_at_uri(_raw: msgspec.Raw, params: ProcessStartParams) -> bool:
    return params.cwd.startswith("file:")


def _is_named_write(raw: msgspec.Raw, _params: ProcessWriteParams) -> bool:
    return msgspec.json.decode(raw, type=_WriteName).write_id is not msgspec.UNSET


_NEWER: Final[Mapping[str, Callable[[msgspec.Raw, Any], bool]]] = {
    "process/start": _starts_at_uri,
    "process/write": _is_named_write,
}
"""Params that decode here but are v2's, and wrong there: v1 would ignore what is wrong."""

_COVERED: Final = frozenset(("http/request", "environment/info"))
"""Methods whose v2 takes and answers all that v1's does."""


class V1:
    """Revision v1, for the server's list."""

    name = "v1"

    def __init__(self, *, beside_newer: bool = False) -> None:
        """``beside_newer``: v2 is served too, and what can only be meant for it is left to it."""
        self._beside_newer = beside_newer

    def bind(self, connection: Connection) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        filesystem = FilesystemV1(connection)
        requests = HttpRequests(connection, _http_result, HttpRequestBodyDeltaParams)

        async def aclose() -> None:
            await filesystem.aclose()
            await requests.aclose()

        handlers = HandlersV1(
            lifecycle=LifecycleV1(connection),
            process=ProcessV1(connection),
            filesystem=filesystem,
            http=HttpV1(requests),
            environment=EnvironmentV1(),
        )
        methods = bind_methods(
            self.name,
            ROUTES,
            _DECODERS,
            bind(handlers),
            in_lane=_IN_LANE,
            not_found_code=errors.NOT_FOUND,
        )
        if self._beside_newer:
            for name in _COVERED:
                del methods[name]
            for name, is_newer in _NEWER.items():
                methods[name] = msgspec.structs.replace(methods[name], is_newer=is_newer)
        return BoundRevision(
            name=self.name,
            methods=methods,
            large_members={
                FsReadFileResult: ("data_base64", "dataBase64"),
                HttpRequestResult: ("body_base64", "bodyBase64"),
                ProcessReadResult: ("chunks", "chunk"),
            },
            aclose=aclose,
        )
