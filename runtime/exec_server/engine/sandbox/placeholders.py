"""Placeholders: empty files and directories at paths that a sandbox must not create.

They are created and removed in the directories named by a view's paths, never through a symbolic
link. They exist on disk, so they are visible to all programs, and programs outside of the sandbox
may use them. Each server that needs a placeholder holds a shared lock on it; the last one removes
it, because removing the entry below a mount would remove the mount. Placeholders are recognized by
their modification time, so those of other servers, running or not, are treated alike.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine.files import no_follow
from exec_server.engine.paths import displayable, to_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.sandbox.view import Placeholder, View

_MARK_NS: Final = 0
"""Modification time of placeholders: the epoch. Any use of a placeholder changes it."""

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_IMPOSSIBLE: Final = frozenset((errno.EPERM, errno.EROFS))
"""Errors that creation gives within the sandbox as well: for an immutable directory, and for a
read-only file system."""

_REPLACED: Final = frozenset((errno.EACCES, errno.ELOOP, errno.ENOENT, errno.ENOTDIR))
"""Errors of an operation that was possible when the view was planned."""

_ATTEMPTS: Final = 10
"""Attempts at a placeholder that another process keeps removing."""


class HeldPlaceholder(msgspec.Struct, eq=False):
    """A placeholder that this process holds."""

    path: str
    descriptor: int
    holders: int = 0


def is_placeholder(status: os.stat_result) -> bool:
    """Return True if a file is a placeholder; directories must in addition be empty."""
    if status.st_uid != os.geteuid() or status.st_mtime_ns != _MARK_NS:
        return False
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and not status.st_size)


class Placeholders:
    """The placeholders that this process holds, with reference counts."""

    def __init__(self) -> None:
        self._held: dict[str, HeldPlaceholder] = {}

    def acquire(self, view: View) -> tuple[tuple[HeldPlaceholder, ...], frozenset[str]]:
        """Create and hold the placeholders of a view until they are released.

        Also return the paths that cannot be created, and therefore need no placeholder. Raises
        OSError for lack of resources, InvalidRequest if the creation of a path cannot be prevented;
        no placeholder is held then.
        """
        wanted = {placeholder.path for placeholder in view.placeholders}
        held: list[HeldPlaceholder] = []
        impossible: set[str] = set()
        try:
            for placeholder in view.placeholders:
                one = self._acquire(placeholder)
                if one is None:
                    impossible.add(placeholder.path)
                else:
                    held.append(one)
            for mount in view.mounts:
                # A placeholder of another view that was taken for an ordinary file in planning.
                known = self._held.get(mount.path)
                if known is not None and mount.path not in wanted:
                    known.holders += 1
                    held.append(known)
        except BaseException:
            self.release(held)
            raise
        return tuple(held), frozenset(impossible)

    def release(self, held: Iterable[HeldPlaceholder]) -> None:
        """Release placeholders; those without other holders are removed."""
        for one in held:
            one.holders -= 1
            if not one.holders:
                if self._held.get(one.path) is one:
                    del self._held[one.path]
                _remove(one)

    def _acquire(self, placeholder: Placeholder) -> HeldPlaceholder | None:
        held = self._held.get(placeholder.path)
        if held is None or not _is_in_place(held):
            held = _create_and_lock(placeholder)
            if held is None:
                return None
            self._held[placeholder.path] = held
        held.holders += 1
        return held


PLACEHOLDERS: Final = Placeholders()
"""The placeholders of this process."""


def _create_and_lock(placeholder: Placeholder) -> HeldPlaceholder | None:
    """Create a placeholder unless it exists, and lock it; None where creation is impossible."""
    try:
        with no_follow.opened_parent(to_native(placeholder.path)) as (directory, name):
            for _ in range(_ATTEMPTS):
                try:
                    _create(directory, name, placeholder.is_directory)
                except OSError as error:
                    if error.errno in _IMPOSSIBLE or _is_not_writable(directory, error):
                        return None
                    raise
                descriptor = _lock(directory, name)
                if descriptor is not None:
                    return HeldPlaceholder(placeholder.path, descriptor)
    except OSError as error:
        if error.errno not in _REPLACED:
            raise
    raise InvalidRequest(
        f"sandbox: {displayable(placeholder.path)} cannot be kept from being created, because it, "
        "or a directory above it, was replaced or is not writable"
    )


def _is_not_writable(directory: int, error: OSError) -> bool:
    """Return True if a directory is not writable and its mode cannot be changed."""
    return error.errno == errno.EACCES and os.fstat(directory).st_uid != os.geteuid()


def _create(directory: int, name: bytes, is_directory: bool) -> None:
    with contextlib.suppress(FileExistsError):
        if is_directory:
            os.mkdir(name, dir_fd=directory)
        else:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o666, dir_fd=directory))
        os.utime(name, ns=(_MARK_NS, _MARK_NS), dir_fd=directory, follow_symlinks=False)


def _lock(directory: int, name: bytes) -> int | None:
    """Open and lock a placeholder; None if another process is removing it."""
    try:
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=directory)
    except (FileNotFoundError, BlockingIOError):
        return None
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not _names(directory, name, descriptor):
            return None
        stack.pop_all()
    return descriptor


def _names(directory: int, name: bytes, descriptor: int) -> bool:
    """Return True if a directory entry refers to an open file."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(status, os.fstat(descriptor))


def _is_in_place(held: HeldPlaceholder) -> bool:
    try:
        with no_follow.opened_parent(to_native(held.path)) as (directory, name):
            return _names(directory, name, held.descriptor)
    except OSError:
        return False


def _remove(held: HeldPlaceholder) -> None:
    """Unlock a placeholder; remove it if it is still empty and has no other holder."""
    try:
        with (
            contextlib.suppress(OSError),
            no_follow.opened_parent(to_native(held.path)) as (directory, name),
        ):
            fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(held.descriptor)
            if is_placeholder(status) and _names(directory, name, held.descriptor):
                remove = os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink
                remove(name, dir_fd=directory)
    finally:
        os.close(held.descriptor)
