"""Detection of changes of missing and present paths by inotify."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec
from inotify_simple import INotify, flags, parse_events

from exec_server.engine.files.file_system_type import reports_all_changes

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 4096
"""Bytes of events read at a time, so that a busy directory does not block the event loop."""

_SURVEYS: Final = 4
"""Attempts to set up watches for paths that keep changing."""

# Events of an entry: of a directory on the way to a path, a missing path, and a present one.
_REPLACED: Final = flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.ATTRIB
_APPEARED: Final = _REPLACED | flags.CREATE
_CHANGED: Final = _REPLACED | flags.MODIFY

_OF_ITSELF: Final = flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF


class _Survey(msgspec.Struct):
    """Files and directories to be watched: their events, and the relevant names in directories."""

    events: defaultdict[bytes, int] = msgspec.field(default_factory=lambda: defaultdict(int))
    names: defaultdict[bytes, set[str]] = msgspec.field(default_factory=lambda: defaultdict(set))

    def add_missing(self, path: bytes) -> None:
        """Add a missing path. Raises OSError if it exists or cannot be watched."""
        if self._follow(path) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def add_present(self, path: bytes) -> None:
        """Add a present path. Raises OSError if it does not exist or cannot be watched."""
        status = self._follow(path)
        if status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        self._add_name(os.path.dirname(path), os.path.basename(path), _CHANGED)
        if stat.S_ISREG(status.st_mode):
            # Its directory gets no event if it is written under another name (hard link).
            self.events[path] |= flags.MODIFY

    def _follow(self, path: bytes) -> os.stat_result | None:
        """Add the directories on the way to a path; return its status, None if it is missing.

        Raises OSError.
        """
        directory = b"/"
        status = os.lstat(directory)
        self.events[directory] |= _OF_ITSELF
        for name in filter(None, path.split(b"/")):
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            try:
                status = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                self._add_name(directory, name, _APPEARED)
                return None
            self._add_name(directory, name, _REPLACED)
            directory = os.path.join(directory, name)
        return status

    def _add_name(self, directory: bytes, name: bytes, events: int) -> None:
        self.events[directory] |= events | _OF_ITSELF
        # Names in a directory may be case-insensitive.
        self.names[directory].add(os.fsdecode(name).casefold())


class PathWatch:
    """A watch on absolute, normalized paths."""

    def __init__(
        self, missing: list[bytes], present: bytes | None, on_event: Callable[[], None]
    ) -> None:
        """Call ``on_event`` for each event until closed.

        Raises OSError for a path that cannot be watched.
        """
        self._on_event = on_event
        self._names: defaultdict[int, set[str]] = defaultdict(set)
        with ExitStack() as resources:
            self._inotify = resources.enter_context(INotify(nonblocking=True))
            mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            resources.callback(os.close, mounts)
            # A change of the mounts is an exceptional condition (EPOLLPRI), which event loops do
            # not support; the epoll descriptor is readable then. Polling it would clear the event.
            mount_changes = resources.enter_context(select.epoll())
            mount_changes.register(mounts, select.EPOLLPRI)
            self._watch_all(missing, present)
            loop = asyncio.get_running_loop()
            for descriptor, on_ready in [
                (self._inotify.fileno(), self._on_inotify),
                (mount_changes.fileno(), on_event),
            ]:
                loop.add_reader(descriptor, on_ready)
                resources.callback(loop.remove_reader, descriptor)
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Stop watching."""
        self._resources.close()

    def _watch_all(self, missing: list[bytes], present: bytes | None) -> None:
        """Set up watches, and repeat until no path has changed meanwhile."""
        before: _Survey | None = None
        for _ in range(_SURVEYS):
            survey = _Survey()
            for path in missing:
                survey.add_missing(path)
            if present is not None:
                survey.add_present(present)
            if survey == before:
                return
            # From the root on, so that a directory that is replaced from now on causes an event.
            for path, events in sorted(survey.events.items()):
                self._add(path, events, survey.names.get(path, set()))
            before = survey
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _add(self, path: bytes, events: int, names: set[str]) -> None:
        if not reports_all_changes(path):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        watch = self._inotify.add_watch(path, events | flags.DONT_FOLLOW | flags.MASK_ADD)
        self._names[watch] |= names

    def _on_inotify(self) -> None:
        try:
            events = parse_events(os.read(self._inotify.fileno(), _READ_BYTES))
        except BlockingIOError:
            return
        # Events without a name concern a watched file or directory itself, or a queue overflow.
        if any(
            not event.name or event.name.casefold() in self._names[event.wd] for event in events
        ):
            self._on_event()
