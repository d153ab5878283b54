"""Tags that processes inherit, and the sweep that kills what carries them.

A process that starts another can lose track of it: the child may leave its process group and
session, outlive its parent, replace its environment, and execute another program. Unless it changes
them deliberately, it keeps its resource limits through all of that. One of them, RLIMIT_LOCKS, has
had no effect since Linux 2.4, so each process of a session is started with the session's tag in it,
and every descendant inherits the tag, from the moment of the fork.

Tags catch mistakes, not malice: a program can set that limit and so remove the tag.

Run as a script with the arguments PREFIX SESSION, this file kills what carries a tag with that
prefix; SESSION is the server's own session id. It needs nothing but the standard library.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

_RLIMIT_LOCKS: Final = 10
"""linux/resource.h; the module ``resource`` does not name it."""

_LIMIT_NAME: Final = b"\nMax file locks"

_LIMITS_BYTES: Final = 4096
"""Larger than /proc/PID/limits, which has 17 lines of at most 80 bytes."""

_STAT_BYTES: Final = 4096
"""Larger than /proc/PID/stat, which has 52 numbers and a name of at most 64 bytes."""

_CLEAN_SCANS: Final = 2
"""Scans in a row that must find nothing. The second covers systems whose /proc/loadavg does not
name the newest process, as in containers with lxcfs."""

_QUIET_SECONDS: Final = 0.5
"""Where unrelated processes end too soon to be read, a sweep is over after this time without a
tagged one. It is some hundred times the interval at which the fastest chain was ever hit."""

_STUCK_SECONDS: Final = 5.0
"""Seconds that killed processes may take to exit. A longer delay means that they are hung in the
kernel, or that this user may not kill them."""

_PAUSE_SECONDS: Final = 0.002
"""The pause before looking again at processes that were killed but have not ended yet."""

_UNREADABLE_SECONDS: Final = 0.002
"""Seconds for which a new process id is retried: it is allocated before it appears in /proc, for as
long as a fork takes to copy the parent's page tables."""

_MAX_FOLLOWED: Final = 256
"""New process ids examined at a time; with more forks than that, a full scan is quicker."""

_STEPS_PER_FOLLOW: Final = 8
"""Some 100 µs of scanning, in which even a fast chain starts one process at most."""

_SESSION_BITS: Final = 32
_SERVER_BITS: Final = 31
"""A tag fits into a signed number of 64 bits."""


class Tags:
    """The tags of one server: a random prefix in common, and a number for each session."""

    def __init__(self, prefix: int | None = None) -> None:
        """The tags with a prefix; by default, with a new random one."""
        if prefix is None:
            prefix = int.from_bytes(os.urandom(4), "big") >> (32 - _SERVER_BITS) | 1
        self.prefix = prefix
        """The part that they have in common."""
        self._given = 0

    def new(self) -> int:
        """Return a tag that no other session has."""
        self._given += 1
        return self.prefix << _SESSION_BITS | self._given & ((1 << _SESSION_BITS) - 1)

    @property
    def are_available(self) -> bool:
        """True unless the hard limit was lowered so far that it can hold no tag."""
        hard = resource.getrlimit(_RLIMIT_LOCKS)[1]
        return hard == resource.RLIM_INFINITY or hard >> (_SERVER_BITS + _SESSION_BITS) > 0

    def __contains__(self, tag: object) -> bool:
        """True if a tag is one of this server's."""
        return isinstance(tag, int) and tag >> _SESSION_BITS == self.prefix


class Tagging:
    """A context in which the processes that this one starts carry a tag; None gives them none."""

    __slots__ = ("_before", "_tag")

    def __init__(self, tag: int | None) -> None:
        self._tag = tag

    def __enter__(self) -> None:
        if self._tag is not None:
            self._before = resource.getrlimit(_RLIMIT_LOCKS)
            resource.setrlimit(_RLIMIT_LOCKS, (self._tag, self._before[1]))

    def __exit__(self, *_: object) -> None:
        if self._tag is not None:
            resource.setrlimit(_RLIMIT_LOCKS, self._before)


