"""Processes that outlive their parents: adopted, waited for, and ended with their session.

A process whose parent has ended belongs to the nearest ancestor that asked for such processes.
This server asks, so whatever its processes leave behind stays below it, can be waited for when it
ends, and can be found when the session is over that it came from, even where it has left its
process group and session (``process_tags`` says how).

Only for a server that has its operating system process to itself: to adopt, and to wait for
children that one has not started, is the business of a whole process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from exec_server.engine import process_tags
from exec_server.signals import on_signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

log = logging.getLogger("exec_server")

LOOK_SECONDS: Final = 0.5
"""How long an orphan that has ended may stay a zombie. It costs a number, nothing else."""

END_SECONDS: Final = 5.0
"""How long is waited for killed orphans. What takes longer hangs in the kernel, or this user may
not kill it."""

_TURN_SECONDS: Final = 0.001
"""How long a search may keep the loop from everything else."""

_PAUSE_SECONDS: Final = 0.005
"""Between killing and looking who is left, doubled each time."""

_PR_SET_CHILD_SUBREAPER: Final = 36
"""linux/prctl.h."""


class OrphanReaper:
    """The orphans of all sessions of one server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, started: AbstractSet[int], tags: process_tags.Tags
    ) -> None:
        """``started``: the living children that somebody else will wait for, kept up to date."""
        self._loop = loop
        self._started = started
        self._marks = tags
        self._own_tag = process_tags.own_tag()
        # Set from when on orphans are adopted.
        self._end_signals: Callable[[], None] | None = None
        # Children that carry tags and have not been waited for: their numbers stay theirs.
        self._adopted: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._condemned: set[int] = set()
        self._ending: asyncio.Task[None] | None = None

    def new_tag(self) -> int | None:
        """A tag for the processes of a session, whose orphans are adopted from now on.

        None where processes cannot be tagged: then orphans are the system's, as ever.
        """
        if not self._marks.can_be_given:
            return None
        if self._end_signals is None:
            _adopt_reaper()
            self._end_signals = on_signal(self._loop, signal.SIGCHLD, self._look_soon)
        return self._marks.new()

    def _look_soon(self) -> None:
        """A child has ended. Most are waited for by who started them, and many end at a time."""
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    async def end(self, tag: int | None = None) -> None:
        """Kill what carries a tag, or any tag, and wait until nothing of it is left.

        To be called when those that this server itself has started with it have been waited for.
        """
        self._wait_for_ended()
        if tag is None:
            if self._adopted:
                await self._end(None)
            return
        if tag not in self._adopted.values():
            return
        # Sessions often end together; one search serves them all.
        self._condemned.add(tag)
        while tag in self._condemned:
            if self._ending is None or self._ending.done():
                self._ending = self._loop.create_task(self._end(frozenset(self._condemned)))
            await asyncio.shield(self._ending)

    def close(self) -> None:
        """Look no more."""
        if self._end_signals is not None:
            self._end_signals()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self._wait_for_ended()

    def _wait_for_ended(self) -> None:
        """Find out who was adopted, and wait for those that have ended."""
        for pid in process_tags.children(os.getpid()):
            if pid in self._started or pid in self._adopted:
                continue
            tag = process_tags.tag_of(pid)
            if tag is not None and tag != self._own_tag:
                self._adopted[pid] = tag
            elif not _leads_a_session(pid):
                _has_ended(pid)
        for pid in [pid for pid in self._adopted if _has_ended(pid)]:
            del self._adopted[pid]

    async def _end(self, tags: frozenset[int] | None) -> None:
        """Kill the bearers of some tags, or of any, until none is left or time is up."""

        def is_meant(tag: int) -> bool:
            return tag != self._own_tag if tags is None else tag in tags

        deadline = self._loop.time() + END_SECONDS
        pause = _PAUSE_SECONDS
        try:
            while True:
                left = await self._find(is_meant)
                if not left:
                    break
                if self._loop.time() > deadline:
                    log.error("processes that cannot be killed are left: %s", left)
                    break
                process_tags.kill(left)
                await asyncio.sleep(pause)
                pause *= 2
                self._wait_for_ended()
            self._wait_for_ended()
        finally:
            self._condemned -= tags or set()

    async def _find(self, is_meant: Callable[[int], bool]) -> list[int]:
        """See ``process_tags.find``. A thread would make the loop wait for the interpreter lock."""
        steps = process_tags.search(is_meant, below=os.getpid())
        while True:
            turn_end = time.monotonic() + _TURN_SECONDS
            try:
                while time.monotonic() < turn_end:
                    next(steps)
            except StopIteration as stop:
                found: list[int] = stop.value
                return found
            await asyncio.sleep(0)


def _leads_a_session(pid: int) -> bool:
    """Whether a child may be one that this server has started for itself, and will wait for."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it is waited for then."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def _adopt_reaper() -> None:
    """Become the parent of orphans below this process (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    import ctypes  # noqa: PLC0415 (takes a while to load; no earlier than it is needed)

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
