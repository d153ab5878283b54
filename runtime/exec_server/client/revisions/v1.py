"""Revision v1: native paths, writes without a name, no signals (codex 0.121 to 0.139)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybase64

from exec_server.client.errors import ServerError, Unsupported
from exec_server.client.lenient_decode import decoder
from exec_server.client.revisions import shared_models
from exec_server.client.revisions.base import Environment, Revision
from exec_server_protocol.v1.client import Client
from exec_server_protocol.v1.filesystem import (
    FsCanonicalizeParams,
    FsCopyParams,
    FsCreateDirectoryParams,
    FsGetMetadataParams,
    FsReadDirectoryParams,
    FsReadFileParams,
    FsRemoveParams,
    FsWriteFileParams,
)
from exec_server_protocol.v1.http import (
    HttpHeader,
    HttpRequestBodyDeltaParams,
    HttpRequestParams,
)
from exec_server_protocol.v1.methods import METHODS
from exec_server_protocol.v1.process import (
    EnvPolicy,
    ProcessClosedParams,
    ProcessExitedParams,
    ProcessOutputParams,
    ProcessReadParams,
    ProcessStartParams,
    ProcessTerminateParams,
    ProcessWriteParams,
)

if TYPE_CHECKING:
    import msgspec

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

_EVENTS = shared_models.event_decoders(
    ProcessOutputParams, ProcessExitedParams, ProcessClosedParams
)


class V1(Revision):
    """See Revision for what the methods do."""

    name = "v1"
    methods = METHODS

    def __init__(self, caller: Caller) -> None:
        self._client = Client(caller)

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
        params = ProcessStartParams(
            process_id=spec.process_id,
            argv=list(spec.argv),
            cwd="." if spec.cwd is None else spec.cwd,
            env_policy=EnvPolicy(
                inherit=spec.inherit or "all",
                ignore_default_excludes=False,
                exclude=[],
                set={},
                include_only=[],
            ),
            env=dict(spec.env),
            tty=spec.tty,
            pipe_stdin=spec.pipe_stdin,
            arg0=spec.arg0,
        )
        try:
            return (await self._client.process.start(params)).process_id
        except ServerError as error:
            if shared_models.was_started_before(error, spec.process_id):
                return spec.process_id
            raise

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
        """process/write, which has no place for the name of the write."""
        result = await self._client.process.write(
            ProcessWriteParams(process_id=process_id, chunk=data)
        )
        shared_models.check_write(process_id, result.status)

    async def terminate(self, process_id: str, grace_ms: int | None) -> bool:
        """process/terminate."""
        if grace_ms is not None:
            self._unsupported("asking a process to end")
        params = ProcessTerminateParams(process_id=process_id)
        return (await self._client.process.terminate(params)).running

    # Environment

    async def environment(self) -> Environment:
        """environment/info, which is there from codex 0.139 on."""
        shell = (await self._client.environment.info()).shell
        return Environment(shell_name=shell.name, shell_path=shell.path)

    # Files

    async def read_file(self, path: str) -> bytes:
        """fs/readFile."""
        return (await self._client.filesystem.read_file(FsReadFileParams(path=path))).data_base64

    async def write_file(self, path: str, data: bytes) -> None:
        """fs/writeFile."""
        await self._client.filesystem.write_file(
            FsWriteFileParams(path=path, data_base64=pybase64.b64encode_as_string(data))
        )

    async def create_directory(self, path: str, *, recursive: bool) -> None:
        """fs/createDirectory."""
        await self._client.filesystem.create_directory(
            FsCreateDirectoryParams(path=path, recursive=recursive)
        )

    async def status(self, path: str) -> FileStatus:
        """fs/getMetadata, which knows no size."""
        return shared_models.file_status(
            await self._client.filesystem.get_metadata(FsGetMetadataParams(path=path))
        )

    async def read_directory(self, path: str) -> list[DirEntry]:
        """fs/readDirectory."""
        result = await self._client.filesystem.read_directory(FsReadDirectoryParams(path=path))
        return shared_models.entries(result.entries)

    async def remove(self, path: str, *, recursive: bool, force: bool) -> None:
        """fs/remove."""
        await self._client.filesystem.remove(
            FsRemoveParams(path=path, recursive=recursive, force=force)
        )

    async def copy(self, source: str, destination: str, *, recursive: bool) -> None:
        """fs/copy."""
        await self._client.filesystem.copy(
            FsCopyParams(source_path=source, destination_path=destination, recursive=recursive)
        )

    async def canonicalize(self, path: str) -> str:
        """fs/canonicalize, which is there from codex 0.137 on."""
        result = await self._client.filesystem.canonicalize(FsCanonicalizeParams(path=path))
        return result.path

    # HTTP

    async def http(self, exchange: HttpExchange) -> HttpHead:
        """http/request, which follows redirects."""
        if not exchange.follow_redirects:
            raise Unsupported("revision v1 follows redirects")
        return shared_models.http_head(
            await self._client.http.request(
                HttpRequestParams(
                    method=exchange.method,
                    url=exchange.url,
                    headers=[
                        HttpHeader(name=name, value=value) for name, value in exchange.headers
                    ],
                    body_base64=exchange.body,
                    timeout_ms=exchange.timeout_ms,
                    request_id=exchange.request_id,
                    stream_response=exchange.stream,
                )
            )
        )