def tag_of(pid: int) -> int | None:
    """Return the tag of a process or zombie; None if it has none or does not exist."""
    try:
        return _read_tag(pid)
    except OSError:
        return None


def own_tag() -> int | None:
    """Return the tag that this process was started with by another server, if any."""
    soft, _ = resource.getrlimit(_RLIMIT_LOCKS)
    return None if soft == resource.RLIM_INFINITY else soft


def children(pid: int) -> list[int]:
    """Return the children, zombies included, of a process that starts them from one thread only."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without that file
        return [entry.pid for entry in _processes() if entry.parent == pid]
    except OSError:
        return []


def _read(path: str, size: int) -> bytes:
    """Return the beginning of a file of /proc. Raises OSError, also if the process has ended."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def _read_tag(pid: int) -> int | None:
    """Return the tag of a process. Raises OSError if it does not exist."""
    limits = _read(f"/proc/{pid}/limits", _LIMITS_BYTES)
    start = limits.find(_LIMIT_NAME)
    if start < 0:
        raise ProcessLookupError(pid)
    word = limits[start + len(_LIMIT_NAME) :].split(None, 1)[0]
    return int(word) if word.isdigit() else None


class _Process:
    """The parts of /proc/PID/stat that matter here."""

    __slots__ = ("group", "is_alive", "parent", "pid", "session")

    def __init__(self, pid: int) -> None:
        """Raises OSError if there is no such process."""
        fields = _read(f"/proc/{pid}/stat", _STAT_BYTES).rpartition(b")")[2].split()
        if not fields:
            raise ProcessLookupError(pid)
        self.pid = pid
        self.is_alive = fields[0] not in b"ZX"
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])


def _processes() -> Iterator[_Process]:
    """Every process there is."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield _Process(int(name))
            except OSError:
                continue


class _NewestPid:
    """The number of the process or thread that was started last."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def read(self) -> int:
        """Return it; 0 if it is not known."""
        try:
            return int(os.pread(self._file, 128, 0).split()[-1])
        except (OSError, ValueError, IndexError):
            return 0

    def close(self) -> None:
        """Release the descriptor."""
        if self._file >= 0:
            os.close(self._file)


