"""File operations as values that can be performed in this process or sent to a sandboxed worker.

Each class corresponds to the function named in its docstring; ``run`` returns and raises as that
function does. Paths are native, as returned by ``paths.to_native``.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

import msgspec

from exec_server.engine.files import operations as files
from exec_server.engine.files import walk as file_walk
from exec_server.engine.files.operations import DirectoryEntry, Metadata, PendingWrite
from exec_server.engine.files.regular_file import OpenMode, open_regular
from exec_server.engine.files.source import open_descriptor
from exec_server.engine.paths import from_native, to_native

LARGE_WRITE_BYTES: Final = 1024 * 1024
"""Size above which a file is written in a thread, because writing it delays the event loop."""

R = TypeVar("R")


_LARGE_DIRECTORY_BYTES: Final = 128 * 1024
"""Size of a directory with about 3,000 entries, which takes 5 ms to list."""

_MANY_LEVELS: Final = 64
"""Directories that can be created in half a millisecond."""


class Operation(msgspec.Struct, Generic[R], frozen=True, tag=True):
    """A file operation."""

    result: ClassVar[Any] = None
    """Type of the value that ``run`` returns."""

    def run(self) -> R:
        """Perform the operation."""
        raise NotImplementedError

    def takes_long(self) -> bool:
        """Return True if the operation may delay the event loop, so that it belongs in a thread."""
        return False

    def changes_files(self) -> bool:
        """Return True if the operation requires write access."""
        return False


class OpenForRead(Operation[int], frozen=True):
    """``source.open_descriptor``."""

    path: bytes
    regular_only: bool
    follow_symlinks: bool = True

    def run(self) -> int:
        """Return the descriptor, for ``source.source_of``."""
        return open_descriptor(
            from_native(self.path), self.regular_only, follow_symlinks=self.follow_symlinks
        )


class OpenRegular(Operation[int], frozen=True):
    """``regular_file.open_regular``."""

    path: bytes
    mode: OpenMode

    def run(self) -> int:
        """Return the descriptor."""
        return open_regular(from_native(self.path), self.mode)

    def changes_files(self) -> bool:
        """Return True if the file may be created or truncated."""
        return self.mode != "read"


class WriteFile(Operation[PendingWrite | None], frozen=True):
    """``write_file``."""

    path: bytes
    data: bytes
    follow_symlinks: bool = True
    durable: bool = False

    def run(self) -> PendingWrite | None:
        """Return the remainder to be written, if any."""
        return files.write_file(
            from_native(self.path),
            self.data,
            follow_symlinks=self.follow_symlinks,
            durable=self.durable,
        )

    def takes_long(self) -> bool:
        """Return True for a large file."""
        return len(self.data) > LARGE_WRITE_BYTES

    def changes_files(self) -> bool:
        """Return True."""
        return True


class CreateDirectory(Operation[None], frozen=True):
    """``create_directory``."""

    path: bytes
    recursive: bool
    follow_symlinks: bool = True

    def run(self) -> None:
        """Create the directory."""
        files.create_directory(
            from_native(self.path), self.recursive, follow_symlinks=self.follow_symlinks
        )

    def takes_long(self) -> bool:
        """Return True for many levels, because the kernel looks up each from the root."""
        return self.recursive and self.path.count(b"/") > _MANY_LEVELS

    def changes_files(self) -> bool:
        """Return True."""
        return True


class GetMetadata(Operation[Metadata], frozen=True):
    """``get_metadata``."""

    result = Metadata
    path: bytes
    follow_symlinks: bool = True

    def run(self) -> Metadata:
        """Return the metadata."""
        return files.get_metadata(from_native(self.path), follow_symlinks=self.follow_symlinks)


class ReadDirectory(Operation[list[DirectoryEntry]], frozen=True):
    """``read_directory``."""

    result = list[DirectoryEntry]
    path: bytes

    def run(self) -> list[DirectoryEntry]:
        """Return the entries."""
        return files.read_directory(from_native(self.path))

    def takes_long(self) -> bool:
        """Return True for many entries, estimated by the size of the directory itself."""
        try:
            return os.stat(self.path).st_size > _LARGE_DIRECTORY_BYTES
        except OSError:
            return False


class Remove(Operation[None], frozen=True):
    """``remove``."""

    path: bytes
    recursive: bool
    force: bool
    follow_symlinks: bool = True

    def run(self) -> None:
        """Remove the path."""
        files.remove(
            from_native(self.path),
            self.recursive,
            self.force,
            follow_symlinks=self.follow_symlinks,
        )

    def takes_long(self) -> bool:
        """Return True for a directory tree."""
        return self.recursive and os.path.isdir(self.path) and not os.path.islink(self.path)

    def changes_files(self) -> bool:
        """Return True."""
        return True


class Copy(Operation[None], frozen=True):
    """``copy``."""

    source: bytes
    destination: bytes
    recursive: bool
    durable: bool = False

    def run(self) -> None:
        """Copy the path."""
        files.copy(
            from_native(self.source),
            from_native(self.destination),
            self.recursive,
            durable=self.durable,
        )

    def takes_long(self) -> bool:
        """Return True, because the amount of data is not known."""
        return True

    def changes_files(self) -> bool:
        """Return True."""
        return True


class Canonicalize(Operation[bytes], frozen=True):
    """``canonicalize``."""

    result = bytes
    path: bytes

    def run(self) -> bytes:
        """Return the native path."""
        return to_native(files.canonicalize(from_native(self.path)))


class Walk(Operation[file_walk.WalkOutcome], frozen=True):
    """``walk.walk``."""

    result = file_walk.WalkOutcome
    path: bytes
    options: file_walk.WalkOptions

    def run(self) -> file_walk.WalkOutcome:
        """Return the entries and errors."""
        return file_walk.walk(from_native(self.path), self.options)

    def takes_long(self) -> bool:
        """Return True, because the amount of data is not known."""
        return True


AnyOperation: TypeAlias = (
    OpenForRead
    | OpenRegular
    | WriteFile
    | CreateDirectory
    | GetMetadata
    | ReadDirectory
    | Remove
    | Copy
    | Canonicalize
    | Walk
)
