"""File operations on absolute native paths: the engine of fs/*.

Paths are ``str`` as described in ``paths``; each function normalises them lexically first and
raises InvalidArgument for one that is not absolute, InvalidRequest for one with a NUL. Symbolic
links are followed unless said otherwise. An OSError passes through: its errno is the answer.

With ``follow_symlinks=False`` no component of the path may be a link. OSError ENOTDIR says that
one before the last is; of the last, the function says it.

Everything is synchronous, touches no shared state and may run in any thread. Nothing waits for
another process: FIFOs and terminals are opened without blocking.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import Final

import msgspec

from exec_server.engine.files import no_follow
from exec_server.engine.files.copy import copy
from exec_server.engine.files.real_path import real_path
from exec_server.engine.files.replace import Contents, put
from exec_server.engine.files.source import READ_LIMIT_BYTES, ReadSource, open_for_read
from exec_server.engine.files.tree import make_directories, remove_tree
from exec_server.engine.paths import (
    displayable,
    from_native,
    join,
    normalize,
    parent,
    to_native,
)
from exec_server.engine.sandbox.live_views import LIVE_VIEWS
from exec_server.errors import InvalidRequest, OperationFailed

__all__ = [
    "READ_LIMIT_BYTES",
    "DirectoryEntry",
    "Metadata",
    "PendingWrite",
    "ReadSource",
    "canonicalize",
    "copy",
    "create_directory",
    "displayable",
    "get_metadata",
    "join",
    "normalize",
    "open_for_read",
    "parent",
    "read_directory",
    "read_file",
    "remove",
    "write_file",
]


_LINK_MESSAGE: Final = "path contains a symbolic link"


LISTING_BYTES: Final = 32 * 1024 * 1024
"""Bytes of names, with ENTRY_BYTES more for each, that one listing may have: some 400,000 entries
with names of usual length. The answer takes several times as much memory for a moment."""

ENTRY_BYTES: Final = 64
"""Memory of an entry besides its name."""


class Metadata(msgspec.Struct, frozen=True):
    """What is known of a path; kinds, size and times are those of a link's target."""

    is_directory: bool
    is_file: bool
    is_symlink: bool
    """Whether the path itself is a symbolic link."""
    size: int
    """Bytes."""
    created_at_ms: int
    """Milliseconds since 1970 where links were not followed and the file system knows it, else 0:
    so the released servers do."""
    modified_at_ms: int
    """Milliseconds since 1970, 0 for anything earlier."""


class DirectoryEntry(msgspec.Struct, frozen=True, gc=False):
    """One name in a directory; the kind is that of a link's target.

    A Struct because ten thousand are made at once: five times faster than a named tuple.
    """

    file_name: str
    """U+FFFD where the name is not UTF-8."""
    is_directory: bool
    is_file: bool


class PendingWrite:
    """The rest of a write into a FIFO or terminal whose reader has not kept up."""

    __slots__ = ("_descriptor", "_left")

    def __init__(self, descriptor: int, left: memoryview) -> None:
        """Take over a non-blocking descriptor."""
        self._descriptor = descriptor
        self._left = left

    async def finish(self) -> None:
        """Write what is left as the reader takes it, and close; may be cancelled. To be awaited
        exactly once. Raises OSError: EPIPE if the reader has gone.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        try:
            loop.add_writer(self._descriptor, self._advance, done)
            try:
                await done
            finally:
                loop.remove_writer(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _advance(self, done: asyncio.Future[None]) -> None:
        try:
            self._left = _write_some(self._descriptor, self._left)
        except OSError as error:
            if not done.done():
                done.set_exception(error)
            return
        if not self._left and not done.done():
            done.set_result(None)


def read_file(path: str, *, regular_only: bool = False, follow_symlinks: bool = True) -> bytes:
    """Return the whole contents of a file of modest size, in one object.

    Raises as ``open_for_read``, which is for everything else; BlockingIOError where the contents
    have to be waited for.
    """
    source = open_for_read(path, regular_only=regular_only, follow_symlinks=follow_symlinks)
    try:
        if source.size is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return b"".join(iter(lambda: source.read(source.size or 0), b""))
    finally:
        source.close()


def write_file(
    path: str,
    data: bytes | bytearray | memoryview,
    *,
    follow_symlinks: bool = True,
    durable: bool = False,
) -> PendingWrite | None:
    """Create a file, mode 0666 less the umask, or replace the contents of one, keeping its mode.

    Either all of it or nothing; see ``file_replace``. A link that leads nowhere gets its target
    created; one not followed is ELOOP. Returns None when all is written; only for a FIFO or a
    terminal that is full, the rest to await. A FIFO that nobody reads is an error, ENXIO. Raises
    OSError, and InvalidRequest for anything but a regular file where links are not followed.
    """
    view = memoryview(data)
    contents = Contents(len(view), lambda descriptor: _write_all(descriptor, view))
    descriptor = put(to_native(path), contents, follow_symlinks=follow_symlinks, durable=durable)
    if descriptor is None:
        return None
    if not follow_symlinks:
        os.close(descriptor)
        raise InvalidRequest("path is not a regular file")
    try:
        left = _write_some(descriptor, view)
    except BaseException:
        os.close(descriptor)
        raise
    if left:
        return PendingWrite(descriptor, left)
    os.close(descriptor)
    return None


def _write_all(descriptor: int, data: memoryview) -> None:
    """Write to a regular file, which never blocks."""
    while data:
        data = data[os.write(descriptor, data) :]


def _write_some(descriptor: int, data: memoryview) -> memoryview:
    """Write until all is written or the descriptor would block; return what is left."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            break
    return data


