"""The client under test: a command that is run once for each case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server_conformance.errors import SessionError, TargetError
from exec_server_conformance.runner.target import ending

if TYPE_CHECKING:
    from exec_server_conformance.runner.session import Transport

STOP_SECONDS: Final = 3.0
"""How long a client may take to end once it is told to."""

MOST_BYTES: Final = 1 << 24
"""What is kept of each of its streams; no case has as much output."""

_PLACES: Final[dict[str, Transport]] = {"{url}": "ws", "{command}": "stdio"}


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """A command with a place for the server: ``{url}``, or ``{command}`` of one on pipes."""

    text: str

    def __post_init__(self) -> None:
        """Raise SessionError for a command that cannot be used."""
        if len(self._places) != 1:
            raise SessionError(
                "the client's command needs one of {url}, where it is to connect, and {command}, "
                f"which it is to start: {self.text}"
            )
        try:
            shlex.split(self.text)
        except ValueError as error:
            raise SessionError(f"the client's command cannot be read: {error}") from None

    @property
    def _places(self) -> list[str]:
        return [place for place in _PLACES if place in self.text]

    @property
    def transport(self) -> Transport:
        """How it reaches the server."""
        return _PLACES[self._places[0]]

    def argv(self, server: str) -> list[str]:
        """The command line for a server, by its URL or command."""
        return [word.replace(self._places[0], server) for word in shlex.split(self.text)]


class Program:
    """A running client."""

    def __init__(self, process: asyncio.subprocess.Process, text: bytes | None) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.output = bytearray()
        """What it wrote to standard output so far."""
        self._errors = bytearray()
        self._tasks = [
            asyncio.create_task(_keep(process.stdout, self.output)),
            asyncio.create_task(_keep(process.stderr, self._errors)),
        ]
        if text is not None:
            self._tasks.append(asyncio.create_task(self._feed(text)))

    @classmethod
    async def start(cls, argv: list[str], text: bytes | None) -> Program:
        """Start it, with text on its standard input; raises TargetError if that cannot be."""
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
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def end(self) -> str:
        """How it ended, in words, with the last line that it wrote on stderr."""
        assert self.status is not None
        lines = bytes(self._errors).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"ended with {ending(self.status)}"
        return f"{how}: {last[:300]}" if last else how

    async def wait(self) -> None:
        """Wait until it has ended, and what it wrote is here."""
        await self._process.wait()
        # A descendant may hold the streams open.
        await asyncio.wait(self._tasks[:2], timeout=STOP_SECONDS)

    async def stop(self) -> None:
        """End its whole process group."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        # Lets the event loop close the pipes before it ends itself.
        self._process._transport.close()  # type: ignore[attr-defined]


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while data := await stream.read(1 << 16):
        kept += data[: MOST_BYTES - len(kept)]
