"""Files that a view exposes, examined and opened while other programs may replace them.

The paths of a view contain no symbolic links. If there is one when a file is opened, the path has
been changed since it was resolved, and the view is refused. bubblewrap mounts the opened files, and
``entry`` verifies from within the sandbox that each is mounted in the right place.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import displayable, from_native, to_native
from exec_server.engine.sandbox.view import DENYING
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from exec_server.engine.sandbox.view import Mount

_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

_MAX_LINKS: Final = 40
"""Symbolic links followed on one path, as in the kernel."""

_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opening never blocks, whatever the type of the file, and has no effect on it."""


class Snapshot:
    """State of files, each recorded when it is first examined."""

    def __init__(self) -> None:
        self._found: dict[str, os.stat_result | None] = {}
        self._contents: dict[str, str] = {}

    def resolve(self, path: str) -> tuple[str, dict[str, str]]:
        """Resolve an absolute path; return the result, and the links on the way with their targets.

        Missing components are kept as they are. Raises InvalidRequest for too many links, or if a
        file is replaced meanwhile.
        """
        to_native(path)  # checks for a NUL, which no file name contains
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
        """Return the status of a resolved path; None if it does not exist or is not accessible.

        Raises InvalidRequest if it is replaced meanwhile.
        """
        if path not in self._found:
            self._found[path] = self._examine(path)
        return self._found[path]

    def is_directory(self, path: str) -> bool:
        """Return True for a directory."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def identity(self, path: str) -> tuple[int, int]:
        """Return device and inode; zeros if the path does not exist."""
        status = self.status(path)
        return (0, 0) if status is None else (status.st_dev, status.st_ino)

    def _examine(self, path: str) -> os.stat_result | None:
        if path == "/":
            return os.stat("/")
        above, _, name = path.rpartition("/")
        if not self.is_directory(above or "/"):
            return None
        native = _encode(name)
        directory = open_source(above or "/")
        try:
            status = os.stat(native, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                self._contents[path] = from_native(os.readlink(native, dir_fd=directory))
        except OSError as error:
            if error.errno == errno.EINVAL:  # no longer a link
                raise replaced(path) from error
            return None
        finally:
            os.close(directory)
        return status


def open_source(path: str) -> int:
    """Open the file that a view exposes at a path; the descriptor can be mounted, but not read.

    Raises InvalidRequest if the file is missing or its path contains a symbolic link, and OSError
    for lack of resources.
    """
    native = _encode(path)
    try:
        descriptor = os.open(native, _FLAGS)
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        raise replaced(path) from error
    if is_reached_without_links(descriptor, native) and not stat.S_ISLNK(
        os.fstat(descriptor).st_mode
    ):
        return descriptor
    os.close(descriptor)
    raise replaced(path)


def _encode(path: str) -> bytes:
    """Return a resolved path, or a name in it, as bytes: ``to_native`` without its checks."""
    return path.encode("utf-8", "surrogateescape")


def is_reached_without_links(descriptor: int, path: bytes) -> bool:
    """Return True if a file was opened by a native path without symbolic links."""
    return os.readlink(b"/proc/self/fd/%d" % descriptor) == path  # the kernel's name for the file


def expectation(mount: Mount, source: int | None) -> bytes:
    """Return the description of a mount that ``entry`` verifies; empty if it needs no check.

    It consists of the type (``read``, ``write`` or ``empty``), device and inode, or the mode and an
    empty field, and the path, each terminated by a zero byte.
    """
    if source is not None:
        status = os.fstat(source)
        kind = "read" if mount.kind == "read" else "write"
        parts = kind, str(status.st_dev), str(status.st_ino)
    elif mount.kind in DENYING:
        parts = "empty", "111" if mount.is_passable else "0", ""
    else:
        return b""
    return b"\0".join((*map(str.encode, parts), to_native(mount.path), b""))


def replaced(path: str) -> InvalidRequest:
    """Return the error for a file that was replaced while a sandbox was being set up."""
    return InvalidRequest(
        f"sandbox: {displayable(path)} was replaced while the sandbox was being set up; try again"
    )
