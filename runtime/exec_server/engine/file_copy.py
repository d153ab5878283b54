"""Copying files, directory trees and symbolic links (fs/copy)."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from exec_server.engine.file_replace import Contents, put
from exec_server.engine.file_tree import make_directories
from exec_server.engine.paths import to_native
from exec_server.errors import InvalidRequest

_KERNEL_COPY_BYTES: Final = 1 << 30
"""Asked of the kernel in one call; it may do less. Below the 2 GiB that one call can do."""

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
    or nothing (see ``file_replace``); a symbolic link at the destination is followed. A file
    copied onto itself, by whatever name, stays as it is.
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
        os.symlink(os.readlink(from_path), to_path)
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
        make_directories(to_directory)
        with os.scandir(from_directory) as entries:
            for entry in entries:
                target = os.path.join(to_directory, entry.name)
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), target)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, target))
                elif entry.is_file(follow_symlinks=False):
                    _copy_file(entry.path, target, durable)


def _copy_file(source: bytes, destination: bytes, durable: bool) -> None:
    """Copy the contents and permission bits of a regular file."""
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        original = os.fstat(reader)
        # Files that the kernel makes up as they are read, as in /proc, claim to be empty.
        contents = Contents(
            original.st_size or None,
            lambda writer: _copy_contents(reader, writer),
            stat.S_IMODE(original.st_mode),
            original,
        )
        device = put(destination, contents, durable=durable)
        if device is not None:
            try:
                _copy_contents(reader, device)
            finally:
                os.close(device)
    finally:
        os.close(reader)


def _copy_contents(reader: int, writer: int) -> None:
    """Copy a whole file to the current position of another descriptor."""
    os.lseek(reader, 0, os.SEEK_SET)
    try:
        while os.copy_file_range(reader, writer, _KERNEL_COPY_BYTES):
            pass
    except OSError as error:
        if error.errno not in _KERNEL_CANNOT_COPY:
            raise
    # What is left: everything if the kernel refused, or where it sees an empty file, as in /proc.
    while piece := os.read(reader, _PIECE_BYTES):
        left = memoryview(piece)
        while left:
            left = left[os.write(writer, left) :]
