"""Revision v2: ``file:`` URIs, named writes, SIGINT, open files (codex 0.143 to 0.169)."""

from __future__ import annotations

import contextlib
import posixpath
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
import pybase64

from exec_server.client.errors import BadAnswer, MethodUnknown, ServerError
from exec_server.client.lenient_decode import decoder
from exec_server.client.paths import from_uri, to_uri
from exec_server.client.revisions import shared_models
from exec_server.client.revisions.base import (
    WALK_DEPTH,
    WALK_DIRECTORIES,
    WALK_ENTRIES,
    Environment,
    Revision,
    Tree,
    TreeEntry,
    TreeError,
)
from exec_server.printable import printable
from exec_server_protocol.v2.client import Client
from exec_server_protocol.v2.environment import EnvironmentInfoResult
from exec_server_protocol.v2.filesystem import (
    FsCanonicalizeParams,
    FsCloseParams,
    FsCopyParams,
    FsCreateDirectoryParams,
    FsGetMetadataParams,
    FsOpenParams,
    FsReadBlockParams,
    FsReadDirectoryParams,
    FsReadFileParams,
    FsRemoveParams,
    FsWalkParams,
    FsWriteBlockParams,
    FsWriteFileParams,
    WalkOptions,
)
from exec_server_protocol.v2.http import (
    HttpRequestBodyDeltaParams,
    HttpRequestHeader,
    HttpRequestParams,
)
from exec_server_protocol.v2.methods import METHODS
from exec_server_protocol.v2.process import (
    EnvPolicy,
    ProcessClosedParams,
    ProcessExitedParams,
    ProcessOutputParams,
    ProcessReadParams,
    ProcessSignalParams,
    ProcessStartParams,
    ProcessTerminateParams,
    ProcessWriteParams,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server.client.events import PlacedEvent, Snapshot
    from exec_server.client.revisions.base import (
        BodyPiece,
        DirEntry,
        FileStatus,
        HttpExchange,
        HttpHead,
        StartSpec,
    )
    from exec_server_protocol.caller import Caller
    from exec_server_protocol.table import Method

FILE_WRITE_STREAMING: Final = "fileWriteStreaming"
"""The capability of writing files in blocks."""

_EVENTS: Final = shared_models.event_decoders(
    ProcessOutputParams, ProcessExitedParams, ProcessClosedParams
)


class V2(Revision):
    """See Revision for what the methods do."""

    name = "v2"
    methods: ClassVar[Mapping[str, Method]] = METHODS
    has_interrupt = True
    can_stream_reads = True
    has_tree = True
    _info_model: ClassVar[type[EnvironmentInfoResult]] = EnvironmentInfoResult

    def __init__(self, caller: Caller, environment_info: msgspec.Raw) -> None:
        self._client = Client(caller)
        self._environment: Environment | None = None
        with contextlib.suppress(msgspec.ValidationError):
            self._environment = _environment(decoder(self._info_model)(environment_info))

    def event(self, method: str, params: msgspec.Raw) -> tuple[str, PlacedEvent] | None:
        """process/output, process/exited and process/closed."""
        decode = _EVENTS.get(method)
        return None if decode is None else decode(params)

    def body_piece(self, method: str, params: msgspec.Raw) -> BodyPiece | None:
        """http/request/bodyDelta."""
        if method != "http/request/bodyDelta":
            return None
        return shared_models.body_piece(decoder(HttpRequestBodyDeltaParams)(params))

    # Processes

    async def start(self, spec: StartSpec) -> str:
        """process/start."""
        if spec.size is not None:
            self._unsupported("the size of a terminal")
        params = ProcessStartParams(**await self._start_members(spec))
        return await self._start(params)

    async def _start(self, params: ProcessStartParams) -> str:
        try:
            return (await self._client.process.start(params)).process_id
        except ServerError as error:
            if shared_models.was_started_before(error, params.process_id):
                return params.process_id
            raise

    async def _start_members(self, spec: StartSpec) -> dict[str, Any]:
        return {
            "process_id": spec.process_id,
            "argv": list(spec.argv),
            "cwd": to_uri(await self._directory(spec.cwd)),
            "env_policy": EnvPolicy(
                inherit=spec.inherit or "all",
                ignore_default_excludes=False,
                exclude=[],
                set={},
                include_only=[],
            ),
            "env": dict(spec.env),
            "tty": spec.tty,
            "pipe_stdin": spec.pipe_stdin,
            "arg0": spec.arg0,
        }

    async def _directory(self, cwd: str | None) -> str:
        """Return an absolute working directory; relative ones are joined to the server's.

        A server that does not report its own directory is taken to be in ``/``.
        """
        if cwd is not None and posixpath.isabs(cwd):
            return cwd
        base = None
        with contextlib.suppress(MethodUnknown):
            base = (await self.environment()).cwd
        base = base or "/"
        return base if cwd is None else posixpath.join(base, cwd)

    async def read(
        self, process_id: str, after_seq: int, max_bytes: int | None, wait_ms: int
    ) -> Snapshot:
        """process/read."""
        return shared_models.snapshot(
            await self._client.process.read(
                ProcessReadParams(
                    process_id=process_id,
                    after_seq=after_seq,
                    max_bytes=max_bytes,
                    wait_ms=wait_ms,
                )
            )
        )

    async def write(self, process_id: str, data: bytes, write_id: str) -> None:
        """process/write."""
        result = await self._client.process.write(
            ProcessWriteParams(process_id=process_id, chunk=data, write_id=write_id)
        )
        shared_models.check_write(process_id, result.status)

    async def terminate(self, process_id: str, grace_ms: int | None) -> bool:
        """process/terminate."""
        if grace_ms is not None:
            self._unsupported("asking a process to end")
        params = ProcessTerminateParams(process_id=process_id)
        return (await self._client.process.terminate(params)).running

    async def interrupt(self, process_id: str) -> None:
        """process/signal."""
        await self._client.process.signal(
            ProcessSignalParams(process_id=process_id, signal="interrupt")
        )

    # Environment

    async def environment(self) -> Environment:
        """environment/info, asked for unless initialize was answered with it."""
        if self._environment is None:
            self._environment = _environment(await self._client.environment.info())
        return self._environment

    # Files

    async def read_file(self, path: str) -> bytes:
        """fs/readFile."""
        params = FsReadFileParams(path=to_uri(path))
        return (await self._client.filesystem.read_file(params)).data_base64

    async def write_file(self, path: str, data: bytes) -> None:
        """fs/writeFile."""
        await self._client.filesystem.write_file(
            FsWriteFileParams(path=to_uri(path), data_base64=pybase64.b64encode_as_string(data))
        )

    async def create_directory(self, path: str, *, recursive: bool) -> None:
        """fs/createDirectory."""
        await self._client.filesystem.create_directory(
            FsCreateDirectoryParams(path=to_uri(path), recursive=recursive)
        )

    async def status(self, path: str) -> FileStatus:
        """fs/getMetadata."""
        return shared_models.file_status(
            await self._client.filesystem.get_metadata(FsGetMetadataParams(path=to_uri(path)))
        )

    async def read_directory(self, path: str) -> list[DirEntry]:
        """fs/readDirectory."""
        params = FsReadDirectoryParams(path=to_uri(path))
        return shared_models.entries((await self._client.filesystem.read_directory(params)).entries)

    async def tree(self, path: str, *, follow_symlinks: bool, prune_hidden: bool) -> Tree:
        """fs/walk."""
        result = await self._client.filesystem.walk(
            FsWalkParams(
                path=to_uri(path),
                options=WalkOptions(
                    max_depth=WALK_DEPTH,
                    max_directories=WALK_DIRECTORIES,
                    max_entries=WALK_ENTRIES,
                    follow_directory_symlinks=follow_symlinks,
                    prune_hidden_directories=prune_hidden,
                ),
            )
        )
        return Tree(
            [
                TreeEntry(_below(path, from_uri(found.path)), found.kind == "directory")
                for found in result.entries
            ],
            [TreeError(from_uri(missed.path), missed.message) for missed in result.errors],
            result.truncated,
        )

    async def remove(self, path: str, *, recursive: bool, force: bool) -> None:
        """fs/remove."""
        await self._client.filesystem.remove(
            FsRemoveParams(path=to_uri(path), recursive=recursive, force=force)
        )

    async def copy(self, source: str, destination: str, *, recursive: bool) -> None:
        """fs/copy."""
        await self._client.filesystem.copy(
            FsCopyParams(
                source_path=to_uri(source),
                destination_path=to_uri(destination),
                recursive=recursive,
            )
        )

    async def canonicalize(self, path: str) -> str:
        """fs/canonicalize."""
        params = FsCanonicalizeParams(path=to_uri(path))
        return from_uri((await self._client.filesystem.canonicalize(params)).path)

    async def can_stream_writes(self) -> bool:
        """The capability of fs/writeBlock."""
        try:
            return FILE_WRITE_STREAMING in (await self.environment()).capabilities
        except MethodUnknown:
            return False

    async def open_file(self, handle_id: str, path: str, *, writes: bool) -> None:
        """fs/open."""
        await self._client.filesystem.open(
            FsOpenParams(
                handle_id=handle_id, path=to_uri(path), mode="replace" if writes else "read"
            )
        )

    async def read_block(self, handle_id: str, offset: int, length: int) -> bytes:
        """fs/readBlock."""
        params = FsReadBlockParams(handle_id=handle_id, offset=offset, len=length)
        return (await self._client.filesystem.read_block(params)).chunk

    async def write_block(self, handle_id: str, offset: int, data: bytes) -> None:
        """fs/writeBlock."""
        await self._client.filesystem.write_block(
            FsWriteBlockParams(handle_id=handle_id, offset=offset, chunk=data)
        )

    async def close_file(self, handle_id: str) -> None:
        """fs/close."""
        await self._client.filesystem.close(FsCloseParams(handle_id=handle_id))

    # HTTP

    async def http(self, exchange: HttpExchange) -> HttpHead:
        """http/request."""
        return shared_models.http_head(
            await self._client.http.request(
                HttpRequestParams(
                    method=exchange.method,
                    url=exchange.url,
                    headers=[
                        HttpRequestHeader(name=name, value=value)
                        for name, value in exchange.headers
                    ],
                    body_base64=exchange.body,
                    timeout_ms=exchange.timeout_ms,
                    redirect_policy="follow" if exchange.follow_redirects else "stop",
                    request_id=exchange.request_id,
                    stream_response=exchange.stream,
                )
            )
        )


def _environment(info: EnvironmentInfoResult) -> Environment:
    flags = msgspec.to_builtins(info.capabilities) if info.capabilities else {}
    return Environment(
        shell_name=info.shell.name,
        shell_path=info.shell.path,
        cwd=_native(info.cwd),
        home=_native(info.user_home_dir),
        temp_dir=_native(info.temp_dir),
        platform=info.platform_os or None,
        version=info.executor_version or None,
        capabilities=frozenset(name for name, is_on in flags.items() if is_on),
    )


def _below(top: str, path: str) -> str:
    """The path. Raises BadAnswer unless it is below ``top`` by its names alone."""
    prefix = f"/{posixpath.normpath(top).strip('/')}/".replace("//", "/")
    names = path.removeprefix(prefix).split("/")
    if not path.startswith(prefix) or not all(map(shared_models.is_entry_name, names)):
        raise BadAnswer(f"fs/walk: '{printable(path, 80)}' is not below {top!r}")
    return path


def _native(uri: str | msgspec.UnsetType) -> str | None:
    return from_uri(uri) if isinstance(uri, str) else None
