"""Access to paths without following symbolic links (v2 fs/*, ``followSymlinks: false``).

Each component is opened relative to the directory before it, so no link can be inserted between a
check and the use of the path. Paths are absolute and normalized.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

LINK_MESSAGE: Final = "path contains a symbolic link"
"""Error text of the released servers for a link that is not followed (v2 fs/*)."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_parent(path: bytes) -> Iterator[tuple[int, bytes]]:
    """Open the directory that contains ``path``; yield its descriptor and the name of the entry.

    Raises InvalidRequest for the root, or OSError: ENOTDIR where a component before the last one is
    a link or not a directory.
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
    """Open ``path``; a file that is created gets mode 0666 reduced by the umask.

    Raises as ``opened_parent`` does. A link is OSError ELOOP, but with O_PATH it is opened itself.
    """
    with opened_parent(path) as (directory, name):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=directory)


def make_directories(path: bytes) -> None:
    """Create a directory and its missing parents; an existing directory is accepted.

    Raises OSError: ENOTDIR where a component is a link or not a directory.
    """
    directory = os.open(b"/", _DIRECTORY)
    try:
        for component in filter(None, path.split(b"/")):
            try:
                below = os.open(component, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                # If another process creates the entry first, opening it shows whether it will do.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(component, dir_fd=directory)
                below = os.open(component, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
    finally:
        os.close(directory)
