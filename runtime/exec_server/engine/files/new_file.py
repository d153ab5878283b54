"""Files under construction, which appear under their final name when they are complete."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_TMPFILE_UNSUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL))
"""Errors of O_TMPFILE on file systems without it."""


class Place(msgspec.Struct, frozen=True):
    """A directory entry, existing or not."""

    directory: int
    """A descriptor of the directory, at least O_PATH."""
    name: bytes
    """Not the name of a symbolic link."""


@contextlib.contextmanager
def opened_place(path: bytes) -> Iterator[Place]:
    """Open the directory of a path. Raises OSError."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(directory, os.path.basename(path))
    finally:
        os.close(directory)


@contextlib.contextmanager
def new_file(place: Place, mode: int) -> Iterator[NewFile]:
    """Create a file in the directory of a place; it is discarded unless it was given its name.

    Raises OSError if nothing can be created there.
    """
    file = NewFile(place, mode)
    try:
        yield file
    finally:
        file.close()


class NewFile:
    """A file without a name, or with a temporary one where the system does not support that."""

    __slots__ = ("_place", "_temporary_name", "descriptor")

    def __init__(self, place: Place, mode: int) -> None:
        """Create the file. Raises OSError."""
        self._place = place
        self._temporary_name: bytes | None = None
        if _can_link_descriptors():
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_TMPFILE
            try:
                self.descriptor = os.open(b".", flags, mode, dir_fd=place.directory)
            except OSError as error:
                if error.errno not in _TMPFILE_UNSUPPORTED:
                    raise
            else:
                return
        name = _temporary_name()
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
        self.descriptor = os.open(name, flags, mode, dir_fd=place.directory)
        self._temporary_name = name

    def create(self, *, durable: bool) -> None:
        """Give the file its name, which must not exist. Raises OSError, EEXIST if it does."""
        if self._temporary_name is not None:
            self.replace(durable=durable)
            return
        if durable:
            os.fsync(self.descriptor)
        self._link(self._place.name)
        if durable:
            self._sync_directory()

    def replace(self, *, durable: bool) -> None:
        """Give the file its name, in place of an existing file. Raises OSError."""
        if durable:
            os.fsync(self.descriptor)
        if self._temporary_name is None:
            name = _temporary_name()
            self._link(name)
            self._temporary_name = name
        place = self._place
        os.rename(
            self._temporary_name,
            place.name,
            src_dir_fd=place.directory,
            dst_dir_fd=place.directory,
        )
        self._temporary_name = None
        if durable:
            self._sync_directory()

    def close(self) -> None:
        """Close the file, and remove it if it does not have its final name."""
        os.close(self.descriptor)
        if self._temporary_name is not None:
            os.unlink(self._temporary_name, dir_fd=self._place.directory)

    def _link(self, name: bytes) -> None:
        directory = self._place.directory
        # With src_dir_fd, os.link follows the symbolic link in /proc to the unnamed file.
        os.link(
            b"/proc/self/fd/%d" % self.descriptor, name, src_dir_fd=directory, dst_dir_fd=directory
        )

    def _sync_directory(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        readable = os.open(b".", flags, dir_fd=self._place.directory)
        try:
            os.fsync(readable)
        finally:
            os.close(readable)


@functools.cache
def _can_link_descriptors() -> bool:
    """Return True if unnamed files can be given a name, which takes /proc.

    It may be missing in a sandbox.
    """
    return os.path.exists(b"/proc/self/fd")


def _temporary_name() -> bytes:
    """Return a hidden file name that is practically unique."""
    return b".codex-exec-server-" + os.urandom(8).hex().encode()
