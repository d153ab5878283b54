"""Processes that outlive their parents: adopted, waited for, and killed with their session.

A process whose parent has ended is reparented to the nearest ancestor that is a subreaper. This
server is one, so the descendants of its processes stay below it, can be waited for when they end,
and can be found when their session has ended, even after they have left its process groups (see
``process_tags``).

Only for a server that has its operating system process to itself: subreaping, and waiting for
children that one has not started, concern the whole process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from exec_server.engine.processes import process_tags
from exec_server.signals import on_signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

log = logging.getLogger("exec_server")

LOOK_SECONDS: Final = 0.5
"""Seconds for which an exited orphan may stay a zombie, which costs only a process id."""

END_SECONDS: Final = 5.0
"""Seconds for which the server waits for killed orphans at its end. The watchdog goes on after
that."""

_MAX_ENDED: Final = 256
"""Zombies waited for at a time, in about a millisecond. Chains of processes leave thousands of them
a second."""

_MANY_ENDED: Final = 16
"""If that many orphans have ended since the last look, the next one follows sooner."""

_BUSY_LOOK_SECONDS: Final = 0.01
"""The interval between looks then: in this time the fastest chains leave some hundred zombies."""

_MAX_LOOKS: Final = 8
"""Looks in a row at children of which some end meanwhile, before orphans are assumed to be left."""

_TURN_SECONDS: Final = 0.001
"""Maximum time for which a sweep holds the event loop."""

_PR_SET_CHILD_SUBREAPER: Final = 36
"""linux/prctl.h."""


class OrphanReaper:
    """The orphans of all sessions of one server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, started: AbstractSet[int], tags: process_tags.Tags
    ) -> None:
        """``started``: the living children that are waited for elsewhere, kept up to date."""
        self._loop = loop
        self._started = started
        self._tags = tags
        self._own_tag = process_tags.own_tag()
        # Set from when on orphans are adopted.
        self._end_signals: Callable[[], None] | None = None
        # Children that carry tags and have not been waited for: their numbers stay theirs.
        self._adopted: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._condemned: set[int] = set()
        self._ending: asyncio.Task[None] | None = None

    def new_tag(self) -> int | None:
        """Return a tag for the processes of a session, whose orphans are adopted from now on.

        None where processes cannot be tagged: then orphans are left to the system.
        """
        if not self._tags.are_available:
            return None
        if self._end_signals is None:
            _adopt_orphans()
            self._end_signals = on_signal(self._loop, signal.SIGCHLD, self._look_soon)
        return self._tags.new()

    def _look_soon(self) -> None:
        """A child has ended. Most are waited for by who started them, and many end at a time."""
        self._look_in(LOOK_SECONDS)

    def _look_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._look)

    async def end(self, tag: int) -> None:
        """Kill what carries a tag, and return when nothing of it is left.

        To be called when the processes that this server itself has started with it have been
        waited for.
        """
        if self._settles() and tag not in self._adopted.values():
            return
        # Sessions often end together; one sweep serves them all.
        self._condemned.add(tag)
        while tag in self._condemned:
            if self._ending is None or self._ending.done():
                self._ending = self._loop.create_task(self._end(frozenset(self._condemned)))
            await asyncio.shield(self._ending)

    async def _end(self, tags: frozenset[int]) -> None:
        try:
            await self._sweep(tags.__contains__)
        finally:
            self._condemned -= tags

    async def end_all(self) -> bool:
        """Kill what carries any tag; return False if something is left after END_SECONDS."""
        if self._ending is not None:
            self._ending.cancel()
        if self._settles() and not self._adopted:
            return True
        try:
            async with asyncio.timeout(END_SECONDS):
                return await self._sweep(lambda tag: tag != self._own_tag)
        except TimeoutError:
            return False

    def close(self) -> None:
        """Stop looking."""
        if self._end_signals is not None:
            self._end_signals()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        ended = self._wait_for_ended()
        if ended >= _MANY_ENDED:
            self._look_in(0 if ended == _MAX_ENDED else _BUSY_LOOK_SECONDS)

    def _settles(self) -> bool:
        """Look at the children until none has ended; return False if some end all the time.

        A child that has ended may have started another one after the children were listed.
        """
        return any(not self._wait_for_ended() for _ in range(_MAX_LOOKS))

    def _wait_for_ended(self) -> int:
        """Wait for orphans that have ended, up to _MAX_ENDED, and adopt those that live.

        Returns how many have ended.
        """
        ended = 0
        with contextlib.suppress(ChildProcessError):  # there is no child at all
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if not self._is_orphan(found.si_pid):
                    break
                self._has_ended(found.si_pid)
                ended += 1
                if ended == _MAX_ENDED:
                    return ended
        # The kernel names the same child until it has been waited for, so those behind one that is
        # waited for elsewhere are found in the list of all.
        for pid in process_tags.children(os.getpid()):
            if self._is_orphan(pid) and self._has_ended(pid):
                ended += 1
                if ended == _MAX_ENDED:
                    break
        return ended

    def _is_orphan(self, pid: int) -> bool:
        """True if a child is not waited for elsewhere; one that carries a tag is adopted."""
        if pid in self._adopted:
            return True
        if pid in self._started:
            return False
        tag = process_tags.tag_of(pid)
        if tag is not None and tag != self._own_tag:
            self._adopted[pid] = tag
            return True
        # This server makes session leaders of the children that it starts for itself.
        return not _leads_a_session(pid)

    def _has_ended(self, pid: int) -> bool:
        """Wait for an orphan without blocking; return True if it has ended."""
        try:
            has_ended = os.waitpid(pid, os.WNOHANG) != (0, 0)
        except ChildProcessError:
            has_ended = True
        if has_ended:
            self._adopted.pop(pid, None)
        return has_ended

    async def _sweep(self, is_meant: Callable[[int], bool]) -> bool:
        """Kill the processes with some tags; return False if some of them cannot be killed.

        A thread would make the loop wait for the interpreter lock.
        """
        sweep = process_tags.Sweep(is_meant, session=os.getsid(0), below=os.getpid())
        turn_end = time.monotonic() + _TURN_SECONDS
        for pause in sweep.steps():
            if pause or time.monotonic() > turn_end:
                await asyncio.sleep(pause)
                self._wait_for_ended()
                turn_end = time.monotonic() + _TURN_SECONDS
        self._wait_for_ended()
        if sweep.left:
            log.error("processes that cannot be killed are left: %s", sweep.left)
        return not sweep.left


def _leads_a_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def _adopt_orphans() -> None:
    """Become the parent of orphans below this process (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    import ctypes  # noqa: PLC0415 (takes a while to load; no earlier than it is needed)

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
