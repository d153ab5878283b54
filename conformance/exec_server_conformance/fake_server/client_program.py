"""Client under test: a command that is run once per case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server_conformance.errors import SessionError, TargetError
from exec_server_conformance.runner.target import describe_exit_status

if TYPE_CHECKING:
    from exec_server_conformance.runner.session import Transport

STOP_SECONDS: Final = 3.0
"""Time limit for a client's exit after it was signalled."""

MAX_BYTES: Final = 1 << 24
"""Maximum number of bytes kept of each of its streams; no case has as much output."""

_PLACEHOLDERS: Final[dict[str, Transport]] = {"{url}": "ws", "{command}": "stdio"}


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """Client command with a placeholder: ``{url}``, or ``{command}`` for a server on pipes."""

    text: str

    def __post_init__(self) -> None:
        """Raise SessionError for an invalid command."""
        if len(self._placeholders) != 1:
            raise SessionError(
                "the client's command must contain {url}, the URL to connect to, or {command}, the "
                f"server command to start: {self.text}"
            )
        try:
            shlex.split(self.text)
        except ValueError as error:
            raise SessionError(f"the client's command cannot be parsed: {error}") from None

    @property
    def _placeholders(self) -> list[str]:
        return [place for place in _PLACEHOLDERS if place in self.text]

    @property
    def transport(self) -> Transport:
        """Transport that the client uses."""
        return _PLACEHOLDERS[self._placeholders[0]]

    def argv(self, server: str) -> list[str]:
        """Return the command line for a server's URL or command."""
        return [word.replace(self._placeholders[0], server) for word in shlex.split(self.text)]


class Program:
    """Running client."""

    def __init__(self, process: asyncio.subprocess.Process, text: bytes | None) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.output = bytearray()
        """Standard output so far."""
        self._errors = bytearray()
        self._tasks = [
            asyncio.create_task(_keep(process.stdout, self.output)),
            asyncio.create_task(_keep(process.stderr, self._errors)),
        ]
        if text is not None:
            self._tasks.append(asyncio.create_task(self._feed(text)))

    @classmethod
    async def start(cls, argv: list[str], text: bytes | None) -> Program:
        """Start the client with ``text`` on its standard input; raise TargetError on failure."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL if text is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"cannot run {argv[0]!r}: {error.strerror}") from None
        return cls(process, text)

    async def _feed(self, text: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(text)
            await self._process.stdin.drain()
        self._process.stdin.close()

    @property
    def status(self) -> int | None:
        """Exit code, negative for a signal; None while the client is running."""
        return self._process.returncode

    @property
    def end(self) -> str:
        """Description of the client's exit, including the last line of its stderr."""
        assert self.status is not None
        lines = bytes(self._errors).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"exited with {describe_exit_status(self.status)}"
        return f"{how}: {last[:300]}" if last else how

    async def wait(self) -> None:
        """Wait for the client's exit and its remaining output."""
        await self._process.wait()
        # A descendant may hold the streams open.
        await asyncio.wait(self._tasks[:2], timeout=STOP_SECONDS)

    async def stop(self) -> None:
        """Terminate the client's process group."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        # Lets the event loop close the pipes before the loop itself is closed.
        self._process._transport.close()  # type: ignore[attr-defined]


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while data := await stream.read(1 << 16):
        kept += data[: MAX_BYTES - len(kept)]
