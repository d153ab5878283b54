"""Reaching a path without passing through a symbolic link (v2 fs/*, ``followSymlinks: false``).

Each component is opened from the directory before it, so nobody can put a link in between the
look and the use. Paths are absolute and normalised.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_parent(path: bytes) -> Iterator[tuple[int, bytes]]:
    """The open directory that holds ``path``, and the name in it.

    Raises InvalidRequest for the root, which nothing holds, or OSError: ENOTDIR where a component
    before the last is a link or anything else but a directory.
    """
    *components, name = path[1:].split(b"/")
    if not name:
        raise InvalidRequest("path must name an entry")
    directory = os.open(b"/", _DIRECTORY)
    try:
        for component in components:
            below = os.open(component, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        yield directory, name
    finally:
        os.close(directory)


def open_entry(path: bytes, flags: int) -> int:
    """Open ``path`` itself; what is created gets mode 0666 less the umask.

    Raises as ``opened_parent`` does. A link is OSError ELOOP, but is itself opened with O_PATH.
    """
    with opened_parent(path) as (directory, name):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=directory)


def make_directories(path: bytes) -> None:
    """Make a directory and what is missing above it; fine if it exists.

    Raises OSError: ENOTDIR where a component is a link or anything else but a directory.
    """
    directory = os.open(b"/", _DIRECTORY)
    try:
        for component in filter(None, path.split(b"/")):
            try:
                below = os.open(component, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                # Whatever somebody else may put there first shows when it is opened.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(component, dir_fd=directory)
                below = os.open(component, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
    finally:
        os.close(directory)
