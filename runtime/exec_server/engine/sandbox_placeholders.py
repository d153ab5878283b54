"""Empty files and directories that stand where nothing may come to exist, while something confined
runs.

They are real, so everybody sees them. Whoever needs one holds a shared lock on it, this server once
for all, and the last one removes it: removing what is mounted upon somewhere would take away the
mount. They are known by their mode, so that those of other servers, living or dead, are treated
alike.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import to_native

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server.engine.sandbox_view import Placeholder, View

_DIRECTORY_MODE: Final = 0o555
_FILE_MODE: Final = 0o444

_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NOBODY_CAN: Final = frozenset(
    (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS)
)
"""Reasons why a placeholder cannot be made, which are the same for what is confined."""

_ATTEMPTS: Final = 10
"""At a placeholder that somebody else removes again and again."""


@dataclass(slots=True)
class _Held:
    descriptor: int
    holders: int = 0


def is_placeholder(status: os.stat_result) -> bool:
    """Whether this is one, if it is empty."""
    if status.st_uid != os.geteuid():
        return False
    if stat.S_ISDIR(status.st_mode):
        return stat.S_IMODE(status.st_mode) == _DIRECTORY_MODE
    is_file = stat.S_ISREG(status.st_mode) and status.st_size == 0
    return is_file and stat.S_IMODE(status.st_mode) == _FILE_MODE


class Placeholders:
    """Those that this process holds, counted."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def hold(self, view: View) -> tuple[tuple[str, ...], frozenset[str]]:
        """Make and hold what a view needs; ``release`` the paths in the first part later.

        The second part are those that cannot be made, so that nobody else can make them either.
        Raises OSError for lack of resources; nothing is held then.
        """
        wanted = {placeholder.path: placeholder for placeholder in view.placeholders}
        held: list[str] = []
        impossible: set[str] = set()
        try:
            for path, placeholder in wanted.items():
                if self._hold(placeholder):
                    held.append(path)
                else:
                    impossible.add(path)
            for mount in view.mounts:
                # One that was there already when the view was planned.
                known = self._held.get(mount.path)
                if known is not None and mount.path not in wanted:
                    known.holders += 1
                    held.append(mount.path)
        except BaseException:
            self.release(held)
            raise
        return tuple(held), frozenset(impossible)

    def release(self, paths: Iterable[str]) -> None:
        """Let go of paths that ``hold`` returned."""
        for path in paths:
            held = self._held[path]
            held.holders -= 1
            if not held.holders:
                del self._held[path]
                _let_go(to_native(path), held)

    def _hold(self, placeholder: Placeholder) -> bool:
        held = self._held.get(placeholder.path)
        if held is None:
            held = _acquire(placeholder)
            if held is None:
                return False
            self._held[placeholder.path] = held
        held.holders += 1
        return True


PLACEHOLDERS: Final = Placeholders()
"""The ones of this process."""


def _acquire(placeholder: Placeholder) -> _Held | None:
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
            if os.fstat(descriptor).st_nlink:
                return _Held(descriptor)
            os.close(descriptor)
    return None


def _make(path: bytes, is_directory: bool) -> None:
    with contextlib.suppress(FileExistsError):
        mode = _DIRECTORY_MODE if is_directory else _FILE_MODE
        if is_directory:
            os.mkdir(path, mode)
        else:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(path, flags, mode))
        os.chmod(path, mode)  # whatever the umask has taken away


def _let_go(path: bytes, held: _Held) -> None:
    """Remove what is still empty and needed by nobody; leave everything else."""
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(held.descriptor)
            if not is_placeholder(status) or not os.path.samestat(os.lstat(path), status):
                return
            (os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink)(path)
    finally:
        os.close(held.descriptor)
