"""Making and removing directory trees of any depth: no recursion, few descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

import msgspec

from exec_server.engine.cancellation import check_cancelled

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_directories(path: bytes) -> None:
    """Make a directory and what is missing above it; fine if it exists, also through a link.

    OSError: EEXIST over a file or a link that leads nowhere, ENOTDIR below a file.
    """
    missing: list[bytes] = []
    while not _make_unless_parent_missing(path):
        missing.append(path)
        path = os.path.dirname(path)
    for descendant in reversed(missing):
        _make_unless_parent_missing(descendant)


def _make_unless_parent_missing(path: bytes) -> bool:
    try:
        os.mkdir(path)
    except FileNotFoundError:
        return False
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    return True


class _Level(msgspec.Struct):
    """A directory on the way down: its name above, what is left in it, and who it is."""

    name: bytes
    directories: list[bytes]
    identity: tuple[int, int]


def remove_tree(path: bytes) -> None:
    """Remove a directory and everything in it, following no symbolic link.

    Whatever others do to the tree meanwhile, nothing outside it is removed: each step goes to a
    child, or back to the very directory it came from. What has gone already is no error.
    """
    current = os.open(path, _OPEN_DIRECTORY)
    try:
        levels = [_enter(current, path)]
        while True:
            if levels[-1].directories:
                name = levels[-1].directories.pop()
                try:
                    child = os.open(name, _OPEN_DIRECTORY, dir_fd=current)
                except FileNotFoundError:
                    continue
                os.close(current)
                current = child
                levels.append(_enter(current, name))
                continue
            emptied = levels.pop()
            if not levels:
                break
            above = os.open(b"..", _OPEN_DIRECTORY, dir_fd=current)
            os.close(current)
            current = above
            if _identity(current) != levels[-1].identity:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(emptied.name, dir_fd=current)
    finally:
        os.close(current)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _enter(directory: int, name: bytes) -> _Level:
    """Remove everything but directories from an open directory, and note those."""
    with os.scandir(directory) as found:
        entries = list(found)
    directories: list[bytes] = []
    for entry in entries:
        check_cancelled()
        child = os.fsencode(entry.name)
        if entry.is_dir(follow_symlinks=False):
            directories.append(child)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(child, dir_fd=directory)
    return _Level(name, directories, _identity(directory))


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino
