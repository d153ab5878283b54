"""Copying files, directory trees and symbolic links (fs/copy)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Final

from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.files.replace import Contents, put
from exec_server.engine.files.tree import make_directories
from exec_server.engine.paths import to_native
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.errors import InvalidRequest

_KERNEL_COPY_BYTES: Final = 64 << 20
"""Bytes asked of the kernel in one call: it cannot be interrupted, and a slow disk takes about a
second for them."""

_FICLONE: Final = 0x40049409
"""linux/fs.h: make one file share all the blocks of another, holes included."""

_BLOCK_BYTES: Final = 512
"""Unit of ``st_blocks``."""

_PIECE_BYTES: Final = 1 << 16
"""Read at a time where the kernel does not copy by itself."""

_KERNEL_CANNOT_COPY: Final = frozenset(
    {
        errno.EBADF,
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EXDEV,
    }
)
"""copy_file_range: between these two files no, by reading and writing perhaps."""


def copy(source: str, destination: str, recursive: bool, *, durable: bool = False) -> None:
    """Copy ``source`` to ``destination``, both absolute (v1 fs/copy).

    A regular file is copied with its permission bits, over an existing file too, either all of it
    or nothing (see ``file_replace``); a symbolic link at the destination is followed. Holes stay
    holes. A file copied onto itself, by whatever name, stays as it is. The set-user-ID and
    set-group-ID bits are kept only where the copy has the same owner and group as the source:
    otherwise they would give the rights of one user to what belongs to another.
    A symbolic link is made anew with the same text. A directory, which needs ``recursive``, is
    merged into the destination; missing directories are made with default permissions, links
    inside are made anew, and what is neither file, directory nor link is left out.

    Raises InvalidRequest (a directory without ``recursive``, into itself or below itself; a
    source that is no file, directory or link) or OSError.
    """
    from_path, to_path = to_native(source), to_native(destination)
    status = os.lstat(from_path)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        _copy_link(from_path, to_path)
    elif kind == stat.S_IFREG:
        _copy_file(from_path, to_path, durable)
    elif kind != stat.S_IFDIR:
        raise InvalidRequest("fs/copy only supports regular files, directories, and symlinks")
    elif not recursive:
        raise InvalidRequest("fs/copy requires recursive: true when sourcePath is a directory")
    elif _is_inside(to_path, status):
        raise InvalidRequest("fs/copy cannot copy a directory to itself or one of its descendants")
    else:
        _copy_tree(from_path, to_path, durable)


def _is_inside(path: bytes, directory: os.stat_result) -> bool:
    """Whether ``path``, with its links resolved, is the directory or would be below it."""
    path = os.path.realpath(path)
    while True:
        try:
            if os.path.samestat(os.stat(path), directory):
                return True
        except OSError:
            pass  # does not exist yet, or cannot be reached: then creating it says so
        if path == b"/":
            return False
        path = os.path.dirname(path)


def _copy_tree(source: bytes, destination: bytes, durable: bool) -> None:
    """Merge one directory into another, without recursion: trees may be very deep."""
    pending = [(source, destination)]
    while pending:
        from_directory, to_directory = pending.pop()
        LIVE_VIEWS.check_creating(to_directory)
        make_directories(to_directory)
        with os.scandir(from_directory) as entries:
            for entry in entries:
                check_cancelled()
                target = os.path.join(to_directory, entry.name)
                if entry.is_symlink():
                    _copy_link(entry.path, target)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, target))
                elif entry.is_file(follow_symlinks=False):
                    _copy_file(entry.path, target, durable)


def _copy_link(source: bytes, destination: bytes) -> None:
    LIVE_VIEWS.check_creating(destination, is_link=True)
    os.symlink(os.readlink(source), destination)


def _copy_file(source: bytes, destination: bytes, durable: bool) -> None:
    """Copy the contents and permission bits of a regular file."""
    check_cancelled()
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        original = os.fstat(reader)
        # Files that the kernel makes up as they are read, as in /proc, claim to be empty.
        contents = Contents(
            original.st_size or None,
            lambda writer: _copy_contents(reader, writer, original),
            stat.S_IMODE(original.st_mode),
            original,
        )
        device = put(destination, contents, durable=durable)
        if device is not None:
            try:
                _copy_rest(reader, device)
            finally:
                os.close(device)
    finally:
        os.close(reader)


def _copy_contents(reader: int, writer: int, original: os.stat_result) -> None:
    """Write a whole file to a regular file, whose position ends up behind the last byte.

    An empty ``writer`` gets the holes of the file as well; in any other, zeros are written.
    Raises OSError ENOSPC at once where there is not enough space.
    """
    size = original.st_size
    is_new = not os.fstat(writer).st_size
    if is_new and size:
        with contextlib.suppress(OSError):
            fcntl.ioctl(writer, _FICLONE, reader)
            os.lseek(writer, 0, os.SEEK_END)
            return
        _check_space(writer, min(size, original.st_blocks * _BLOCK_BYTES))
    os.lseek(reader, 0, os.SEEK_SET)
    position = 0
    while is_new and position < size:
        try:
            begin = os.lseek(reader, position, os.SEEK_DATA)
            end = min(os.lseek(reader, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a file system that does not know of holes
                os.lseek(reader, position, os.SEEK_SET)
                break
            begin = end = size  # nothing but a hole is left
        for descriptor in (reader, writer):
            os.lseek(descriptor, begin, os.SEEK_SET)
        if _copy_range(reader, writer, end - begin):
            break  # cut short meanwhile
        position = end
    if is_new and position:
        os.ftruncate(writer, position)  # the hole at the end
    _copy_rest(reader, writer)


def _check_space(descriptor: int, needed: int) -> None:
    """Raise OSError ENOSPC if a file system has less space than needed.

    It would be filled to the last byte otherwise, to the harm of everything else that writes.
    """
    system = os.fstatvfs(descriptor)
    available = system.f_bfree if os.geteuid() == 0 else system.f_bavail
    # Some network file systems do not know their size.
    if system.f_blocks and needed > available * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _copy_range(reader: int, writer: int, size: int) -> int:
    """Copy so many bytes between the current positions; return how many the file lacks."""
    while size and (copied := _copy_some(reader, writer, size)):
        size -= copied
    return size


def _copy_rest(reader: int, writer: int) -> None:
    """Copy everything that is left, also of files that claim to be empty, as in /proc."""
    while _copy_some(reader, writer, _KERNEL_COPY_BYTES):
        pass


def _copy_some(reader: int, writer: int, size: int) -> int:
    """Copy up to so many bytes between the current positions; return how many, 0 at the end."""
    check_cancelled()
    try:
        copied = os.copy_file_range(reader, writer, min(size, _KERNEL_COPY_BYTES))
    except OSError as error:
        if error.errno not in _KERNEL_CANNOT_COPY:
            raise
        copied = 0
    # The kernel sees an empty file where it makes up the contents, as in /proc.
    return copied or _copy_piece(reader, writer, min(size, _PIECE_BYTES))


def _copy_piece(reader: int, writer: int, size: int) -> int:
    piece = os.read(reader, size)
    left = memoryview(piece)
    while left:
        left = left[os.write(writer, left) :]
    return len(piece)
