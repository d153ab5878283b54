"""Places that programs in sandboxes of this server may write, or could write earlier.

Whoever may write a directory can exchange what is in it. While such a program runs, another view
with mount points in that directory needs to be made with more care; and links that are there later
may be its work, so they say nothing about what a rule means.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.engine.sandbox.view import View

MAX_REMEMBERED: Final = 1024
"""Writable places that are remembered, the latest ones: far more than clients have projects."""


class Grants:
    """Places of one server."""

    def __init__(self) -> None:
        self._live: dict[View, int] = {}
        self._remembered: dict[str, None] = {}

    def add(self, view: View) -> None:
        """Something runs with this view from now on."""
        self._live[view] = self._live.get(view, 0) + 1
        for place in _writable(view):
            self._remembered.pop(place, None)
            self._remembered[place] = None
        while len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def remove(self, view: View) -> None:
        """It has ended."""
        self._live[view] -= 1
        if not self._live[view]:
            del self._live[view]

    def could_write(self, path: str) -> bool:
        """Return True if a program in a sandbox may have placed what is at a path."""
        return any(place in self._remembered for place in _ancestors(path))

    def unsettled(self, view: View) -> list[str]:
        """Return places where a program that runs can exchange mount points of a view.

        It cannot exchange those that are mount points for itself.
        """
        paths = {mount.path for mount in view.mounts}
        places: set[str] = set()
        for live in self._live:
            if live is view or not (writable := set(_writable(live))):
                continue
            movable = paths - {mount.path for mount in live.mounts}
            for path in movable:
                places.update(place for place in _ancestors(path) if place in writable)
        return [place for place in places if places.isdisjoint(_ancestors(place))]


GRANTS: Final = Grants()
"""The ones of this process."""


def _writable(view: View) -> Iterator[str]:
    """The writable places of a view, except everything: with that, nothing needs to be planted."""
    return (
        mount.path
        for mount in view.mounts
        if mount.kind in ("write", "device") and mount.path != "/"
    )


def _ancestors(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path
