"""Running a command to completion, as ``subprocess.run`` does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.client.errors import ClientError, CommandFailed, InputRefused, OutputLost
from exec_server.client.events import Gap, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.client.process import Process

KILL_SECONDS: Final = 0.3
"""Time for a timed-out command to be killed and its last output to arrive. A time limit is kept
within 0.5 seconds, so the rest is left to a busy event loop."""

FEED_SCRIPT: Final = 'head -c "$0" | exec "$@"'
"""Shell script that takes a length and a command: passes that many bytes of its input to the
command, and then the end of file. Released revisions cannot close a pipe, but the shell can."""


class CompletedProcess(msgspec.Struct, frozen=True):
    """Result of a command that has ended. ``Client.run`` returns it."""

    argv: list[str]
    """Program and arguments."""
    returncode: int
    """Exit code; see Exited for death by a signal."""
    stdout: bytes
    """Standard output, or the output of the terminal."""
    stderr: bytes
    """Standard error; empty with a terminal."""
    truncated: bool = False
    """True if output was discarded because of ``limit``."""
    sandbox_denied: bool = False
    """True if the command seems to have failed because of its sandbox (v2)."""

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 appear as U+FFFD."""
        return self.stdout.decode(errors="replace")

    def check_returncode(self) -> None:
        """Raise CommandFailed unless the exit code is 0."""
        if self.returncode:
            raise CommandFailed(self.argv, self.returncode, self.stdout, self.stderr)


class Capture:
    """The output of a command so far, limited per stream."""

    def __init__(self, limit: int | None) -> None:
        """``limit`` bounds each stream, in bytes."""
        self._limit = limit
        self._streams: dict[str, bytearray] = {}
        self.truncated = False

    def take(self, event: Output) -> None:
        """Append output up to the limit."""
        kept = self._streams.setdefault(event.stream, bytearray())
        room = len(event.data) if self._limit is None else max(0, self._limit - len(kept))
        kept += event.data[:room]
        self.truncated = self.truncated or len(event.data) > room

    def miss(self, gap: Gap) -> None:
        """Note lost output. Raises OutputLost if all output was requested."""
        if self._limit is None:
            raise OutputLost(gap.first_seq, gap.last_seq)
        self.truncated = True

    @property
    def stdout(self) -> bytes:
        """Standard output and the output of the terminal."""
        return bytes(self._streams.get("stdout", b"") + self._streams.get("pty", b""))

    @property
    def stderr(self) -> bytes:
        """Standard error."""
        return bytes(self._streams.get("stderr", b""))


async def finish(
    process: Process, argv: Sequence[str], data: bytes | None, capture: Capture
) -> CompletedProcess:
    """Write the input of a process and capture its output until both have ended."""
    feeding = asyncio.create_task(_feed(process, data)) if data else None
    try:
        await _consume(process, capture)
        if feeding is not None and feeding.done():
            feeding.result()
    finally:
        if feeding is not None:
            feeding.cancel()
    return CompletedProcess(
        list(argv),
        await process.wait(),
        capture.stdout,
        capture.stderr,
        capture.truncated,
        process.sandbox_denied,
    )


async def kill(process: Process, capture: Capture) -> str:
    """Kill a command that has timed out, capture its last output, and describe the outcome.

    Returns within ``KILL_SECONDS``. The server may not have answered by then.
    """
    exit_code = process.returncode
    outcome = "the server has not confirmed that it was killed"
    with contextlib.suppress(TimeoutError, ClientError):
        async with asyncio.timeout(KILL_SECONDS):
            await process.terminate()
            outcome = "it was killed"
            await _consume(process, capture)
    if exit_code is not None:
        return f"it exited with {exit_code}, but another process kept its output open"
    return outcome


async def _consume(process: Process, capture: Capture) -> None:
    async for event in process:
        if type(event) is Output:
            capture.take(event)
        elif type(event) is Gap:
            capture.miss(event)


async def _feed(process: Process, data: bytes) -> None:
    with contextlib.suppress(InputRefused):
        await process.write(data)
        if process.tty or process.can_close_stdin:
            await process.close_stdin()
