"""A watchdog that kills the children of a server that died, however it died.

A server that is killed outright cannot end its children, and a parent-death signal cannot be
arranged on the way they are spawned. So a tiny process, a shell that runs ``watchdog.sh``, holds
the other end of a pipe. The server writes ``+pgid`` when a process group begins and ``-pgid`` when
its leader has been waited for, from when on the number may belong to others. At the end of the
pipe the server is gone: every group still on the list is killed, and then whatever carries one of
the server's tags (see ``process_tags``). ``=`` says that there is nothing left to look for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import Final

from exec_server.engine import process_tags
from exec_server.engine.spawn import INTERPRETER, SpawnSpec, spawn

log = logging.getLogger("exec_server")

_BACKLOG_BYTES: Final = 1024 * 1024
"""Unread lines kept for a watchdog that does not read; beyond, it is given up as broken."""


class Watchdog:
    """The server's end: tells the watchdog which process groups live.

    Nothing but ``start`` blocks or raises: a watchdog that was killed is simply no longer told
    anything.
    """

    def __init__(self, shell: str = "/bin/sh") -> None:
        """Nobody watches before ``start``; ``shell`` is a POSIX shell."""
        self.pid: int | None = None
        """The watchdog; None if it has not been started."""
        self.groups: set[int] = set()
        """The process groups whose leaders have not been waited for."""
        self.tags = process_tags.Tags()
        """What is to carry one of them ends with the server."""
        self._shell = shell
        self._is_needed = True
        self._fd = -1
        self._backlog = bytearray()

    def start(self) -> None:
        """Start the watchdog; idempotent, and to be called before a process group begins.

        Raises OSError if there is no process or descriptor to be had. Where there is no shell,
        there is no watchdog.
        """
        if not self._is_needed:
            return
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watchdog.sh")
        argv = [self._shell, script, *INTERPRETER, os.path.abspath(process_tags.__file__)]
        argv.append(str(self.tags.prefix))
        try:
            child = spawn(SpawnSpec(argv=argv, cwd="/", env={}, pipe_stdin=True))
        except (FileNotFoundError, PermissionError) as error:
            log.error("nothing will end what this server runs if it is killed: %s", error)
        else:
            for descriptor in (child.pidfd, child.stdout, child.stderr):
                os.close(descriptor)
            self.pid = child.pid
            self._fd = child.stdin
        self._is_needed = False

    def add(self, pgid: int) -> None:
        """A process group has begun."""
        self.groups.add(pgid)
        self._tell(b"+%d\n" % pgid)

    def remove(self, pgid: int) -> None:
        """The leader of a process group has been waited for: the number may be used again."""
        self.groups.discard(pgid)
        self._tell(b"-%d\n" % pgid)

    def dismiss(self) -> None:
        """Nothing is left that carries a tag; until the next group begins."""
        self._tell(b"=\n")

    def close(self) -> None:
        """End the watchdog, which kills the groups still listed, and wait for it; idempotent."""
        if self.pid is None or self._fd < 0:
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
