"""Handlers of fs/* in v1: paths are native and absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from exec_server.engine.files import operations as files
from exec_server.engine.files import requests
from exec_server.engine.files.source import source_of
from exec_server.engine.paths import from_native, to_native
from exec_server.revisions.file_access import FileAccess, in_turns
from exec_server.revisions.file_content import decode_content, read_content
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exec_server.engine.files.operations import DirectoryEntry as FoundEntry
    from exec_server.engine.files.requests import Operation
    from exec_server.revisions.interface import ConnectionContext

R = TypeVar("R")


class FilesystemV1:
    """Handlers of fs/*."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection
        self._access = FileAccess()

    async def _run(self, operation: Operation[R], sandbox: Mapping[str, Any] | None) -> R:
        if sandbox is None:
            return await self._access.run(operation, None)
        # Imports the models of permissions, which few clients send.
        from exec_server.revisions.sandbox import policy_of  # noqa: PLC0415

        return await self._access.run(operation, policy_of(sandbox))

    async def read_file(self, params: FsReadFileParams) -> FsReadFileResult:
        """Return a whole file; a large one is read while it is sent."""
        opening = requests.OpenForRead(to_native(params.path), False)
        source = source_of(await self._run(opening, params.sandbox))
        return FsReadFileResult(data_base64=await read_content(self._connection, source))

    async def write_file(self, params: FsWriteFileParams) -> FsWriteFileResult:
        """Create or replace the content of a file."""
        writing = requests.WriteFile(
            data=decode_content(params.data_base64),
            path=to_native(params.path),
            durable=self._connection.settings.fsync,
        )
        await self._run(writing, params.sandbox)
        return FsWriteFileResult()

    async def create_directory(self, params: FsCreateDirectoryParams) -> FsCreateDirectoryResult:
        """Create a directory, by default with its parents."""
        making = requests.CreateDirectory(to_native(params.path), params.recursive is not False)
        await self._run(making, params.sandbox)
        return FsCreateDirectoryResult()

    async def get_metadata(self, params: FsGetMetadataParams) -> FsGetMetadataResult:
        """Return the kind and the times of a file."""
        found = await self._run(requests.GetMetadata(to_native(params.path)), params.sandbox)
        return FsGetMetadataResult(
            is_directory=found.is_directory,
            is_file=found.is_file,
            is_symlink=found.is_symlink,
            created_at_ms=found.created_at_ms,
            modified_at_ms=found.modified_at_ms,
        )

    async def read_directory(self, params: FsReadDirectoryParams) -> FsReadDirectoryResult:
        """Return the entries of a directory."""
        listing = requests.ReadDirectory(to_native(params.path))
        found = await self._run(listing, params.sandbox)
        return FsReadDirectoryResult(entries=await in_turns(_entries, found))

    async def remove(self, params: FsRemoveParams) -> FsRemoveResult:
        """Remove a file, a link or a tree."""
        removing = requests.Remove(
            to_native(params.path),
            recursive=params.recursive is not False,
            force=params.force is not False,
        )
        await self._run(removing, params.sandbox)
        return FsRemoveResult()

    async def copy(self, params: FsCopyParams) -> FsCopyResult:
        """Copy a file, a link or a tree."""
        copying = requests.Copy(
            to_native(params.source_path),
            to_native(params.destination_path),
            params.recursive,
            durable=self._connection.settings.fsync,
        )
        await self._run(copying, params.sandbox)
        return FsCopyResult()

    async def canonicalize(self, params: FsCanonicalizeParams) -> FsCanonicalizeResult:
        """The path without symbolic links."""
        resolving = requests.Canonicalize(to_native(params.path))
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


def _entries(found: Sequence[FoundEntry]) -> list[DirectoryEntry]:
    return [
        DirectoryEntry(
            file_name=entry.file_name,
            is_directory=entry.is_directory,
            is_file=entry.is_file,
        )
        for entry in found
    ]
