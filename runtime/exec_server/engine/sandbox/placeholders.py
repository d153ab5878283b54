"""Empty files and directories that stand where nothing may come to exist, while something confined
runs.

They are made and removed in the directories that a view's paths name, never by way of a link. They
are real, so everybody sees them, and whoever is not confined may use them. Whoever needs one
holds a shared lock on it, this server once for all, and the last one removes it: removing what is
mounted upon somewhere would take away the mount. They are known by the time at which they seem to
have been changed, so those of other servers, living or dead, are treated alike.
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
"""When they were last changed, they claim: in 1970. Any use of them takes that mark away."""

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NOBODY_CAN: Final = frozenset((errno.EPERM, errno.EROFS))
"""Reasons why a placeholder cannot be made, which are the same for what is confined: an immutable
directory, a file system that is read-only."""

_CHANGED: Final = frozenset((errno.EACCES, errno.ELOOP, errno.ENOENT, errno.ENOTDIR))
"""Failures of what could be done when the view was planned."""

_ATTEMPTS: Final = 10
"""At a placeholder that somebody else removes again and again."""


class Held(msgspec.Struct, eq=False):
    """A placeholder that this process holds."""

    path: str
    descriptor: int
    holders: int = 0


def is_placeholder(status: os.stat_result) -> bool:
    """Whether this is one; a directory has to be empty, too."""
    if status.st_uid != os.geteuid() or status.st_mtime_ns != _MARK_NS:
        return False
    return stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and not status.st_size)


class Placeholders:
    """Those that this process holds, counted."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def hold(self, view: View) -> tuple[tuple[Held, ...], frozenset[str]]:
        """Make and hold what a view needs; to be released later.

        Also returned are the paths of those that cannot be made, so that nobody else can make them
        either. Raises OSError for lack of resources, InvalidRequest if it cannot be seen to that
        nobody makes one; nothing is held then.
        """
        wanted = {placeholder.path: placeholder for placeholder in view.placeholders}
        held: list[Held] = []
        impossible: set[str] = set()
        try:
            for placeholder in view.placeholders:
                one = self._hold(placeholder)
                if one is None:
                    impossible.add(placeholder.path)
                else:
                    held.append(one)
            for mount in view.mounts:
                # One that was there already when the view was planned.
                known = self._held.get(mount.path)
                if known is not None and mount.path not in wanted:
                    known.holders += 1
                    held.append(known)
        except BaseException:
            self.release(held)
            raise
        return tuple(held), frozenset(impossible)

    def release(self, held: Iterable[Held]) -> None:
        """Let go of what ``hold`` returned."""
        for one in held:
            one.holders -= 1
            if not one.holders:
                if self._held.get(one.path) is one:
                    del self._held[one.path]
                _let_go(one)

    def _hold(self, placeholder: Placeholder) -> Held | None:
        held = self._held.get(placeholder.path)
        if held is None or not _is_in_place(held):
            held = _acquire(placeholder)
            if held is None:
                return None
            self._held[placeholder.path] = held
        held.holders += 1
        return held


PLACEHOLDERS: Final = Placeholders()
"""The ones of this process."""


def _acquire(placeholder: Placeholder) -> Held | None:
    """Make a placeholder or find it there, and lock it; None where nobody can make one."""
    try:
        with no_follow.opened_parent(to_native(placeholder.path)) as (directory, name):
            for _ in range(_ATTEMPTS):
                try:
                    _make(directory, name, placeholder.is_directory)
                except OSError as error:
                    if error.errno in _NOBODY_CAN or _is_closed(directory, error):
                        return None
                    raise
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(name, _OPEN_FLAGS, dir_fd=directory)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BaseException:
                        os.close(descriptor)
                        raise
                    if _is_there(descriptor, directory, name):
                        return Held(placeholder.path, descriptor)
                    os.close(descriptor)
    except OSError as error:
        if error.errno not in _CHANGED:
            raise
    raise InvalidRequest(
        f"sandbox: {displayable(placeholder.path)} cannot be kept from being created, because it, "
        "or a directory above it, was changed meanwhile or may not be written"
    )


def _is_closed(directory: int, error: OSError) -> bool:
    """True if a directory may not be written, and is not one's own to change that."""
    return error.errno == errno.EACCES and os.fstat(directory).st_uid != os.geteuid()


def _make(directory: int, name: bytes, is_directory: bool) -> None:
    with contextlib.suppress(FileExistsError):
        if is_directory:
            os.mkdir(name, dir_fd=directory)
        else:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o666, dir_fd=directory))
        os.utime(name, ns=(_MARK_NS, _MARK_NS), dir_fd=directory, follow_symlinks=False)


def _is_there(descriptor: int, directory: int, name: bytes) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(status, os.fstat(descriptor))


def _is_in_place(held: Held) -> bool:
    try:
        with no_follow.opened_parent(to_native(held.path)) as (directory, name):
            return _is_there(held.descriptor, directory, name)
    except OSError:
        return False


def _let_go(held: Held) -> None:
    """Remove what is still empty and needed by nobody; leave everything else."""
    try:
        with (
            contextlib.suppress(OSError),
            no_follow.opened_parent(to_native(held.path)) as (directory, name),
        ):
            fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(held.descriptor)
            if is_placeholder(status) and _is_there(held.descriptor, directory, name):
                remove = os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink
                remove(name, dir_fd=directory)
    finally:
        os.close(held.descriptor)
