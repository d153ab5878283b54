"""Revision v1 (codex 0.121 to 0.139): native absolute paths, exit code -1 or 1 for a signal."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from exec_server import jsonrpc
from exec_server.connection import BoundRevision
from exec_server.engine import files, http
from exec_server.engine.environ import child_environment
from exec_server.engine.shell import login_shell
from exec_server.engine.spawn import SpawnSpec
from exec_server.errors import InvalidRequest
from exec_server.handlers.binding import bind_methods, decoders
from exec_server.handlers.file_content import (
    decode_content,
    read_content,
    remove_path,
    write_content,
)
from exec_server.handlers.http_requests import HttpRequests
from exec_server.handlers.process_events import exit_code_without_signals, output_message
from exec_server.handlers.sandbox import refuse_restrictive
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
    from exec_server.engine.process import ExitStatus, OutputChunk, Process


class V1Announcer:
    """Process events in v1's shapes."""

    revision = "v1"

    def output(self, process: Process, chunk: OutputChunk) -> Sequence[bytes]:
        """process/output."""
        return output_message(
            "process/output",
            lambda data: ProcessOutputParams(
                process_id=process.id, seq=chunk.seq, stream=chunk.stream, chunk=data
            ),
            chunk.data,
        )

    def exited(self, process: Process, seq: int, status: ExitStatus) -> bytes:
        """process/exited."""
        params = ProcessExitedParams(
            process_id=process.id, seq=seq, exit_code=exit_code_without_signals(process, status)
        )
        return jsonrpc.notification("process/exited", params)

    def closed(self, process: Process, seq: int) -> bytes:
        """process/closed."""
        params = ProcessClosedParams(process_id=process.id, seq=seq)
        return jsonrpc.notification("process/closed", params)


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

    async def read_file(self, params: FsReadFileParams) -> FsReadFileResult:
        """A whole file; a large one is read while it is sent."""
        refuse_restrictive(params.sandbox)
        source = files.open_for_read(files.normalize(params.path))
        return FsReadFileResult(data_base64=await read_content(self._connection, source))

    async def write_file(self, params: FsWriteFileParams) -> FsWriteFileResult:
        """Create or replace the content of a file."""
        refuse_restrictive(params.sandbox)
        data = decode_content(params.data_base64)
        path = files.normalize(params.path)
        durable = self._connection.settings.fsync
        await write_content(data, lambda data: files.write_file(path, data, durable=durable))
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
        await remove_path(
            files.normalize(params.path),
            recursive=params.recursive is not False,
            force=params.force is not False,
        )
        return FsRemoveResult()

    async def copy(self, params: FsCopyParams) -> FsCopyResult:
        """Copy a file, a link or a tree."""
        refuse_restrictive(params.sandbox)
        source = files.normalize(params.source_path)
        destination = files.normalize(params.destination_path)
        await asyncio.to_thread(
            files.copy,
            source,
            destination,
            params.recursive,
            durable=self._connection.settings.fsync,
        )
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

    def __init__(self, requests: HttpRequests) -> None:
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
        if params.stream_response:
            stream = await self._requests.stream(params.request_id, request)
            return HttpRequestResult(
                status=stream.status, headers=_headers(stream.headers), body_base64=b""
            )
        response = await self._requests.fetch(request)
        return HttpRequestResult(
            status=response.status, headers=_headers(response.headers), body_base64=response.body
        )


def _headers(headers: list[tuple[str, str]]) -> list[HttpHeader]:
    return [HttpHeader(name=name, value=value) for name, value in headers]


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
        requests = HttpRequests(connection, HttpRequestBodyDeltaParams)
        handlers = HandlersV1(
            lifecycle=LifecycleV1(connection),
            process=ProcessV1(connection),
            filesystem=FilesystemV1(connection),
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
            },
            aclose=requests.aclose,
        )
