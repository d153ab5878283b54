"""Opening regular files and nothing else, without ever waiting (v2 fs/readFile, fs/open)."""

from __future__ import annotations

import os
import stat
from typing import Final, Literal

from exec_server.engine.files import no_follow
from exec_server.engine.paths import displayable, normalize, to_native
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.errors import InvalidRequest

OpenMode = Literal["read", "replace"]

_FLAGS: Final[dict[OpenMode, int]] = {
    "read": os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
    "replace": os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
}


def open_regular(path: str, mode: OpenMode, *, follow_symlinks: bool = True) -> int:
    """Open a file to read it, or an empty one to write, created if it is missing.

    Raises InvalidRequest for anything else than a regular file, or OSError where it cannot even
    be opened: EISDIR for a directory to write, ENXIO for a socket or a FIFO that nobody reads,
    ELOOP for a link that is not followed.
    """
    native = to_native(path)
    if mode == "replace":
        LIVE_VIEWS.check_creating(native)
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
