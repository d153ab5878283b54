"""Files that running sandboxes depend on, and what must not be done to them from outside.

The kernel ties a mount to the directory entry below it. If that entry is removed, or another file
is renamed over it, outside of the sandbox, the mount is gone inside, and what it denied or kept
read-only is open to a program that already runs. The server cannot keep other programs from doing
that, but its own file operations ask here first: a file below a mount is overwritten in place, and
what would undo a rule is refused as long as a program runs under it.

A confined worker for file operations has its own copy, which the server sends it.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, AnyStr, Final, TypeAlias, TypeVar

import msgspec

from exec_server.engine.paths import displayable, from_native, to_native
from exec_server.engine.sandbox.sources import changed
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exec_server.engine.sandbox.view import View

MAX_PLACES: Final = 8_192
"""Protected places of all running sandboxes together, each counted once. A usual sandbox has ten;
describing so many to a worker takes some 7 ms of the event loop."""

T = TypeVar("T")

Identity: TypeAlias = tuple[int, int, int]
"""Device, inode and birth time: a file that is made anew often gets the inode of the old one."""

NOTHING: Final[Identity] = (0, 0, 0)
"""No file at all."""

_DENYING: Final = frozenset(("denied_directory", "denied_file"))
_WRITABLE: Final = frozenset(("write", "device"))
_SHOWING: Final = _WRITABLE | {"read"}


class Places(msgspec.Struct, frozen=True):
    """What sandboxes depend on. Paths are native, without links."""

    files: tuple[tuple[int, int], ...] = ()
    """Device and inode of every file with a mount on it."""
    denied: tuple[tuple[bytes, Identity], ...] = ()
    """Paths that are denied, and what was there when that began."""
    kept: tuple[bytes, ...] = ()
    """What is read-only in a writable directory, and the directories on the way to it."""


class LiveViews:
    """The places of all views in use."""

    def __init__(self) -> None:
        self.generation = 0
        """Another number whenever the places have changed."""
        self._files: Counter[tuple[int, int]] = Counter()
        self._denied: dict[bytes, Counter[Identity]] = {}
        self._above_denied: Counter[bytes] = Counter()
        self._kept: Counter[bytes] = Counter()

    def enter(self, view: View, left_out: Iterable[str], *, runs_program: bool) -> Places:
        """Protect what a view depends on until ``leave``: files alone if no program runs under it.

        ``left_out`` are mounts of the view that are not made. Raises InvalidRequest if there are
        too many places, or if a path has come to exist that was missing when the view was planned.
        """
        places = _places_of(view, frozenset(left_out), runs_program=runs_program)
        self._add(places)
        for path in view.absent:
            if os.path.lexists(to_native(path)):
                self.leave(places)
                raise changed(path)
        if len(self._files) + len(self._denied) + len(self._kept) > MAX_PLACES:
            self.leave(places)
            raise InvalidRequest(
                f"sandbox: at most {MAX_PLACES} places can be protected for running sandboxes at a "
                "time; try again when some have ended, or use fewer rules and matches of patterns"
            )
        return places

    def leave(self, places: Places) -> None:
        """End what ``enter`` began."""
        _subtract(self._files, places.files)
        for path, identity in places.denied:
            _subtract(self._denied[path], (identity,))
            if not self._denied[path]:
                del self._denied[path]
            _subtract(self._above_denied, _ancestors(path))
        _subtract(self._kept, places.kept)
        self.generation += 1

    def snapshot(self, view: View) -> Places:
        """Everything protected now, for a process with a view of its own to ``load``.

        Paths that are closed to it are left out: the kernel gives the better answer there.
        """
        closed = frozenset(
            to_native(mount.path) for mount in view.mounts if mount.kind in _DENYING | {"read"}
        )
        return Places(
            tuple(self._files),
            tuple(
                (path, identity)
                for path, identities in self._denied.items()
                if path not in closed
                for identity in identities
            ),
            tuple(path for path in self._kept if path not in closed),
        )

    def load(self, places: Places) -> None:
        """Replace everything by a snapshot."""
        for counts in (self._files, self._denied, self._above_denied, self._kept):
            counts.clear()
        self._add(places)

    def _add(self, places: Places) -> None:
        self._files.update(places.files)
        for path, identity in places.denied:
            self._denied.setdefault(path, Counter())[identity] += 1
            self._above_denied.update(_ancestors(path))
        self._kept.update(places.kept)
        self.generation += 1

    def has_mount_on(self, status: os.stat_result) -> bool:
        """True if a file must stay the file it is."""
        return (status.st_dev, status.st_ino) in self._files

    def check_writing(self, path: bytes, descriptor: int, name: bytes = b"") -> None:
        """Raise InvalidRequest if an open file, or ``name`` in an open directory, is denied to a
        running program, but no longer closed to it.

        ``path`` is the way to it, for a process to which /proc is closed.
        """
        if not self._denied:
            return
        try:
            opened = os.readlink(b"/proc/self/fd/%d" % descriptor)
        except OSError:
            self._check_writing(os.path.realpath(path))
        else:
            self._check_writing(os.path.join(opened, name) if name else opened)

    def check_creating(self, path: bytes, *, is_link: bool = False) -> None:
        """The same for a path, before something is created there."""
        if not self._denied:
            return
        path = _resolved(path) if is_link else os.path.realpath(path)
        self._check_writing(path)
        if is_link and path in self._above_denied:
            raise _refused(path)

    def check_removing(self, path: bytes) -> None:
        """Raise InvalidRequest if a running program may not write a path, but could create it."""
        if self._kept and (resolved := _resolved(path)) in self._kept:
            raise InvalidRequest(
                f"{displayable(from_native(resolved))} is read-only for a sandboxed process that "
                "still runs, which could create it anew; remove it when the process has ended"
            )

    def _check_writing(self, path: bytes) -> None:
        for above in (path, *_ancestors(path)):
            known = self._denied.get(above)
            if known and (NOTHING in known or known.keys() != {_identity(above)}):
                raise _refused(above)


LIVE_VIEWS: Final = LiveViews()
"""Those of this process."""


def _places_of(view: View, left_out: frozenset[str], *, runs_program: bool) -> Places:
    kinds = {mount.path: mount.kind for mount in view.mounts if mount.path not in left_out}

    def kind_at(path: str) -> str:
        return next(kinds[above] for above in (path, *_ancestors(path)) if above in kinds)

    files: list[tuple[int, int]] = []
    denied: list[tuple[bytes, Identity]] = []
    kept: list[bytes] = []
    for path, kind in kinds.items():
        if path == "/" or kind not in _SHOWING | _DENYING:
            continue
        parent_kind = kind_at(os.path.dirname(path))
        if parent_kind not in _SHOWING:
            continue  # on a file system of the sandbox itself
        native = to_native(path)
        if kind in _DENYING:
            identity = _identity(native)
            denied.append((native, identity))
            files.append(identity[:2])
        elif not os.path.isdir(native):
            files.append(_identity(native)[:2])
        if kind == "read" and parent_kind in _WRITABLE:
            kept.append(native)
            for above in _ancestors(path):
                if above == "/" or kind_at(os.path.dirname(above)) not in _WRITABLE:
                    break
                kept.append(to_native(above))
    if not runs_program:
        return Places(tuple(files))
    denied += ((to_native(path), NOTHING) for path in view.absent)
    return Places(tuple(files), tuple(denied), tuple(kept))


def _ancestors(path: AnyStr) -> Iterator[AnyStr]:
    """The directories above a path, the nearest first."""
    while (above := os.path.dirname(path)) != path:
        path = above
        yield path


def _resolved(path: bytes) -> bytes:
    """A path without links, but the last component as it is."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _identity(path: bytes) -> Identity:
    # Loads ctypes, which few sandboxes need.
    from exec_server.engine.files.birth_time import birth_time_ns  # noqa: PLC0415

    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return NOTHING
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino, birth_time_ns(descriptor)
    finally:
        os.close(descriptor)


def _subtract(counts: Counter[T], items: Iterable[T]) -> None:
    """Take items away, and those with them of which none is left."""
    for item in items:
        counts[item] -= 1
        if not counts[item]:
            del counts[item]


def _refused(path: bytes) -> InvalidRequest:
    return InvalidRequest(
        f"{displayable(from_native(path))} is denied to a sandboxed process that still runs, but "
        "was replaced or missing; it can be created or written when the process has ended"
    )
