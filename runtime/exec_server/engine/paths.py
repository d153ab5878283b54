"""Absolute native paths, as text.

The engine takes and returns paths as ``str`` in which a byte that is not UTF-8 stands as a lone
surrogate (PEP 383). They are turned into bytes as UTF-8 whatever the locale of the server says,
so a client's text always names the same file.

All work here is on text, nothing looks at the file system. ``..`` takes away the component before
it even where that is a symbolic link: the rule of v1 fs/*.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from exec_server.errors import InvalidArgument, InvalidRequest

MAX_PATH_BYTES: Final = 4096
"""Longest path that the system takes (PATH_MAX)."""

NUL_MESSAGE = "file name contained an unexpected NUL byte"
"""What the released servers say to a NUL in a path (v1 fs/*)."""


def normalize(path: str) -> str:
    """Return ``path`` without ``.``, ``..``, doubled and trailing slashes.

    ``..`` at the root stays at the root. A NUL is let through: it matters only to those who go to
    the file system. Raises InvalidArgument if the path is not absolute, OSError (ENAMETOOLONG) if
    it is longer than the system takes.
    """
    check_length(path, MAX_PATH_BYTES)
    if not path.startswith("/"):
        raise InvalidArgument(f"expected an absolute path, got {path!r}")
    if "/." not in path and "//" not in path and (path[-1] != "/" or len(path) == 1):
        return path
    return _without_dots(path)


def _without_dots(path: str) -> str:
    kept: list[str] = []
    for component in path.split("/"):
        if component == "..":
            if kept:
                kept.pop()
        elif component not in ("", "."):
            kept.append(component)
    return "/" + "/".join(kept)


def check_length(text: str, max_bytes: int) -> None:
    """Raise OSError (ENAMETOOLONG), as the system would, for a text that can name no path."""
    # What the text comes to in the end is left to the system; here it matters what it costs.
    if len(text) > max_bytes:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def join(base: str, path: str) -> str:
    """Return ``path`` as seen from the directory ``base``, normalised (v1 fs/join).

    An absolute ``path`` replaces the base, an empty one is the base itself; ``~`` and ``~/...``
    are the home directory of the server's user. Raises InvalidArgument if ``base`` is not
    absolute.
    """
    base = normalize(base)
    check_length(path, MAX_PATH_BYTES)
    if path == "~" or path.startswith("~/"):
        home = os.path.expanduser("~")
        if home.startswith("/"):
            path = home + path[1:]
    if path.startswith("/"):
        return normalize(path)
    return _without_dots(f"{base}/{path}")


def parent(path: str) -> str | None:
    """Return the directory that holds ``path``, None for the root (v1 fs/parent).

    Raises InvalidArgument if the path is not absolute.
    """
    path = normalize(path)
    if path == "/":
        return None
    return path[: path.rindex("/")] or "/"


def to_native(path: str) -> bytes:
    """Return the normalised path as the operating system takes it.

    Raises InvalidArgument if it is not absolute, InvalidRequest if it contains a NUL.
    """
    path = normalize(path)
    if "\0" in path:
        raise InvalidRequest(NUL_MESSAGE)
    return path.encode("utf-8", "surrogateescape")


def from_native(path: bytes) -> str:
    """Return what the operating system says as a path of the engine; ``to_native`` undoes it."""
    return path.decode("utf-8", "surrogateescape")


def displayable(path: str) -> str:
    """Return a path of the engine as text that JSON can carry: U+FFFD where it is not UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return path