class Sweep:
    """Kills tagged processes and their descendants until no new one appears.

    Scanning /proc takes milliseconds, longer than a process lives that forks the next one and
    exits. So the sweep also follows the newest process id and kills what is tagged as soon as it
    can be read. Process groups are killed as a whole, which no fork can escape.

    While new ones keep appearing there is no deadline.
    """

    def __init__(
        self, is_meant: Callable[[int], bool], *, session: int, below: int | None = None
    ) -> None:
        """Sweep the processes for whose tags ``is_meant`` is true.

        ``session`` is the session of the server, which is spared: a child that has just been forked
        is still in its server's process group. With ``below``, scans are restricted to the
        descendants of that process.
        """
        self.left: list[int] = []
        """The processes that could not be killed, after the last step."""
        self._is_meant = is_meant
        self._session = session
        self._below = below
        self._survivors: frozenset[int] = frozenset()
        self._has_missed = False
        self._last_hit = time.monotonic()
        self._newest = _NewestPid()
        self._followed = self._newest.read()
        self._unreadable: dict[int, float] = {}

    def steps(self) -> Generator[float, None, None]:
        """Run the sweep in steps of less than a millisecond each.

        Each step yields the seconds to wait before the next one, usually 0.
        """
        clean = 0
        try:
            while clean < _CLEAN_SCANS:
                self._has_missed = False
                alive: list[int] = []
                yield from self._scan(alive)
                yield from self._follow()
                now = time.monotonic()
                quiet = now - self._last_hit
                self._survivors = frozenset(alive)
                if alive:
                    clean = 0
                    if quiet > _STUCK_SECONDS:
                        self.left = alive
                        return
                    yield _PAUSE_SECONDS
                elif not self._has_missed:
                    clean += 1
                elif quiet > _QUIET_SECONDS:
                    return
                else:
                    clean = 0
        finally:
            self._newest.close()

    def _scan(self, alive: list[int]) -> Generator[float, None, None]:
        """Kill what /proc lists; its pids are added to ``alive``."""
        processes: dict[int, _Process] = {}
        offspring: dict[int, list[int]] = {}
        for count, process in enumerate(_processes()):
            processes[process.pid] = process
            offspring.setdefault(process.parent, []).append(process.pid)
            yield from self._between(count)
        candidates: Iterable[int] = processes
        if self._below is not None:
            candidates = _descendants([self._below], offspring)
        tagged: list[int] = []
        for count, pid in enumerate(candidates):
            try:
                tag = _read_tag(pid)
            except OSError:
                self._has_missed = True
            else:
                if tag is not None and self._is_meant(tag):
                    tagged.append(pid)
                    if processes[pid].is_alive:
                        self._kill(pid)
            yield from self._between(count)
        for pid in {*tagged, *_descendants(tagged, offspring)}:
            if processes[pid].is_alive:
                self._kill(pid)
                alive.append(pid)

    def _between(self, count: int) -> Generator[float, None, None]:
        """End one step of a scan, and follow what is new at every few of them."""
        if count % _STEPS_PER_FOLLOW == 0:
            yield from self._follow()
        yield 0

    def _follow(self) -> Generator[float, None, None]:
        """Kill what was started since the last call, until there is nothing new."""
        while True:
            newest = self._newest.read()
            now = time.monotonic()
            if newest != self._followed:
                # Numbers are given in ascending order and start again at their maximum.
                first = self._followed + 1 if newest > self._followed else 1
                new = range(max(first, newest - _MAX_FOLLOWED + 1), newest + 1)
                self._has_missed = self._has_missed or len(new) < newest - first + 1
                self._unreadable.update(dict.fromkeys(new, now))
                self._followed = newest
            if not self._unreadable:
                return
            # The newest first: it is the one that lives.
            for pid in sorted(self._unreadable, reverse=True):
                try:
                    tag = _read_tag(pid)
                except OSError:
                    if now - self._unreadable[pid] > _UNREADABLE_SECONDS:
                        del self._unreadable[pid]
                        self._has_missed = True
                    continue
                del self._unreadable[pid]
                if tag is not None and self._is_meant(tag) and self._is_below(pid):
                    self._kill(pid)
            yield 0

    def _is_below(self, pid: int) -> bool:
        """True if a process descends from the one that the sweep is restricted to, if any."""
        while self._below is not None and pid != self._below:
            if not pid:
                return False
            try:
                pid = _Process(pid).parent
            except OSError:
                self._has_missed = True
                return False
        return True

    def _kill(self, pid: int) -> None:
        """Kill a process, and its process group unless that is the server's."""
        if pid not in self._survivors:
            self._last_hit = time.monotonic()
        try:
            os.kill(pid, signal.SIGKILL)
            process = _Process(pid)
            # Never 1: that group means every process. 0 is a group outside of this namespace.
            if process.session != self._session and process.group > 1:
                os.killpg(process.group, signal.SIGKILL)
        except OSError:
            return


def _descendants(pids: Iterable[int], offspring: Mapping[int, list[int]]) -> list[int]:
    found: list[int] = []
    unseen = list(pids)
    while unseen:
        below = offspring.get(unseen.pop(), ())
        found += below
        unseen += below
    return found


def _main() -> None:
    prefix, session = map(int, sys.argv[1:])
    for pause in Sweep(Tags(prefix).__contains__, session=session).steps():
        if pause:
            time.sleep(pause)


if __name__ == "__main__":
    _main()
