"""Recognising what a server's processes have left behind, wherever it went.

A process that starts another loses it from sight: the child may leave its process group and
session, outlive its parent, replace its environment, become another program. What it keeps through
all of that, if nobody sets it on purpose, are its resource limits. One of them, RLIMIT_LOCKS, has
had no effect since Linux 2.4, so each process of a session is started with the session's tag in
it, and every descendant carries the tag on.

Tags tell mistakes, not malice: a program can set that limit and so take the tag off.

Run as a script with the prefix of a server's tags, it ends what carries one of them. It needs
nothing but the standard library.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

_RLIMIT_LOCKS = 10
"""linux/resource.h; the module ``resource`` does not name it."""

_LIMIT_NAME = b"Max file locks"

_END_SECONDS = 5.0
"""How long the tagged are looked for until none is left; kernels take their time to end some."""

_PAUSE_SECONDS = 0.01

_SESSION_BITS = 32
_SERVER_BITS = 31
"""A tag fits into a signed number of 64 bits."""


class Tags:
    """The tags of one server: a random number in common, and one of its own for each session."""

    def __init__(self, prefix: int | None = None) -> None:
        """Those of a server that has given itself such a prefix; without one, of a new server."""
        if prefix is None:
            prefix = int.from_bytes(os.urandom(4), "big") >> (32 - _SERVER_BITS) | 1
        self.prefix = prefix
        """What they have in common."""
        self._given = 0

    def new(self) -> int:
        """A tag that no other session has."""
        self._given += 1
        return self.prefix << _SESSION_BITS | self._given & ((1 << _SESSION_BITS) - 1)

    @property
    def can_be_given(self) -> bool:
        """Whether nobody has lowered the limit so far that it can carry no tag."""
        hard = resource.getrlimit(_RLIMIT_LOCKS)[1]
        return hard == resource.RLIM_INFINITY or hard >> (_SERVER_BITS + _SESSION_BITS) > 0

    def __contains__(self, tag: object) -> bool:
        """Whether a tag is one of this server's."""
        return isinstance(tag, int) and tag >> _SESSION_BITS == self.prefix


class Tagging:
    """While it is entered, what this process starts carries a tag; None gives it none."""

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
    """The tag that a process carries, a zombie too; None if it carries none, or is no more."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as limits:
            for line in limits:
                if line.startswith(_LIMIT_NAME):
                    word = line[len(_LIMIT_NAME) :].split()[0]
                    return int(word) if word.isdigit() else None
    except OSError:
        pass
    return None


def own_tag() -> int | None:
    """The tag that this process was started with: one of another server, or none."""
    soft, _ = resource.getrlimit(_RLIMIT_LOCKS)
    return None if soft == resource.RLIM_INFINITY else soft


def children(pid: int) -> list[int]:
    """The children of a process with one thread that starts any, zombies included."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:  # a kernel without that file
        return [entry.pid for entry in _processes() if entry.parent == pid]
    except OSError:
        return []


class _Entry:
    __slots__ = ("is_alive", "parent", "pid")

    def __init__(self, pid: int, parent: int, *, is_alive: bool) -> None:
        self.pid = pid
        self.parent = parent
        self.is_alive = is_alive


def _processes() -> Iterator[_Entry]:
    """Every process there is."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        yield _Entry(int(name), int(fields[1]), is_alive=fields[0] not in b"ZX")


def find(is_meant: Callable[[int], bool], *, below: int | None = None) -> list[int]:
    """The living processes whose tags are meant, and all that descend from them.

    ``is_meant`` is asked with a tag; ``below`` asks for descendants of that process alone.
    """
    steps = search(is_meant, below=below)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: list[int] = stop.value
            return found


def search(
    is_meant: Callable[[int], bool], *, below: int | None = None
) -> Generator[None, None, list[int]]:
    """The same in steps, each of which looks at one process."""
    entries: dict[int, _Entry] = {}
    offspring: dict[int, list[int]] = {}
    for entry in _processes():
        entries[entry.pid] = entry
        offspring.setdefault(entry.parent, []).append(entry.pid)
        yield
    candidates: Iterable[int] = entries if below is None else _descendants([below], offspring)
    tagged: list[int] = []
    for pid in candidates:
        tag = tag_of(pid)
        if tag is not None and is_meant(tag):
            tagged.append(pid)
        yield
    found = {*tagged, *_descendants(tagged, offspring)}
    return [pid for pid in found if entries[pid].is_alive]


def _descendants(pids: Iterable[int], offspring: Mapping[int, list[int]]) -> list[int]:
    found: list[int] = []
    unseen = list(pids)
    while unseen:
        below = offspring.get(unseen.pop(), ())
        found += below
        unseen += below
    return found


def kill(pids: Iterable[int]) -> None:
    """Kill processes that were found just now, those that this user may kill."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def _end_tagged(tags: Tags) -> None:
    """Kill what a server's processes left behind, until nothing of it is found."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := find(tags.__contains__)) and time.monotonic() < deadline:
        kill(left)
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    _end_tagged(Tags(int(sys.argv[1])))
