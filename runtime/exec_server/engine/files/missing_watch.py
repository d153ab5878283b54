"""Telling a client once when a path that was missing may have appeared (v2 fs/watchMissing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import to_native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.engine.files.path_watch import PathWatch

MAX_PATHS: Final = 64
"""Missing paths in one watch."""


class MissingWatch:
    """What one client waits for: one set of paths at a time. For the event loop's thread."""

    def __init__(self, on_changed: Callable[[int], None]) -> None:
        """``on_changed`` is called with the id of a watch that is over; never by ``watch``."""
        self._on_changed = on_changed
        self._last_id = 0
        self._current: PathWatch | None = None

    def watch(self, watch_id: int, missing: Sequence[str], present: str | None = None) -> bool:
        """Watch for ``missing`` paths to appear; return whether they are being watched.

        Ids only rise: one that does not is refused, and nothing changes. Any other ends the watch
        there was, whatever the answer.

        It is refused if there are no missing paths or more than 64, if one of them exists or
        ``present`` does not, if one cannot be reached or leads through a symbolic link, and on
        file systems that do not tell of every change (/proc, those of a network).

        A watch is over with the first event that may have made a missing path appear, or changed
        ``present`` or what leads to a path; also when file systems are mounted. There may be
        false alarms, but no silence. What goes on inside of a present directory does not count.
        """
        if watch_id <= self._last_id:
            return False
        self._last_id = watch_id
        self._stop()
        if not 1 <= len(missing) <= MAX_PATHS:
            return False
        # Loads ctypes and more, for the sake of clients that watch at all.
        from exec_server.engine.files.path_watch import PathWatch  # noqa: PLC0415

        try:
            self._current = PathWatch(
                [to_native(path) for path in missing],
                None if present is None else to_native(present),
                self._finish,
            )
        except OSError:
            return False
        return True

    async def aclose(self) -> None:
        """Stop watching."""
        self._stop()

    def _stop(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.close()

    def _finish(self) -> None:
        self._stop()
        self._on_changed(self._last_id)
