"""File operations on absolute native paths: the engine of fs/*.

Paths are ``str`` as described in ``paths``. Each function normalizes them lexically first, and
raises InvalidArgument for a path that is not absolute, InvalidRequest for one with a NUL. Symbolic
links are followed unless stated otherwise. OSErrors are passed on: their errno is part of the
response.

With ``follow_symlinks=False`` no component of a path may be a link. A link before the last
component is OSError ENOTDIR; the error for the last one is documented with each function.

All functions are synchronous, have no shared state and may be called in any thread. They never
block on other processes: FIFOs and terminals are opened in non-blocking mode.
"""

from __future__ import annotations

import errno
import os
import stat

from exec_server.engine.files import no_follow
from exec_server.engine.files.copy import copy
from exec_server.engine.files.listing import DirectoryEntry, read_directory
from exec_server.engine.files.metadata import Metadata, get_metadata
from exec_server.engine.files.path_guard import PATH_GUARD
from exec_server.engine.files.real_path import real_path
from exec_server.engine.files.source import READ_LIMIT_BYTES, ReadSource, open_for_read
from exec_server.engine.files.tree import make_directories, remove_tree
from exec_server.engine.files.write import PendingWrite, write_file
from exec_server.engine.paths import (
    displayable,
    from_native,
    join,
    normalize,
    parent,
    to_native,
)
from exec_server.errors import InvalidRequest, OperationFailed

__all__ = [
    "READ_LIMIT_BYTES",
    "DirectoryEntry",
    "Metadata",
    "PendingWrite",
    "ReadSource",
    "canonicalize",
    "copy",
    "create_directory",
    "displayable",
    "get_metadata",
    "join",
    "normalize",
    "open_for_read",
    "parent",
    "read_directory",
    "read_file",
    "remove",
    "write_file",
]


def read_file(path: str, *, regular_only: bool = False, follow_symlinks: bool = True) -> bytes:
    """Return the whole contents of a file of moderate size.

    Raises as ``open_for_read`` does, and BlockingIOError if the contents are not available at once.
    """
    source = open_for_read(path, regular_only=regular_only, follow_symlinks=follow_symlinks)
    try:
        if source.size is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return b"".join(iter(lambda: source.read(source.size or 0), b""))
    finally:
        source.close()


def create_directory(path: str, recursive: bool = True, *, follow_symlinks: bool = True) -> None:
    """Create a directory with mode 0777 reduced by the umask.

    With ``recursive``, missing parents are created, and an existing directory is accepted, though
    not a link that is not followed: ENOTDIR. Otherwise an existing path is OSError EEXIST, a
    missing parent ENOENT.
    """
    native = to_native(path)
    PATH_GUARD.check_creating(native)
    if recursive:
        (make_directories if follow_symlinks else no_follow.make_directories)(native)
    elif follow_symlinks:
        os.mkdir(native)
    elif native == b"/":
        raise OperationFailed("directory already exists")
    else:
        with no_follow.opened_parent(native) as (directory, name):
            os.mkdir(name, dir_fd=directory)


def remove(
    path: str, recursive: bool = True, force: bool = True, *, follow_symlinks: bool = True
) -> None:
    """Remove a file, a directory, or a link, but never its target.

    A directory that is not empty requires ``recursive``: OSError ENOTEMPTY. With ``force`` a
    missing path is accepted. The root is never removed recursively: InvalidRequest.

    With ``follow_symlinks=False`` a link is an error, too, InvalidRequest, and ``recursive`` is not
    supported: OperationFailed.
    """
    native = to_native(path)
    if recursive and not follow_symlinks:
        raise OperationFailed("recursive no-follow removal is unsupported")
    PATH_GUARD.check_removing(native)
    try:
        if not follow_symlinks:
            _remove_no_follow(native)
            return
        is_directory = stat.S_ISDIR(os.lstat(native).st_mode)
    except FileNotFoundError:
        if force:
            return
        raise
    if not is_directory:
        os.unlink(native)
    elif not recursive:
        os.rmdir(native)
    elif native == b"/":
        raise InvalidRequest("fs/remove does not remove the root directory")
    else:
        remove_tree(native)


def _remove_no_follow(native: bytes) -> None:
    with no_follow.opened_parent(native) as (directory, name):
        mode = os.lstat(name, dir_fd=directory).st_mode
        if stat.S_ISLNK(mode):
            raise InvalidRequest(no_follow.LINK_MESSAGE)
        (os.rmdir if stat.S_ISDIR(mode) else os.unlink)(name, dir_fd=directory)


def canonicalize(path: str) -> str:
    """Return an existing path with every symbolic link resolved. Raises OSError."""
    return from_native(real_path(to_native(path)))
