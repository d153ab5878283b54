"""A watchdog that kills the children of a server that died, however it died.

A server that is killed outright cannot end its children, and a parent-death signal cannot be
arranged on the way they are spawned. So a tiny process, forked before anything else exists, holds
the other end of a pipe. The server writes ``+pgid`` when a process group begins and ``-pgid`` when
its leader has been waited for, from when on the number may belong to others. At the end of the
pipe the server is gone: every group still on the list is killed, and then whatever carries one of
the server's marks (see ``lineage``). ``=`` says that there is nothing left to look for.

Imported before asyncio; it needs nothing but the operating system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from exec_server.engine import lineage

if TYPE_CHECKING:
    from typing import NoReturn

_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What may be sent to everything that looks like the server; the guardian stays to clean up."""

_BACKLOG_BYTES = 1024 * 1024
"""Unread lines kept for a guardian that does not read; beyond, it is given up as broken."""

_INIT = 1

_END_SECONDS = 5.0
"""How long the marked are looked for until none is left; kernels take their time to end some."""

_PAUSE_SECONDS = 0.01


class Guardian:
    """The server's end: tells the watchdog which process groups live.

    Nothing here blocks or raises: a watchdog that was killed is simply no longer told anything.
    """

    def __init__(self, pid: int, fd: int, marks: lineage.Marks) -> None:
        """Take over a watchdog process and the writing end of its pipe; see ``start``."""
        self.pid = pid
        self.groups: set[int] = set()
        """The process groups whose leaders have not been waited for."""
        self.marks = marks
        """What is to carry one of them ends with the server."""
        self._fd = fd
        self._backlog = bytearray()

    @classmethod
    def start(cls) -> Guardian:
        """Fork the watchdog. To be called while this process has one thread and no event loop.

        Raises OSError if there is no process or pipe to be had.
        """
        marks = lineage.Marks()
        read_end, write_end = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(read_end)
            os.close(write_end)
            raise
        if pid == 0:
            _run(read_end, marks)
        os.close(read_end)
        os.set_blocking(write_end, False)
        return cls(pid, write_end, marks)

    def add(self, pgid: int) -> None:
        """A process group has begun."""
        self.groups.add(pgid)
        self._tell(b"+%d\n" % pgid)

    def remove(self, pgid: int) -> None:
        """The leader of a process group has been waited for: the number may be used again."""
        self.groups.discard(pgid)
        self._tell(b"-%d\n" % pgid)

    def dismiss(self) -> None:
        """Nothing is left that carries a mark; until the next group begins."""
        self._tell(b"=\n")

    def close(self) -> None:
        """End the watchdog, which kills the groups still listed, and wait for it; idempotent."""
        if self._fd < 0:
            return
        # One that missed a line must not act on what it knows; one that was stopped must go on.
        signum = signal.SIGKILL if self._backlog else signal.SIGCONT
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _tell(self, line: bytes) -> None:
        if self._fd < 0:
            return
        self._backlog += line
        try:
            written = os.write(self._fd, self._backlog)
        except BlockingIOError:
            if len(self._backlog) > _BACKLOG_BYTES:
                self.close()
        except OSError:
            self.close()
        else:
            del self._backlog[:written]


def _run(read_end: int, marks: lineage.Marks) -> NoReturn:
    """The watchdog's whole life; does not return."""
    try:
        _detach(read_end)
        groups: set[int] = set()
        is_dismissed = True
        rest = b""
        while data := os.read(read_end, 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line == b"=":
                    is_dismissed = True
                elif line.startswith(b"+"):
                    is_dismissed = False
                    groups.add(int(line[1:]))
                else:
                    groups.discard(int(line[1:]))
        for pgid in groups:
            if pgid > _INIT:
                with contextlib.suppress(OSError):
                    os.killpg(pgid, signal.SIGKILL)
        if not is_dismissed:
            _end_marked(marks)
    finally:
        os._exit(0)


def _end_marked(marks: lineage.Marks) -> None:
    """Kill what the server's processes left behind, until nothing of it is found."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := lineage.find(marks.__contains__)) and time.monotonic() < deadline:
        lineage.kill(left)
        time.sleep(_PAUSE_SECONDS)


def _detach(read_end: int) -> None:
    """Leave the server's terminal, signals and descriptors; keep only the pipe."""
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    os.setsid()
    os.chdir("/")
    os.closerange(0, read_end)
    os.closerange(read_end + 1, os.sysconf("SC_OPEN_MAX"))
