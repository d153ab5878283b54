"""A local directory that a copy from a server is written to, and that the copy cannot leave.

The names come from the server, and what is below the directory may belong to other users. So each
component is opened relative to the descriptor of the one above it, and links are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from exec_server.cli.client.exit_codes import FAILED, CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

PATH_BYTES: Final = 4096
"""Longest path that is written: Linux's PATH_MAX. It ends a tree that a server makes endless."""

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, because a FIFO that is in the way would wait for a reader.
_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NameTaken(CommandError):
    """Two files of the copy have one name here."""


class LocalTree:
    """A directory to write to. Use it in ``with``."""

    def __init__(self, top: str) -> None:
        """Open ``top``, which is created if it is missing; links on the way to it are followed."""
        os.makedirs(top, exist_ok=True)
        self._top = top
        self._top_fd = os.open(top, os.O_DIRECTORY | os.O_CLOEXEC)
        self._written: set[tuple[int, int]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._top_fd)

    def make_directory(self, names: Sequence[str]) -> None:
        """Create a directory and its parents below the top, as far as they are missing."""
        os.close(self._open_directory(names))

    def open_file(self, names: Sequence[str]) -> BinaryIO:
        """Create or empty a regular file below the top, whose directory exists.

        Raises NameTaken if this copy has written the file before, under this name or another one
        that the file system does not tell apart.
        """
        *parents, name = names
        path = self._path(names)
        directory = self._open_directory(parents)
        try:
            fd = os.open(name, _FILE, 0o666, dir_fd=directory)
        except OSError as error:
            raise _about(path, error) from None
        finally:
            os.close(directory)
        try:
            self._claim(fd, path)
            os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        return open(fd, "wb")

    def _claim(self, fd: int, path: str) -> None:
        """Note a file as written. Raises NameTaken, or CommandError unless it is regular."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(f"{path}: something other than a regular file exists", FAILED)
        identity = (found.st_dev, found.st_ino)
        if identity in self._written:
            raise NameTaken(f"{path}: another file of this copy has the same name", FAILED)
        self._written.add(identity)

    def _open_directory(self, names: Sequence[str]) -> int:
        fd = os.dup(self._top_fd)
        for position, name in enumerate(names, 1):
            path = self._path(names[:position])
            try:
                try:
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    os.mkdir(name, dir_fd=fd)
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                raise _about(path, error) from None
            finally:
                os.close(fd)
            fd = child
        return fd

    def _path(self, names: Sequence[str]) -> str:
        path = os.path.join(self._top, *names)
        if len(os.fsencode(path)) > PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), f"{path[:80]}…")
        return path


def _about(path: str, error: OSError) -> OSError:
    """The error with the whole path; a link that is not followed is told as such."""
    is_link = error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and os.path.islink(path))
    text = "a symbolic link exists, which a copy does not follow" if is_link else error.strerror
    return OSError(error.errno, text, path)
