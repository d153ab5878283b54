"""A watchdog that kills the children of a server that died, however it died.

A server that is killed outright cannot end its children, and a parent-death signal cannot be
arranged for the way they are spawned. So a tiny process, a shell that runs ``watchdog.sh``, holds
the other end of a pipe. The server writes:

``!``       processes are about to be started, before the first of them is forked
``+PGID``   a process group exists
``-PGID``   its leader has been waited for; from then on the number may be used by others
``=``       nothing is left

At the end of the pipe the server is gone. The watchdog then kills every group on its list, and
unless the last word was ``=``, everything that carries one of the server's tags (see
``process_tags``): also a child that the server had no time to report.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from typing import Final

from exec_server.engine.processes import process_tags
from exec_server.engine.processes.spawn import INTERPRETER, SpawnSpec, spawn

log = logging.getLogger("exec_server")

_BACKLOG_BYTES: Final = 1024 * 1024
"""Unread lines kept for a watchdog that does not read; beyond that it is given up as broken."""

_CGROUP_MOUNTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Mount points of cgroup version 2 under systemd, alone or beside version 1; as in
``watchdog.sh``."""

_END_SECONDS: Final = 5.0
"""Seconds for which ``close`` waits for the watchdog. It takes longer only if something keeps
starting new processes, and then goes on alone."""


class Watchdog:
    """The server's end of the pipe.

    Only ``arm`` and ``close`` block, and only ``arm`` raises: to a watchdog that was killed,
    nothing is written any more.
    """

    def __init__(self, shell: str = "/bin/sh") -> None:
        """Nothing runs before ``arm``; ``shell`` is a POSIX shell."""
        self.pid: int | None = None
        """The watchdog process; None if it has not been started."""
        self.groups: set[int] = set()
        """The process groups whose leaders have not been waited for."""
        self.tags = process_tags.Tags()
        """Everything that carries one of them is killed with the server."""
        # Not the name of the program, by which the watchdog would be found and killed with it.
        self._cgroup_name = f"exec_server.{self.tags.prefix}"
        self._shell = shell
        self._is_needed = True
        self._is_armed = False
        self._fd = -1
        self._backlog = bytearray()

    def arm(self) -> None:
        """Prepare for a process that is about to be started; idempotent.

        Raises OSError if no process or descriptor is available. Where there is no shell, there is
        no watchdog.
        """
        if self._is_armed:
            return
        if self._is_needed:
            self._start()
        self._is_armed = True
        self._tell(b"!\n")

    def _start(self) -> None:
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watchdog.sh")
        argv = [self._shell, script, str(os.getpid()), self._cgroup_name]
        argv += (*INTERPRETER, os.path.abspath(process_tags.__file__))
        argv += (str(self.tags.prefix), str(os.getsid(0)))
        try:
            child = spawn(SpawnSpec(argv=argv, cwd="/", env={}, pipe_stdin=True))
        except (FileNotFoundError, PermissionError) as error:
            log.error("processes will not be killed if this server is: no watchdog: %s", error)
        else:
            for descriptor in (child.pidfd, child.stdout, child.stderr):
                os.close(descriptor)
            self.pid = child.pid
            self._fd = child.stdin
        self._is_needed = False

    def add(self, pgid: int) -> None:
        """Report a new process group."""
        self.groups.add(pgid)
        self._tell(b"+%d\n" % pgid)

    def remove(self, pgid: int) -> None:
        """Report that a group's leader has been waited for: the number may be used again."""
        self.groups.discard(pgid)
        self._tell(b"-%d\n" % pgid)

    def dismiss(self) -> None:
        """Report that nothing is left that carries a tag, until ``arm`` is called again.

        Without effect if the server's cgroup has other processes: they have removed their tags.
        """
        if _has_others(self._cgroup_name):
            return
        self._is_armed = False
        self._tell(b"=\n")

    def close(self) -> None:
        """End the watchdog, which kills what is left, and wait for it; idempotent.

        One that was dismissed ends when the server has ended, and removes the server's cgroup.
        """
        if self.pid is None or self._fd < 0:
            return
        # One that missed a line must not act on what it knows; one that was stopped must go on.
        signum = signal.SIGKILL if self._backlog else signal.SIGCONT
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)
        if not self._is_armed and not self._backlog:
            return
        os.close(self._fd)
        self._fd = -1
        # Not if the watchdog has been waited for, or no descriptor is available.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self.pid)
            end = select.poll()  # which takes any number of descriptor
            end.register(pidfd, select.POLLIN)
            end.poll(_END_SECONDS * 1000)
            os.close(pidfd)
            os.waitpid(self.pid, os.WNOHANG)

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


def _has_others(cgroup_name: str) -> bool:
    """True if this process shares a cgroup of that name (version 2) with others."""
    with contextlib.suppress(OSError):
        with open("/proc/self/cgroup", "rb") as file:
            paths = [line[len(b"0::") :] for line in file if line.startswith(b"0::")]
        for path in paths:
            if os.path.basename(path).decode().rstrip() != cgroup_name:
                continue
            for mount in _CGROUP_MOUNTS:
                with contextlib.suppress(FileNotFoundError):
                    procs = mount + path.rstrip().decode() + "/cgroup.procs"
                    with open(procs, "rb") as file:
                        return {int(line) for line in file} > {os.getpid()}
    return False
