"""Metadata of files (fs/getMetadata)."""

from __future__ import annotations

import os
import stat

import msgspec

from exec_server.engine.files import no_follow
from exec_server.engine.paths import to_native
from exec_server.errors import InvalidRequest


class Metadata(msgspec.Struct, frozen=True):
    """Metadata of a path; type, size and times are those of a link's target."""

    is_directory: bool
    is_file: bool
    is_symlink: bool
    """True if the path itself is a symbolic link."""
    size: int
    """Bytes."""
    created_at_ms: int
    """Milliseconds since the epoch if links were not followed and the file system records the birth
    time, otherwise 0, as in the released servers."""
    modified_at_ms: int
    """Milliseconds since the epoch, 0 for earlier times."""


def get_metadata(path: str, *, follow_symlinks: bool = True) -> Metadata:
    """Return the metadata of a path.

    Raises OSError, ENOENT also for a dangling link; InvalidRequest for a link that is not followed.
    """
    native = to_native(path)
    if not follow_symlinks:
        return _get_metadata_no_follow(native)
    status = os.lstat(native)
    is_symlink = stat.S_ISLNK(status.st_mode)
    if is_symlink:
        status = os.stat(native)
    return _from_status(status, is_symlink=is_symlink)


def _get_metadata_no_follow(native: bytes) -> Metadata:
    # Requires ctypes, which is not needed otherwise.
    from exec_server.engine.files.birth_time import birth_time_ns  # noqa: PLC0415

    if native == b"/":
        descriptor = os.open(native, os.O_PATH | os.O_CLOEXEC)
    else:
        descriptor = no_follow.open_entry(native, os.O_PATH)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISLNK(status.st_mode):
            raise InvalidRequest(no_follow.LINK_MESSAGE)
        return _from_status(status, created_at_ns=birth_time_ns(descriptor))
    finally:
        os.close(descriptor)


def _from_status(
    status: os.stat_result, *, is_symlink: bool = False, created_at_ns: int = 0
) -> Metadata:
    mode = status.st_mode
    return Metadata(
        stat.S_ISDIR(mode),
        stat.S_ISREG(mode),
        is_symlink,
        status.st_size,
        max(0, created_at_ns // 1_000_000),
        max(0, status.st_mtime_ns // 1_000_000),
    )
