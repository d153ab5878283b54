"""Empty files and directories that stand where nothing may come to exist, while something confined
runs.

They are real, so everybody sees them, and whoever is not confined may use them. Whoever needs one
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

from exec_server.engine.paths import to_native

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.sandbox_view import Placeholder, View

_MARK_NS: Final = 0
"""When they were last changed, they claim: in 1970. Any use of them takes that mark away."""

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NOBODY_CAN: Final = frozenset(
    (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS)
)
"""Reasons why a placeholder cannot be made, which are the same for what is confined."""

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
        either. Raises OSError for lack of resources; nothing is held then.
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
    path = to_native(placeholder.path)
    for _ in range(_ATTEMPTS):
        try:
            _make(path, placeholder.is_directory)
        except OSError as error:
            if error.errno in _NOBODY_CAN:
                return None
            raise
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(path, _OPEN_FLAGS)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BaseException:
                os.close(descriptor)
                raise
            held = Held(placeholder.path, descriptor)
            if _is_in_place(held):
                return held
            os.close(descriptor)
    return None


def _make(path: bytes, is_directory: bool) -> None:
    with contextlib.suppress(FileExistsError):
        if is_directory:
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.utime(path, ns=(_MARK_NS, _MARK_NS), follow_symlinks=False)


def _is_in_place(held: Held) -> bool:
    try:
        return os.path.samestat(os.lstat(to_native(held.path)), os.fstat(held.descriptor))
    except OSError:
        return False


def _let_go(held: Held) -> None:
    """Remove what is still empty and needed by nobody; leave everything else."""
    path = to_native(held.path)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(held.descriptor)
            if is_placeholder(status) and _is_in_place(held):
                (os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink)(path)
    finally:
        os.close(held.descriptor)
