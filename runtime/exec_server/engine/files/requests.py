"""File operations as values, which can be carried out here or by a confined process.

``run`` does what the function of ``files`` does that is named there, and raises as it does. Paths
are native, as ``paths.to_native`` makes them.
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

LARGE_WRITE_BYTES = 1024 * 1024
"""Files above this take a while to write."""

R = TypeVar("R")


_LARGE_DIRECTORY_BYTES: Final = 128 * 1024
"""Size of a directory with about 3,000 entries, which take 5 ms to list."""


class Operation(msgspec.Struct, Generic[R], frozen=True, tag=True):
    """One file operation."""

    result: ClassVar[Any] = None
    """Type of what ``run`` returns."""

    def run(self) -> R:
        """Carry it out."""
        raise NotImplementedError

    def takes_long(self) -> bool:
        """Whether everything else would have to wait for it."""
        return False

    def changes_files(self) -> bool:
        """True if it needs more than a view for reading."""
        return False


class OpenForRead(Operation[int], frozen=True):
    """``open_for_read``, as far as the descriptor."""

    path: bytes
    regular_only: bool
    follow_symlinks: bool = True

    def run(self) -> int:
        """Return the descriptor, for ``file_source.source_of``."""
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
        """True if the file is created or emptied."""
        return self.mode != "read"


_MANY_LEVELS: Final = 64
"""As many directories are made in half a millisecond."""


class WriteFile(Operation[PendingWrite | None], frozen=True):
    """``write_file``."""

    path: bytes
    data: bytes
    follow_symlinks: bool = True
    durable: bool = False

    def run(self) -> PendingWrite | None:
        """Return what is left to write, if anything."""
        return files.write_file(
            from_native(self.path),
            self.data,
            follow_symlinks=self.follow_symlinks,
            durable=self.durable,
        )

    def takes_long(self) -> bool:
        """Whether there is much to write."""
        return len(self.data) > LARGE_WRITE_BYTES

    def changes_files(self) -> bool:
        """It does."""
        return True


class CreateDirectory(Operation[None], frozen=True):
    """``create_directory``."""

    path: bytes
    recursive: bool
    follow_symlinks: bool = True

    def run(self) -> None:
        """Make it."""
        files.create_directory(
            from_native(self.path), self.recursive, follow_symlinks=self.follow_symlinks
        )

    def takes_long(self) -> bool:
        """True if there are many levels: making each takes a walk down to it."""
        return self.recursive and self.path.count(b"/") > _MANY_LEVELS

    def changes_files(self) -> bool:
        """It does."""
        return True


class GetMetadata(Operation[Metadata], frozen=True):
    """``get_metadata``."""

    result = Metadata
    path: bytes
    follow_symlinks: bool = True

    def run(self) -> Metadata:
        """Return what is known."""
        return files.get_metadata(from_native(self.path), follow_symlinks=self.follow_symlinks)


class ReadDirectory(Operation[list[DirectoryEntry]], frozen=True):
    """``read_directory``."""

    result = list[DirectoryEntry]
    path: bytes

    def run(self) -> list[DirectoryEntry]:
        """Return the entries."""
        return files.read_directory(from_native(self.path))

    def takes_long(self) -> bool:
        """Return True for many entries, by the size of the directory itself."""
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
        """Remove it."""
        files.remove(
            from_native(self.path),
            self.recursive,
            self.force,
            follow_symlinks=self.follow_symlinks,
        )

    def takes_long(self) -> bool:
        """Whether it is a whole tree."""
        return self.recursive and os.path.isdir(self.path) and not os.path.islink(self.path)

    def changes_files(self) -> bool:
        """It does."""
        return True


class Copy(Operation[None], frozen=True):
    """``copy``."""

    source: bytes
    destination: bytes
    recursive: bool
    durable: bool = False

    def run(self) -> None:
        """Copy it."""
        files.copy(
            from_native(self.source),
            from_native(self.destination),
            self.recursive,
            durable=self.durable,
        )

    def takes_long(self) -> bool:
        """Nobody knows how much there is."""
        return True

    def changes_files(self) -> bool:
        """It does."""
        return True


class Canonicalize(Operation[bytes], frozen=True):
    """``canonicalize``."""

    result = bytes
    path: bytes

    def run(self) -> bytes:
        """Return the native path."""
        return to_native(files.canonicalize(from_native(self.path)))


class Walk(Operation[file_walk.WalkOutcome], frozen=True):
    """``file_walk.walk``."""

    result = file_walk.WalkOutcome
    path: bytes
    options: file_walk.WalkOptions

    def run(self) -> file_walk.WalkOutcome:
        """Return what was found."""
        return file_walk.walk(from_native(self.path), self.options)

    def takes_long(self) -> bool:
        """Nobody knows how much there is."""
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
