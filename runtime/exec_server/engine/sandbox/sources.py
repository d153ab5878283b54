"""Files as a view is planned and made from, while others may exchange them.

A path of a view passes through no link. One that does when it is opened has been exchanged since
its links were followed, so the view is refused. bubblewrap mounts what was opened, and
``entry`` finds out inside that it is mounted where it belongs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import displayable, from_native, to_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from exec_server.engine.sandbox.view import Mount

SHOWING: Final = frozenset(("read", "write", "device"))
"""Kinds of mounts that show what is there."""

_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

_MAX_LINKS: Final = 40
"""On one path; as the kernel has it."""

_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opening waits for nobody, whatever it is, and has no effect on it."""


class Snapshot:
    """Files as each of them was when it was first looked at."""

    def __init__(self) -> None:
        self._found: dict[str, os.stat_result | None] = {}
        self._contents: dict[str, str] = {}

    def resolve(self, path: str) -> tuple[str, dict[str, str]]:
        """Follow every link of an absolute path; returns what it leads to, and the links.

        What does not exist is taken as it is written. Raises InvalidRequest if there is no end to
        it, or if something is exchanged meanwhile.
        """
        links: dict[str, str] = {}
        followed = 0
        real = ""
        ahead = deque(path.split("/"))
        while ahead:
            component = ahead.popleft()
            if component in ("", "."):
                continue
            if component == "..":
                real = os.path.dirname(real)
                continue
            here = f"{real}/{component}"
            status = self.status(here)
            if status is None or not stat.S_ISLNK(status.st_mode):
                real = here
                continue
            followed += 1
            if followed > _MAX_LINKS:
                raise InvalidRequest(f"sandbox: too many symbolic links on the path {path}")
            content = links[here] = self._contents[here]
            ahead.extendleft(reversed(content.split("/")))
            if content.startswith("/"):
                real = ""
        return real or "/", links

    def status(self, path: str) -> os.stat_result | None:
        """Look at a path without links; None if there is nothing that can be seen.

        Raises InvalidRequest if it is exchanged meanwhile.
        """
        if path not in self._found:
            self._found[path] = self._look(path)
        return self._found[path]

    def is_directory(self, path: str) -> bool:
        """Return True for a directory."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def identity(self, path: str) -> tuple[int, int]:
        """Return device and inode, or zeros."""
        status = self.status(path)
        return (0, 0) if status is None else (status.st_dev, status.st_ino)

    def _look(self, path: str) -> os.stat_result | None:
        if path == "/":
            return os.stat("/")
        above, _, name = path.rpartition("/")
        if not self.is_directory(above or "/"):
            return None
        native = to_native(f"/{name}")[1:]
        directory = open_source(above or "/")
        try:
            status = os.stat(native, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                self._contents[path] = from_native(os.readlink(native, dir_fd=directory))
        except OSError as error:
            if error.errno == errno.EINVAL:  # it was a link
                raise changed(path) from error
            return None
        finally:
            os.close(directory)
        return status


def open_source(path: str) -> int:
    """Open what a view shows at a path; the descriptor is for mounting and looking only.

    Raises InvalidRequest if it is not there any more, or only by way of a link, and OSError for
    lack of resources.
    """
    native = to_native(path)
    try:
        descriptor = os.open(native, _FLAGS)
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        raise changed(path) from error
    if is_reached_without_links(descriptor, native) and not stat.S_ISLNK(
        os.fstat(descriptor).st_mode
    ):
        return descriptor
    os.close(descriptor)
    raise changed(path)


def is_reached_without_links(descriptor: int, path: bytes) -> bool:
    """Return True if what was opened is what a native path names, with no link on the way."""
    return os.readlink(b"/proc/self/fd/%d" % descriptor) == path  # the kernel's own name for it


def expectation(mount: Mount, source: int | None) -> bytes:
    """Describe what ``entry`` has to find at a mount; nothing for what cannot go wrong.

    The parts are what is mounted (``read``, ``write`` or ``empty``), device and inode or the mode
    and nothing, and the path, each ended by a zero byte.
    """
    if source is not None:
        status = os.fstat(source)
        kind = "read" if mount.kind == "read" else "write"
        parts = kind, str(status.st_dev), str(status.st_ino)
    elif mount.kind in ("denied_directory", "denied_file"):
        parts = "empty", "111" if mount.is_passable else "0", ""
    else:
        return b""
    return b"\0".join((*map(str.encode, parts), to_native(mount.path), b""))


def changed(path: str) -> InvalidRequest:
    """Return the refusal of a view whose files were exchanged meanwhile."""
    return InvalidRequest(
        f"sandbox: {displayable(path)} was exchanged while the sandbox was prepared; try again"
    )
