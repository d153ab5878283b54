"""A server as a child process: spawned, watched, and ended whatever happens.

It leads a session and a process group of its own, so that a Ctrl-C meant for the client does not
reach it. It is ended with SIGTERM to the group, and with SIGKILL two seconds later. A client that
dies without ending it leaves it at the end of its input, where servers exit by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import weakref
from typing import TYPE_CHECKING, Final

from exec_server.client.display import shown_command
from exec_server.client.errors import ConnectFailed
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("exec_server.client")

GRACE_SECONDS: Final = 2.0
"""Seconds that the server may take to end after SIGTERM."""

PIPE_BYTES: Final = 1024 * 1024
"""Capacity of the pipes, the most that every user may have: fewer switches between the two."""

_KEPT_STDERR_BYTES: Final = 4096


class ServerProcess:
    """A running server with pipes for its standard streams."""

    def __init__(
        self, argv: Sequence[str], *, cwd: str | None, env: Mapping[str, str] | None
    ) -> None:
        """Spawn it; ``env`` is laid over this process's environment.

        Raises ConnectFailed if it cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConnectFailed(f"cannot start {shown_command(argv)!r}: {reason}") from None
        pipes = self._process.stdin, self._process.stdout, self._process.stderr
        assert all(pipe is not None for pipe in pipes)
        self.stdin_fd, self.stdout_fd, self._stderr_fd = (
            pipe.fileno() for pipe in pipes if pipe is not None
        )
        for fd in (self.stdin_fd, self.stdout_fd):
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._stderr = bytearray()
        self._line = b""
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        os.set_blocking(self._stderr_fd, False)
        self._loop.add_reader(self._stderr_fd, self._read_stderr)
        # For a client that was never closed: at its collection, or at the end of the interpreter.
        self._finalizer = weakref.finalize(self, _kill, self._process)

    def close_pipes(self) -> None:
        """Let the server see the end of its input."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    async def end(self) -> None:
        """End the server; returns when it is gone."""
        self._signal(signal.SIGTERM)
        self.close_pipes()
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await asyncio.shield(self._exited)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await asyncio.shield(self._exited)
        finally:
            self._finalizer.detach()

    @property
    def end_reason(self) -> str:
        """Return how the server ended and its last line on standard error, as far as known."""
        words = bytes(self._stderr).decode(errors="replace").strip()
        last = f": {words.splitlines()[-1]}" if words else ""
        if not self._exited.done():
            return f"the server closed its output{last}"
        code = self._exited.result()
        if code < 0:
            return f"the server was killed by {_signal_name(-code)}{last}"
        return f"the server exited with {code}{last}"

    async def wait_briefly(self) -> None:
        """Give a server that closed its output the time to exit, for ``end_reason``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.shield(self._exited)

    def _signal(self, signum: signal.Signals) -> None:
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signum)

    def _reap(self) -> None:
        code = self._process.poll()
        if code is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read_stderr()
        self._close_stderr()
        self._exited.set_result(code)

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr_fd, 65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close_stderr()
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            log.debug("server: %s", printable(line.decode(errors="replace")))
        self._line = self._line[-_KEPT_STDERR_BYTES:]
        self._stderr += data
        del self._stderr[:-_KEPT_STDERR_BYTES]

    def _close_stderr(self) -> None:
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._loop.remove_reader(self._stderr_fd)
            self._process.stderr.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
