"""Copying files, directory trees and symbolic links (fs/copy)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Final

from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.files.path_guard import PATH_GUARD
from exec_server.engine.files.real_path import existing_part
from exec_server.engine.files.replace import Contents, put
from exec_server.engine.files.tree import make_directories
from exec_server.engine.paths import to_native
from exec_server.errors import InvalidRequest

_KERNEL_COPY_BYTES: Final = 64 << 20
"""Bytes copied by one system call, which cannot be interrupted: about a second on a slow disk."""

_FICLONE: Final = 0x40049409
"""linux/fs.h: share all blocks of another file, including holes."""

_BLOCK_BYTES: Final = 512
"""Unit of ``st_blocks``."""

_CHUNK_BYTES: Final = 1 << 16
"""Bytes read at a time where copy_file_range is not supported: few system calls, little memory."""

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
"""Errors of copy_file_range for files that can only be copied by reading and writing."""


def copy(source: str, destination: str, recursive: bool, *, durable: bool = False) -> None:
    """Copy ``source`` to ``destination``, both absolute (v1 fs/copy).

    A regular file is copied with its permission bits, atomically and over an existing file if there
    is one (see ``replace``); a symbolic link at the destination is followed. Holes are preserved. A
    file copied onto itself, under any name, is left unchanged. The set-user-ID and set-group-ID
    bits are only copied if owner and group of the copy are those of the source, because they would
    otherwise grant the rights of one user to the program of another.

    A symbolic link is recreated with the same target. A directory requires ``recursive`` and is
    merged into the destination: missing directories are created with default permissions, links are
    recreated, and special files are skipped.

    Raises InvalidRequest for a directory without ``recursive``, or one copied into itself or a
    descendant, and for a special file; OSError otherwise.
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
    """Return True if ``path``, with its links resolved, is the directory or would be below it."""
    flags = os.O_PATH | os.O_CLOEXEC
    current = os.open(existing_part(path), flags)
    try:
        status = os.fstat(current)
        if not stat.S_ISDIR(status.st_mode):
            return False  # creating a directory there fails
        while not os.path.samestat(status, directory):
            above = os.open(b"..", flags, dir_fd=current)
            os.close(current)
            current = above
            below, status = status, os.fstat(above)
            if os.path.samestat(below, status):
                return False  # the root
    finally:
        os.close(current)
    return True


def _copy_tree(source: bytes, destination: bytes, durable: bool) -> None:
    """Merge one directory into another, iteratively, because trees may be very deep."""
    pending = [(source, destination)]
    while pending:
        from_directory, to_directory = pending.pop()
        PATH_GUARD.check_creating(to_directory)
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
    PATH_GUARD.check_creating(destination, is_link=True)
    os.symlink(os.readlink(source), destination)


def _copy_file(source: bytes, destination: bytes, durable: bool) -> None:
    """Copy the contents and permission bits of a regular file."""
    check_cancelled()
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        original = os.fstat(reader)
        # Files that the kernel generates when they are read, as in /proc, have size 0.
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
    """Write a whole file to a regular file, and leave its position after the last byte.

    Holes are preserved if ``writer`` is empty, and written as zeros otherwise. Raises OSError
    ENOSPC before anything is written if there is not enough space.
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
    if is_new:
        _copy_sparse(reader, writer, size)
    _copy_rest(reader, writer)


def _copy_sparse(reader: int, writer: int, size: int) -> None:
    """Copy the data of a file to an empty one, without its holes.

    The position of both files is the end of what has been copied.
    """
    position = 0
    while position < size:
        try:
            begin = os.lseek(reader, position, os.SEEK_DATA)
            end = min(os.lseek(reader, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # not supported by the file system
                os.lseek(reader, position, os.SEEK_SET)
                break
            begin = end = size  # only a hole is left
        for descriptor in (reader, writer):
            os.lseek(descriptor, begin, os.SEEK_SET)
        if _copy_range(reader, writer, end - begin):
            break  # truncated meanwhile
        position = end
    if position:
        os.ftruncate(writer, position)  # for a hole at the end


def _check_space(descriptor: int, needed: int) -> None:
    """Raise OSError ENOSPC if a file system has less space than needed.

    Otherwise it would be filled completely, and other programs could not write.
    """
    system = os.fstatvfs(descriptor)
    available = system.f_bfree if os.geteuid() == 0 else system.f_bavail
    # Some network file systems report no size.
    if system.f_blocks and needed > available * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _copy_range(reader: int, writer: int, size: int) -> int:
    """Copy ``size`` bytes between the current positions; return how many the file lacks."""
    while size and (copied := _copy_some(reader, writer, size)):
        size -= copied
    return size


def _copy_rest(reader: int, writer: int) -> None:
    """Copy from the current position to the end, whatever the reported size."""
    while _copy_some(reader, writer, _KERNEL_COPY_BYTES):
        pass


def _copy_some(reader: int, writer: int, size: int) -> int:
    """Copy up to ``size`` bytes between the current positions; return how many, 0 at the end."""
    check_cancelled()
    try:
        copied = os.copy_file_range(reader, writer, min(size, _KERNEL_COPY_BYTES))
    except OSError as error:
        if error.errno not in _KERNEL_CANNOT_COPY:
            raise
        copied = 0
    # copy_file_range takes files of /proc as empty.
    return copied or _copy_chunk(reader, writer, min(size, _CHUNK_BYTES))


def _copy_chunk(reader: int, writer: int, size: int) -> int:
    chunk = os.read(reader, size)
    left = memoryview(chunk)
    while left:
        left = left[os.write(writer, left) :]
    return len(chunk)
