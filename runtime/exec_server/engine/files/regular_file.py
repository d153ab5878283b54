"""Non-blocking open of regular files (v2 fs/readFile, fs/open)."""

from __future__ import annotations

import os
import stat
from typing import Final, Literal

from exec_server.engine.files import no_follow
from exec_server.engine.files.path_guard import PATH_GUARD
from exec_server.engine.paths import displayable, normalize, to_native
from exec_server.errors import InvalidRequest

OpenMode = Literal["read", "replace"]
"""``replace`` truncates the file, and creates it if it is missing."""

_FLAGS: Final[dict[OpenMode, int]] = {
    "read": os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
    "replace": os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
}


def open_regular(path: str, mode: OpenMode, *, follow_symlinks: bool = True) -> int:
    """Open a regular file and return its descriptor.

    Raises InvalidRequest for other types of files, or OSError if they cannot be opened at all:
    EISDIR for a directory in mode ``replace``, ENXIO for a socket or a FIFO without a reader, ELOOP
    for a link that is not followed.
    """
    native = to_native(path)
    if mode == "replace":
        PATH_GUARD.check_creating(native)
    if follow_symlinks:
        descriptor = os.open(native, _FLAGS[mode], 0o666)
    else:
        descriptor = no_follow.open_entry(native, _FLAGS[mode])
    try:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_regular and mode == "replace":
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    if is_regular:
        return descriptor
    os.close(descriptor)
    if follow_symlinks:
        raise InvalidRequest(f"path `{displayable(normalize(path))}` is not a file")
    raise InvalidRequest("path is not a regular file")