def create_directory(path: str, recursive: bool = True, *, follow_symlinks: bool = True) -> None:
    """Create a directory, mode 0777 less the umask.

    With ``recursive``, missing parents too, and an existing directory is fine, but a link not
    followed is ENOTDIR; else anything that exists is OSError EEXIST, a missing parent ENOENT.
    """
    native = to_native(path)
    LIVE_VIEWS.check_creating(native)
    if recursive:
        (make_directories if follow_symlinks else no_follow.make_directories)(native)
    elif follow_symlinks:
        os.mkdir(native)
    elif native == b"/":
        raise OperationFailed("directory already exists")
    else:
        with no_follow.opened_parent(native) as (directory, name):
            os.mkdir(name, dir_fd=directory)


def get_metadata(path: str, *, follow_symlinks: bool = True) -> Metadata:
    """Describe what a path leads to.

    Raises OSError, ENOENT also for a link that leads nowhere; InvalidRequest for a link that is
    not followed.
    """
    native = to_native(path)
    if not follow_symlinks:
        return _get_metadata_no_follow(native)
    status = os.lstat(native)
    is_symlink = stat.S_ISLNK(status.st_mode)
    if is_symlink:
        status = os.stat(native)
    return _to_metadata(status, is_symlink=is_symlink)


def _get_metadata_no_follow(native: bytes) -> Metadata:
    # Loads ctypes, which little else needs.
    from exec_server.engine.files.birth_time import birth_time_ns  # noqa: PLC0415

    if native == b"/":
        descriptor = os.open(native, os.O_PATH | os.O_CLOEXEC)
    else:
        descriptor = no_follow.open_entry(native, os.O_PATH)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISLNK(status.st_mode):
            raise InvalidRequest(_LINK_MESSAGE)
        return _to_metadata(status, created_at_ns=birth_time_ns(descriptor))
    finally:
        os.close(descriptor)


def _to_metadata(
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


def read_directory(path: str) -> list[DirectoryEntry]:
    """List a directory in the file system's order, links that lead nowhere left out.

    Raises InvalidRequest if the listing takes more memory than LISTING_BYTES.
    """
    found: list[DirectoryEntry] = []
    add = found.append
    left = LISTING_BYTES
    with os.scandir(to_native(path)) as entries:
        for entry in entries:
            left -= ENTRY_BYTES + len(entry.name)
            if left < 0:
                raise InvalidRequest(
                    f"the directory has too many entries to be listed: the limit is {LISTING_BYTES}"
                    f" bytes of names, with {ENTRY_BYTES} more for each"
                )
            if entry.is_symlink():
                try:
                    mode = entry.stat().st_mode
                except OSError:
                    continue
                is_directory, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
            else:
                is_directory = entry.is_dir(follow_symlinks=False)
                is_file = not is_directory and entry.is_file(follow_symlinks=False)
            add(DirectoryEntry(entry.name.decode("utf-8", "replace"), is_directory, is_file))
    return found


def remove(
    path: str, recursive: bool = True, force: bool = True, *, follow_symlinks: bool = True
) -> None:
    """Remove a file, a link (never what it leads to) or a directory.

    A directory that is not empty needs ``recursive``, else OSError ENOTEMPTY. With ``force`` a
    path that does not exist is fine. The root is never removed recursively: InvalidRequest.

    ``follow_symlinks=False`` refuses a link too, InvalidRequest, and does not go together with
    ``recursive``: OperationFailed.
    """
    native = to_native(path)
    if recursive and not follow_symlinks:
        raise OperationFailed("recursive no-follow removal is unsupported")
    LIVE_VIEWS.check_removing(native)
    try:
        if not follow_symlinks:
            _remove_no_follow(native)
            return
        is_directory = stat.S_ISDIR(os.lstat(native).st_mode)
    except FileNotFoundError:
        if force:
            return
        raise
    if not is_directory:
        os.unlink(native)
    elif not recursive:
        os.rmdir(native)
    elif native == b"/":
        raise InvalidRequest("fs/remove does not remove the root directory")
    else:
        remove_tree(native)


def _remove_no_follow(native: bytes) -> None:
    with no_follow.opened_parent(native) as (directory, name):
        mode = os.lstat(name, dir_fd=directory).st_mode
        if stat.S_ISLNK(mode):
            raise InvalidRequest(_LINK_MESSAGE)
        (os.rmdir if stat.S_ISDIR(mode) else os.unlink)(name, dir_fd=directory)


def canonicalize(path: str) -> str:
    """Return the path with every symbolic link resolved; it must exist. Raises OSError."""
    return from_native(real_path(to_native(path)))
