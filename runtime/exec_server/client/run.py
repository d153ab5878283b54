"""Running a command to its end, as ``subprocess.run`` does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.client.errors import CommandFailed, CommandTimedOut, InputRefused, OutputLost
from exec_server.client.events import Gap, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.client.process import Process

KILL_SECONDS: Final = 5.0
"""How long a killed command may take to be gone."""

FEED_SCRIPT: Final = 'head -c "$0" | exec "$@"'
"""Run by the shell with a length and a command: gives the command that much of the shell's input,
and then its end. Released revisions cannot close a pipe, but a pipe within the server can."""


class CompletedProcess(msgspec.Struct, frozen=True):
    """A command that has ended. ``Client.run`` makes it."""

    argv: list[str]
    """Program and arguments."""
    returncode: int
    """Exit code; see Exited for death by a signal."""
    stdout: bytes
    """Standard output, or everything that a terminal showed."""
    stderr: bytes
    """Standard error; empty with a terminal."""
    truncated: bool = False
    """Whether there was more output than the caller wanted kept."""
    sandbox_denied: bool = False
    """Whether it seems to have failed because of its sandbox (v2)."""

    @property
    def text(self) -> str:
        """Standard output as text; what is no UTF-8 appears as U+FFFD."""
        return self.stdout.decode(errors="replace")

    def check_returncode(self) -> None:
        """Raise CommandFailed unless the exit code is 0."""
        if self.returncode:
            raise CommandFailed(self.argv, self.returncode, self.stdout, self.stderr)


class Capture:
    """The first bytes of each output stream of a process."""

    def __init__(self, limit: int | None) -> None:
        """``limit`` bounds each stream, in bytes."""
        self._limit = limit
        self._streams: dict[str, bytearray] = {}
        self.truncated = False

    def take(self, event: Output) -> None:
        """Add what still fits."""
        kept = self._streams.setdefault(event.stream, bytearray())
        room = len(event.data) if self._limit is None else max(0, self._limit - len(kept))
        kept += event.data[:room]
        self.truncated = self.truncated or len(event.data) > room

    def miss(self, gap: Gap) -> None:
        """Output is missing; raises OutputLost unless bounded output was asked for anyway."""
        if self._limit is None:
            raise OutputLost(gap.first_seq, gap.last_seq)
        self.truncated = True

    @property
    def stdout(self) -> bytes:
        """Standard output and the terminal's."""
        return bytes(self._streams.get("stdout", b"") + self._streams.get("pty", b""))

    @property
    def stderr(self) -> bytes:
        """Standard error."""
        return bytes(self._streams.get("stderr", b""))


async def finish(
    process: Process,
    argv: Sequence[str],
    data: bytes | None,
    timeout: float | None,
    limit: int | None,
) -> CompletedProcess:
    """Feed a process its input and consume its output until both have ended.

    It is killed when that takes too long, and when the caller is cancelled.
    """
    capture = Capture(limit)
    feeding = asyncio.create_task(_feed(process, data)) if data else None
    try:
        async with asyncio.timeout(timeout) as scope:
            await _consume(process, capture)
            if feeding is not None and feeding.done():
                feeding.result()
    except TimeoutError:
        if not scope.expired() or timeout is None:
            raise
        await process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await _consume(process, capture)
        raise CommandTimedOut(argv, timeout, capture.stdout, capture.stderr) from None
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
