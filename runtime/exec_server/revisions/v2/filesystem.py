"""Handlers of fs/* in v2: paths are file URIs, and files can be read and written in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from exec_server import jsonrpc
from exec_server.engine import path_uri
from exec_server.engine.files import requests
from exec_server.engine.files.handles import FileHandles
from exec_server.engine.files.source import source_of
from exec_server.engine.files.walk import WalkOptions
from exec_server.engine.paths import from_native, to_native
from exec_server.errors import InvalidRequest, system_text
from exec_server.revisions.file_access import FileAccess, in_turns
from exec_server.revisions.file_content import decode_content, read_content
from exec_server.revisions.v2 import sandbox as sandboxes
from exec_server_protocol.v2.filesystem import (
    DirectoryEntry,
    FsCanonicalizeParams,
    FsCanonicalizeResult,
    FsCloseParams,
    FsCloseResult,
    FsCopyParams,
    FsCopyResult,
    FsCreateDirectoryParams,
    FsCreateDirectoryResult,
    FsGetMetadataParams,
    FsGetMetadataResult,
    FsMissingChangedParams,
    FsOpenParams,
    FsOpenResult,
    FsReadBlockParams,
    FsReadBlockResult,
    FsReadDirectoryParams,
    FsReadDirectoryResult,
    FsReadFileParams,
    FsReadFileResult,
    FsRemoveParams,
    FsRemoveResult,
    FsWalkParams,
    FsWalkResult,
    FsWatchMissingParams,
    FsWatchMissingResult,
    FsWriteBlockParams,
    FsWriteBlockResult,
    FsWriteFileParams,
    FsWriteFileResult,
    WalkEntry,
    WalkError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.engine.files.missing_watch import MissingWatch
    from exec_server.engine.files.operations import DirectoryEntry as FoundEntry
    from exec_server.engine.files.requests import Operation
    from exec_server.revisions.interface import ConnectionContext
    from exec_server_protocol.v2.sandbox import Sandbox

R = TypeVar("R")


class FilesystemV2:
    """Handlers of fs/*."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection
        self._access = FileAccess()
        self._handles = FileHandles(connection.settings.max_file_handles)
        self._watch: MissingWatch | None = None

    async def _run(self, operation: Operation[R], sandbox: Sandbox | None) -> R:
        policy = None if sandbox is None else sandboxes.policy_for_files(sandbox)
        return await self._access.run(operation, policy)

    async def read_file(self, params: FsReadFileParams) -> FsReadFileResult:
        """Return a whole regular file; a large one is read while it is sent."""
        follow = params.follow_symlinks is not False
        opening = requests.OpenForRead(_native(params.path), True, follow)
        source = source_of(await self._run(opening, params.sandbox))
        return FsReadFileResult(data_base64=await read_content(self._connection, source))

    async def write_file(self, params: FsWriteFileParams) -> FsWriteFileResult:
        """Create or replace the content of a file."""
        writing = requests.WriteFile(
            _native(params.path),
            decode_content(params.data_base64),
            follow_symlinks=params.follow_symlinks is not False,
            durable=self._connection.settings.fsync,
        )
        await self._run(writing, params.sandbox)
        return FsWriteFileResult()

    async def create_directory(self, params: FsCreateDirectoryParams) -> FsCreateDirectoryResult:
        """Create a directory, by default with its parents."""
        making = requests.CreateDirectory(
            _native(params.path),
            params.recursive is not False,
            follow_symlinks=params.follow_symlinks is not False,
        )
        await self._run(making, params.sandbox)
        return FsCreateDirectoryResult()

    async def get_metadata(self, params: FsGetMetadataParams) -> FsGetMetadataResult:
        """Return the kind, the size and the times of a file."""
        follow = params.follow_symlinks is not False
        looking = requests.GetMetadata(_native(params.path), follow)
        found = await self._run(looking, params.sandbox)
        return FsGetMetadataResult(
            is_directory=found.is_directory,
            is_file=found.is_file,
            is_symlink=found.is_symlink,
            size=found.size,
            created_at_ms=found.created_at_ms,
            modified_at_ms=found.modified_at_ms,
        )

    async def read_directory(self, params: FsReadDirectoryParams) -> FsReadDirectoryResult:
        """Return the entries of a directory."""
        listing = requests.ReadDirectory(_native(params.path))
        found = await self._run(listing, params.sandbox)
        return FsReadDirectoryResult(entries=await in_turns(_entries, found))

    async def remove(self, params: FsRemoveParams) -> FsRemoveResult:
        """Remove a file, a link or a tree."""
        removing = requests.Remove(
            _native(params.path),
            recursive=params.recursive is not False,
            force=params.force is not False,
            follow_symlinks=params.follow_symlinks is not False,
        )
        await self._run(removing, params.sandbox)
        return FsRemoveResult()

    async def copy(self, params: FsCopyParams) -> FsCopyResult:
        """Copy a file, a link or a tree."""
        copying = requests.Copy(
            _native(params.source_path),
            _native(params.destination_path),
            params.recursive,
            durable=self._connection.settings.fsync,
        )
        await self._run(copying, params.sandbox)
        return FsCopyResult()

    async def canonicalize(self, params: FsCanonicalizeParams) -> FsCanonicalizeResult:
        """Return the path without symbolic links."""
        resolving = requests.Canonicalize(_native(params.path))
        path = from_native(await self._run(resolving, params.sandbox))
        return FsCanonicalizeResult(path=path_uri.format(path))

    async def open(self, params: FsOpenParams) -> FsOpenResult:
        """Open a file under a handle id."""
        self._handles.check_free(params.handle_id)
        opening = requests.OpenRegular(_native(params.path), params.mode)
        self._handles.adopt(params.handle_id, await self._run(opening, params.sandbox))
        return FsOpenResult(handle_id=params.handle_id)

    async def read_block(self, params: FsReadBlockParams) -> FsReadBlockResult:
        """Read a block of an open file."""
        block = self._handles.read_block(params.handle_id, params.offset, params.len)
        return FsReadBlockResult(chunk=block.data, eof=block.eof)

    async def write_block(self, params: FsWriteBlockParams) -> FsWriteBlockResult:
        """Write a block of an open file."""
        self._handles.write_block(params.handle_id, params.offset, params.chunk)
        return FsWriteBlockResult()

    async def close(self, params: FsCloseParams) -> FsCloseResult:
        """Close an open file."""
        self._handles.close(params.handle_id)
        return FsCloseResult()

    async def walk(self, params: FsWalkParams) -> FsWalkResult:
        """Return the files and directories of a tree."""
        options = params.options
        walking = requests.Walk(
            _native(params.path),
            WalkOptions(
                max_depth=options.max_depth,
                max_directories=options.max_directories,
                max_entries=options.max_entries,
                follow_directory_symlinks=options.follow_directory_symlinks,
                prune_hidden_directories=options.prune_hidden_directories,
            ),
        )
        found = await self._run(walking, params.sandbox)
        return FsWalkResult(
            entries=[WalkEntry(path=entry.path, kind=entry.kind) for entry in found.entries],
            errors=[
                WalkError(path=error.path, message=system_text(error.errno))
                for error in found.errors
            ],
            truncated=found.truncated,
        )

    async def watch_missing(self, params: FsWatchMissingParams) -> FsWatchMissingResult:
        """Notify once when one of some missing paths appears."""
        if self._watch is None:
            # Imports an inotify library, which only codex itself needs.
            from exec_server.engine.files.missing_watch import MissingWatch  # noqa: PLC0415

            self._watch = MissingWatch(self._notify_changed)
        try:
            missing = [path_uri.parse(uri) for uri in params.missing]
            present = None if params.present is None else path_uri.parse(params.present)
        except InvalidRequest:
            # A path of another system cannot be watched, but still replaces the previous watch.
            missing, present = [], None
        watching = self._watch.watch(params.watch_id, missing, present)
        return FsWatchMissingResult(watching=watching)

    def _notify_changed(self, watch_id: int) -> None:
        params = FsMissingChangedParams(watch_id=watch_id)
        self._connection.notify((jsonrpc.notification("fs/missingChanged", params),))

    async def aclose(self) -> None:
        """Close all files and the watch."""
        await self._access.aclose()
        await self._handles.aclose()
        if self._watch is not None:
            await self._watch.aclose()


def _native(uri: str) -> bytes:
    return to_native(path_uri.parse(uri))


def _entries(found: Sequence[FoundEntry]) -> list[DirectoryEntry]:
    return [
        DirectoryEntry(
            file_name=entry.file_name,
            is_directory=entry.is_directory,
            is_file=entry.is_file,
        )
        for entry in found
    ]
