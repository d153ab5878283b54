"""Paths that file operations must not change while a sandbox depends on them.

The kernel ties a mount to the directory entry below it. If that entry is removed, or another file
is renamed over it, outside of the sandbox, the mount disappears inside, and a running program gains
access to a file that the mount denied or kept read-only. The server cannot prevent other programs
from doing this, but its own file operations consult the guard first: a file with a mount on it is
overwritten in place, and an operation that would undo a rule is refused while a program runs under
that rule.

A sandboxed worker for file operations has a copy of the guard, which the server keeps up to date.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec

from exec_server.engine.files.real_path import resolve, resolve_parent
from exec_server.engine.paths import ancestors, displayable, from_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

T = TypeVar("T")

Identity: TypeAlias = tuple[int, int, int]
"""Device, inode and birth time: a file that is created anew often gets the inode of the old one."""

NO_FILE: Final[Identity] = (0, 0, 0)
"""Identity recorded for a path that does not exist."""


class ProtectedPaths(msgspec.Struct, frozen=True):
    """Files and paths on which sandboxes depend. Paths are native and resolved."""

    mounted: tuple[tuple[int, int], ...] = ()
    """Device and inode of every file with a mount on it."""
    denied: tuple[tuple[bytes, Identity], ...] = ()
    """Denied paths, and the file that was there when the rule came into force."""
    read_only: tuple[bytes, ...] = ()
    """Read-only paths in writable directories, and the directories that lead to them."""


class PathGuard:
    """The protected paths of all sandboxes of this process, counted."""

    def __init__(self) -> None:
        self.generation = 0
        """Incremented whenever the protected paths change."""
        self._mounted: Counter[tuple[int, int]] = Counter()
        self._denied: dict[bytes, Counter[Identity]] = {}
        self._above_denied: Counter[bytes] = Counter()
        self._read_only: Counter[bytes] = Counter()

    def __len__(self) -> int:
        """Return the number of protected paths, each counted once."""
        return len(self._mounted) + len(self._denied) + len(self._read_only)

    def add(self, protected: ProtectedPaths) -> None:
        """Protect paths until ``remove`` is called with the same value."""
        self._mounted.update(protected.mounted)
        for path, identity in protected.denied:
            self._denied.setdefault(path, Counter())[identity] += 1
            self._above_denied.update(ancestors(path))
        self._read_only.update(protected.read_only)
        self.generation += 1

    def remove(self, protected: ProtectedPaths) -> None:
        """Undo ``add``."""
        _subtract(self._mounted, protected.mounted)
        for path, identity in protected.denied:
            _subtract(self._denied[path], (identity,))
            if not self._denied[path]:
                del self._denied[path]
            _subtract(self._above_denied, ancestors(path))
        _subtract(self._read_only, protected.read_only)
        self.generation += 1

    def snapshot(self, excluded: Container[bytes]) -> ProtectedPaths:
        """Return the protected paths, except some, for another process to ``load``."""
        return ProtectedPaths(
            tuple(self._mounted),
            tuple(
                (path, identity)
                for path, identities in self._denied.items()
                if path not in excluded
                for identity in identities
            ),
            tuple(path for path in self._read_only if path not in excluded),
        )

    def load(self, protected: ProtectedPaths) -> None:
        """Replace all protected paths."""
        for counts in (self._mounted, self._denied, self._above_denied, self._read_only):
            counts.clear()
        self.add(protected)

    def has_mount_on(self, status: os.stat_result) -> bool:
        """Return True if a file must be overwritten in place."""
        return (status.st_dev, status.st_ino) in self._mounted

    def check_writing(self, path: bytes, descriptor: int, name: bytes = b"") -> None:
        """Check an open file, or ``name`` in an open directory, before it is written.

        ``path`` leads to it; it is used where /proc is not available. Raises InvalidRequest if the
        file is denied to a running program that could nevertheless open it.
        """
        if not self._denied:
            return
        try:
            opened = os.readlink(b"/proc/self/fd/%d" % descriptor)
        except OSError:
            self._check_denied(resolve(path))
        else:
            self._check_denied(os.path.join(opened, name) if name else opened)

    def check_creating(self, path: bytes, *, is_link: bool = False) -> None:
        """Check a path before a file, directory or symbolic link is created there.

        Raises InvalidRequest as ``check_writing`` does.
        """
        if not self._denied:
            return
        path = resolve_parent(path) if is_link else resolve(path)
        self._check_denied(path)
        if is_link and path in self._above_denied:
            raise _denied(path)

    def check_removing(self, path: bytes) -> None:
        """Check a path before it is removed.

        Raises InvalidRequest if a running program must not write it, but could create it anew.
        """
        if self._read_only and (resolved := resolve_parent(path)) in self._read_only:
            raise InvalidRequest(
                f"{displayable(from_native(resolved))} is read-only for a sandboxed process that "
                "is still running and could create it anew; remove it after the process has exited"
            )

    def _check_denied(self, path: bytes) -> None:
        for above in (path, *ancestors(path)):
            known = self._denied.get(above)
            if known and (NO_FILE in known or known.keys() != {identify(above)}):
                raise _denied(above)


PATH_GUARD: Final = PathGuard()
"""The guard of this process."""


def identify(path: bytes) -> Identity:
    """Return the identity of the file at a path; NO_FILE if it cannot be examined."""
    # Requires ctypes, which few sandboxes need.
    from exec_server.engine.files.birth_time import birth_time_ns  # noqa: PLC0415

    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return NO_FILE
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino, birth_time_ns(descriptor)
    finally:
        os.close(descriptor)


def _subtract(counts: Counter[T], items: Iterable[T]) -> None:
    """Decrement counts, and drop those that reach zero."""
    for item in items:
        counts[item] -= 1
        if not counts[item]:
            del counts[item]


def _denied(path: bytes) -> InvalidRequest:
    return InvalidRequest(
        f"{displayable(from_native(path))} is denied to a sandboxed process that is still running, "
        "but was replaced or missing; create or write it after the process has exited"
    )
