"""Creation and removal of directory trees of any depth: no recursion, few descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

import msgspec

from exec_server.engine.cancellation import check_cancelled

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_directories(path: bytes) -> None:
    """Create a directory and its missing parents; an existing directory is accepted.

    So is a link to a directory. Raises OSError: EEXIST for a file or a dangling link, ENOTDIR
    below a file.
    """
    missing: list[bytes] = []
    while not _make_if_parent_exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for descendant in reversed(missing):
        _make_if_parent_exists(descendant)


def _make_if_parent_exists(path: bytes) -> bool:
    try:
        os.mkdir(path)
    except FileNotFoundError:
        return False
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    return True


class _Level(msgspec.Struct):
    """A directory on the way down: name, remaining subdirectories, device and inode."""

    name: bytes
    directories: list[bytes]
    identity: tuple[int, int]


def remove_tree(path: bytes) -> None:
    """Remove a directory and its contents without following symbolic links.

    Nothing outside of the tree is removed even if other processes change it meanwhile: each step
    descends to a child, or returns to the directory from which it came. Entries that have
    disappeared are ignored.
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
    """Remove everything except subdirectories from an open directory, and return those."""
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
