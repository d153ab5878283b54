"""Notification of a client when a missing path may have been created (v2 fs/watchMissing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server.engine.paths import to_native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.engine.files.path_watch import PathWatch

MAX_PATHS: Final = 64
"""Maximum number of missing paths in one watch."""


class MissingWatch:
    """Watch of one client, for one set of paths at a time. Not thread-safe."""

    def __init__(self, on_changed: Callable[[int], None]) -> None:
        """Call ``on_changed`` with the id of a watch that has fired, but never from ``watch``."""
        self._on_changed = on_changed
        self._last_id = 0
        self._current: PathWatch | None = None

    def watch(self, watch_id: int, missing: Sequence[str], present: str | None = None) -> bool:
        """Watch for the creation of ``missing`` paths; return True if the watch is set up.

        Ids must increase: otherwise the watch is refused and nothing changes. Any other call ends
        the previous watch, even if it is refused.

        A watch is refused if there are no missing paths or more than 64, if one of them exists or
        ``present`` does not, if one is not accessible or contains a symbolic link, and on file
        systems without reliable events (/proc, network file systems).

        A watch fires once, at the first event that may have created a missing path, or changed
        ``present`` or a directory on the way to a path; also when file systems are mounted. False
        positives are possible, missed events are not. Changes inside of a present directory are
        ignored.
        """
        if watch_id <= self._last_id:
            return False
        self._last_id = watch_id
        self._stop()
        if not 1 <= len(missing) <= MAX_PATHS:
            return False
        # Requires ctypes and more; few clients use watches.
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
