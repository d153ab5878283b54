"""Views in use, and the directories that sandboxed programs can write or could write earlier.

A program that can write a directory can replace its entries. While such a program runs, another
view with mount points in that directory must be set up with additional protection; and symbolic
links found there later may have been planted, so they must not affect the meaning of a rule.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from exec_server.engine.files.path_guard import NO_FILE, PATH_GUARD, ProtectedPaths, identify
from exec_server.engine.paths import ancestors, to_native
from exec_server.engine.sandbox.sources import replaced
from exec_server.engine.sandbox.view import DENYING, EXPOSING, WRITABLE
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from exec_server.engine.files.path_guard import Identity, PathGuard
    from exec_server.engine.sandbox.view import View

MAX_PLACES: Final = 8_192
"""Protected paths of all running sandboxes together, each counted once. A typical sandbox has ten;
sending this many to a worker takes about 7 ms of the event loop."""

MAX_REMEMBERED: Final = 1024
"""Writable directories that are remembered, most recent first to stay: far more than clients have
projects."""


class LiveViews:
    """Registry of the views in use."""

    def __init__(self, guard: PathGuard = PATH_GUARD) -> None:
        self._guard = guard
        self._views: Counter[View] = Counter()
        self._writable_history: dict[str, None] = {}

    def enter(self, view: View, skipped: Container[str], *, runs_program: bool) -> ProtectedPaths:
        """Register a view and protect the paths on which it depends.

        ``skipped`` are the paths of mounts that are not made. If no program runs under the view,
        only its mount points are protected. The result is to be passed to ``leave``. Raises
        InvalidRequest for too many protected paths, or if a path has been created that was missing
        when the view was planned; nothing is registered then.
        """
        protected = _protected_paths(view, skipped, runs_program=runs_program)
        self._guard.add(protected)
        try:
            self._check(view)
        except BaseException:
            self._guard.remove(protected)
            raise
        self._views[view] += 1
        self._remember(view)
        return protected

    def leave(self, view: View, protected: ProtectedPaths) -> None:
        """Undo ``enter``."""
        self._guard.remove(protected)
        self._views[view] -= 1
        if not self._views[view]:
            del self._views[view]

    def could_write(self, path: str) -> bool:
        """Return True if a sandboxed program may have created the entry at a path."""
        return any(directory in self._writable_history for directory in ancestors(path))

    def contested_directories(self, view: View) -> list[str]:
        """Return the directories in which a running program can move mount points of a view.

        It cannot move its own mount points.
        """
        paths = {mount.path for mount in view.mounts}
        contested: set[str] = set()
        for live in self._views:
            if live == view or not (writable := set(_writable_directories(live))):
                continue
            movable = paths - {mount.path for mount in live.mounts}
            for path in movable:
                contested.update(above for above in ancestors(path) if above in writable)
        return [path for path in contested if contested.isdisjoint(ancestors(path))]

    def _check(self, view: View) -> None:
        for path in view.absent:
            if os.path.lexists(to_native(path)):
                raise replaced(path)
        if len(self._guard) > MAX_PLACES:
            raise InvalidRequest(
                f"sandbox: at most {MAX_PLACES} paths can be protected for running sandboxes at a "
                "time; try again after some have exited, or use fewer rules and glob patterns"
            )

    def _remember(self, view: View) -> None:
        for path in _writable_directories(view):
            self._writable_history.pop(path, None)
            self._writable_history[path] = None
        while len(self._writable_history) > MAX_REMEMBERED:
            del self._writable_history[next(iter(self._writable_history))]


LIVE_VIEWS: Final = LiveViews()
"""The registry of this process."""


def _writable_directories(view: View) -> Iterator[str]:
    """Yield the writable mounts of a view, except the root.

    A program that can write everything has no need to plant links.
    """
    return (mount.path for mount in view.mounts if mount.kind in WRITABLE and mount.path != "/")


def _protected_paths(view: View, skipped: Container[str], *, runs_program: bool) -> ProtectedPaths:
    kinds = {mount.path: mount.kind for mount in view.mounts if mount.path not in skipped}

    def effective_kind(path: str) -> str:
        return next(kinds[above] for above in (path, *ancestors(path)) if above in kinds)

    mounted: list[tuple[int, int]] = []
    denied: list[tuple[bytes, Identity]] = []
    read_only: list[bytes] = []
    for path, kind in kinds.items():
        if path == "/" or kind not in EXPOSING | DENYING:
            continue
        parent_kind = effective_kind(os.path.dirname(path))
        if parent_kind not in EXPOSING:
            continue  # below a file system of the sandbox itself
        native = to_native(path)
        if kind in DENYING:
            identity = identify(native)
            denied.append((native, identity))
            mounted.append(identity[:2])
        elif not os.path.isdir(native):
            mounted.append(identify(native)[:2])
        if kind == "read" and parent_kind in WRITABLE:
            read_only.append(native)
            for above in ancestors(path):
                if above == "/" or effective_kind(os.path.dirname(above)) not in WRITABLE:
                    break
                read_only.append(to_native(above))
    if not runs_program:
        return ProtectedPaths(tuple(mounted))
    denied += ((to_native(path), NO_FILE) for path in view.absent)
    return ProtectedPaths(tuple(mounted), tuple(denied), tuple(read_only))


def closed_paths(view: View) -> frozenset[bytes]:
    """Return the native paths that cannot be written from within a view."""
    return frozenset(
        to_native(mount.path) for mount in view.mounts if mount.kind in DENYING | {"read"}
    )
