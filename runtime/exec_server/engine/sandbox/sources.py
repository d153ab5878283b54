"""The files and directories that a view shows, opened so that nothing can take their place.

A path of a view passes through no link. One that does when it is opened has been exchanged since
the view was planned, so it is refused. bubblewrap mounts what was opened, and ``sandbox_entry``
finds out inside that it is mounted where it belongs.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import displayable, to_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from exec_server.engine.sandbox.view import Mount

SHOWING: Final = frozenset(("read", "write", "device"))
"""Kinds of mounts that show what is there."""

_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opening waits for nobody, whatever it is, and has no effect on it."""


def open_source(path: str) -> int:
    """Open what a view shows at a path; the descriptor is for mounting and looking only.

    Raises InvalidRequest if it is not there any more, or only by way of a link.
    """
    native = to_native(path)
    try:
        descriptor = os.open(native, _FLAGS)
    except OSError as error:
        raise changed(path) from error
    # The kernel's own name for it, which has no links in it.
    name = os.readlink(b"/proc/self/fd/%d" % descriptor)
    if name == native and not stat.S_ISLNK(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise changed(path)


def expectation(mount: Mount, source: int | None) -> bytes:
    """Describe what ``sandbox_entry`` has to find at a mount; nothing for what cannot go wrong.

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
    """Return the error for a path that is no longer what a view was planned with."""
    return InvalidRequest(
        f"sandbox: {displayable(path)} was exchanged while the sandbox was prepared; try again"
    )
