"""Absolute native paths as text.

The engine represents paths as ``str``; bytes that are not valid UTF-8 are lone surrogates (PEP
383). Paths are encoded as UTF-8 independently of the server's locale, so the same text always
names the same file.

The functions operate on text only and never access the file system. ``..`` removes the component
before it even if that is a symbolic link, as in v1 fs/*.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, AnyStr, Final

from exec_server.errors import InvalidArgument, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATH_BYTES: Final = 4096
"""Maximum length of a path that the kernel accepts (PATH_MAX)."""

NUL_MESSAGE = "file name contained an unexpected NUL byte"
"""Error text of the released servers for a NUL in a path (v1 fs/*)."""


def normalize(path: str) -> str:
    """Return ``path`` without ``.``, ``..``, doubled and trailing slashes.

    ``..`` at the root stays at the root. A NUL is accepted; ``to_native`` rejects it. Raises
    InvalidArgument if the path is not absolute, OSError (ENAMETOOLONG) if it is longer than the
    kernel accepts.
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
    """Raise OSError (ENAMETOOLONG) for a text that is too long for a path."""
    # Bounds the work of normalization; the kernel checks the length of the normalized path.
    if len(text) > max_bytes:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def join(base: str, path: str) -> str:
    """Return ``path`` relative to the directory ``base``, normalized (v1 fs/join).

    An absolute ``path`` replaces the base, an empty one yields the base itself; ``~`` and ``~/...``
    refer to the home directory of the server's user. Raises InvalidArgument if ``base`` is not
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


def ancestors(path: AnyStr) -> Iterator[AnyStr]:
    """Yield the directories above an absolute path, the nearest first."""
    while (above := os.path.dirname(path)) != path:
        yield (path := above)


def to_native(path: str) -> bytes:
    """Return the normalized path as bytes for system calls.

    Raises InvalidArgument if it is not absolute, InvalidRequest if it contains a NUL.
    """
    path = normalize(path)
    if "\0" in path:
        raise InvalidRequest(NUL_MESSAGE)
    return path.encode("utf-8", "surrogateescape")


def from_native(path: bytes) -> str:
    """Return a path from the operating system as text; the inverse of ``to_native``."""
    return path.decode("utf-8", "surrogateescape")


def displayable(path: str) -> str:
    """Return a path as valid Unicode: bytes that are not UTF-8 become U+FFFD."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return path
