"""A local directory that receives a copy from a server, and that the copy cannot leave.

The names come from the server, and other users may own what is below the directory. Each component
is therefore opened relative to the descriptor of the one above it, and links are not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from exec_server.cli.client.exit_codes import FAILED, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

PATH_BYTES: Final = 4096
"""Longest path that is written: Linux's PATH_MAX. It ends a tree that a server makes endless."""

PERMISSIONS: Final = 0o777
"""Mode bits taken from a server. Set-user-id, set-group-id and sticky bits are not, because they
would give the server's files the rights of the local user."""

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NameTaken(CommandError):
    """Two files of the copy have the same name in the local file system."""


class LocalTree:
    """A directory to write to. Use it in ``with``."""

    def __init__(self, top: str) -> None:
        """Open ``top``, creating it if it is missing; links on the way to it are followed."""
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
        """Create a directory and its missing parents below the top."""
        os.close(self._open_directory(names))

    def set_directory(self, names: Sequence[str], mode: int, modified_ns: int) -> None:
        """Set the mode and the modification time of a directory, after its content is written."""
        fd = self._open_directory(names)
        try:
            os.fchmod(fd, mode & PERMISSIONS)
            os.utime(fd, ns=(modified_ns, modified_ns))
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def create_file(
        self, names: Sequence[str], mode: int | None = None, modified_ns: int | None = None
    ) -> Iterator[BinaryIO]:
        """Write a regular file below the top, whose directory exists, and replace it atomically.

        A block that raises leaves the old file as it was. Without ``mode``, the file keeps the mode
        of the old one, or has that of a new file.

        Raises NameTaken if this copy has written the file before, under this name or another one
        that the file system does not distinguish.
        """
        path = self._path(names)
        with self._replacing(names) as (directory, name, part):
            self._old_regular_file(directory, name, path)
            with open(os.open(part, _NEW_FILE, 0o600, dir_fd=directory), "wb") as file:
                yield file
                file.flush()
                # Again, because other files of the copy may have been written meanwhile.
                old = self._old_regular_file(directory, name, path)
                if mode is None:
                    mode = 0o666 & ~_umask() if old is None else stat.S_IMODE(old.st_mode)
                os.fchmod(file.fileno(), mode & PERMISSIONS)
                if modified_ns is not None:
                    os.utime(file.fileno(), ns=(modified_ns, modified_ns))
                found = os.fstat(file.fileno())
            os.replace(part, name, src_dir_fd=directory, dst_dir_fd=directory)
            self._written.add((found.st_dev, found.st_ino))

    def make_symlink(self, names: Sequence[str], target: str, modified_ns: int) -> None:
        """Create a symbolic link, replacing a file or a link of that name."""
        path = self._path(names)
        with self._replacing(names) as (directory, name, part):
            old = self._old_file(directory, name, path, may_be_link=True)
            if old is not None and not (stat.S_ISREG(old.st_mode) or stat.S_ISLNK(old.st_mode)):
                raise CommandError(f"{path}: something other than a file exists", FAILED)
            os.symlink(target, part, dir_fd=directory)
            times = (modified_ns, modified_ns)
            os.utime(part, ns=times, dir_fd=directory, follow_symlinks=False)
            os.replace(part, name, src_dir_fd=directory, dst_dir_fd=directory)

    def make_hard_link(self, names: Sequence[str], source: Sequence[str]) -> None:
        """Create a second name of a file that this copy has written."""
        path = self._path(names)
        *parents, source_name = source
        with self._replacing(names) as (directory, name, part):
            self._old_file(directory, name, path)
            source_fd = self._open_directory(parents)
            try:
                found = os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
                if (found.st_dev, found.st_ino) not in self._written:
                    raise CommandError(f"{path}: a link to a file outside of the copy", FAILED)
                os.link(
                    source_name,
                    part,
                    src_dir_fd=source_fd,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
            finally:
                os.close(source_fd)
            os.replace(part, name, src_dir_fd=directory, dst_dir_fd=directory)
            # rename(2) does nothing if both names are the same file already.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=directory)

    @contextlib.contextmanager
    def _replacing(self, names: Sequence[str]) -> Iterator[tuple[int, str, str]]:
        """Yield a directory, a name in it, and a temporary name that is removed on errors."""
        *parents, name = names
        path = self._path(names)
        directory = self._open_directory(parents)
        part = f".exec-server-{os.urandom(8).hex()}"
        try:
            yield directory, name, part
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=directory)
            if isinstance(error, OSError) and error.filename == part:
                raise _about(path, error) from None
            raise
        finally:
            os.close(directory)

    def _old_regular_file(self, directory: int, name: str, path: str) -> os.stat_result | None:
        """Return the status of a regular file to be replaced; raise CommandError for others."""
        old = self._old_file(directory, name, path)
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise CommandError(f"{path}: something other than a regular file exists", FAILED)
        return old

    def _old_file(
        self, directory: int, name: str, path: str, *, may_be_link: bool = False
    ) -> os.stat_result | None:
        """Return the status of a file to be replaced. Raises NameTaken, or OSError for a link."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _about(path, error) from None
        if stat.S_ISLNK(found.st_mode) and not may_be_link:
            raise _about(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
        if (found.st_dev, found.st_ino) in self._written:
            raise NameTaken(f"{path}: another file of this copy has the same name", FAILED)
        return found

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


def _umask() -> int:
    """Return the umask, which can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _about(path: str, error: OSError) -> OSError:
    """Return the error with the whole path, and a clear text for a link that is not followed."""
    is_link = error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and os.path.islink(path))
    text = "a symbolic link exists, which a copy does not follow" if is_link else error.strerror
    return OSError(error.errno, text, path)
