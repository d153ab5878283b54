"""``exec-server run``: a program there that behaves as if it ran here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from exec_server.cli.client import terminal
from exec_server.cli.client.exit_codes import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    SIGNALLED,
    CommandError,
    describe,
)
from exec_server.cli.client.printing import print_json, print_line
from exec_server.client import ClientError, Exited, Gap, InputRefused, Output, Unsupported

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Coroutine

    from exec_server.client import Client, Process

    Sink: TypeAlias = Callable[[int, bytes], Awaitable[None]]

log = logging.getLogger("exec_server.cli.client")

GRACE_SECONDS: Final = 10.0
"""How long a program that is asked to end may take, where the server can ask."""

ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end this process, and so the program."""

UNKNOWN_SIGNAL: Final = 255
"""Exit code for death by a signal that the revision does not name; ssh's."""


async def run(client: Client, options: argparse.Namespace) -> int:
    """Run a program, and return what to exit with."""
    if options.detach:
        return await _detach(client, options)
    if options.interactive:
        terminal.require(tty=options.tty)
    process, has_size = await _start(client, options)
    if not options.json:
        return await TerminalSession(process, has_size=has_size).follow(
            interactive=options.interactive
        )
    collected = Collected()
    session = TerminalSession(process, has_size=has_size, sink=collected.take)
    code = await session.follow(interactive=options.interactive)
    print_json(collected.facts(options.argv, code))
    return code


async def _detach(client: Client, options: argparse.Namespace) -> int:
    """Leave the program running in its session, and tell how to come back to it."""
    if not client.can_detach:
        raise CommandError(
            f"{client.target} keeps no session without a connection; a server that listens does, "
            "from revision v1 on"
        )
    process, _ = await _start(client, options)
    session_id = client.session_id
    assert session_id is not None
    await client.aclose(detach=True)
    if options.json:
        print_json({"session": session_id, "process": process.id})
    else:
        print_line(f"{session_id} {process.id}")
    return 0


class Collected:
    """The output of a program, for one JSON object."""

    def __init__(self) -> None:
        self._streams = {"stdout": bytearray(), "stderr": bytearray()}

    async def take(self, fd: int, data: bytes) -> None:
        """Add what came."""
        self._streams["stderr" if fd == terminal.STDERR else "stdout"] += data

    def facts(self, argv: list[str], code: int) -> dict[str, Any]:
        """The object to print; output that is not UTF-8 appears as base64."""
        told: dict[str, Any] = {"argv": argv, "exitCode": code}
        for name, data in self._streams.items():
            try:
                told[name] = data.decode()
            except UnicodeDecodeError:
                told[f"{name}Base64"] = bytes(data)
        return told


async def _start(client: Client, options: argparse.Namespace) -> tuple[Process, bool]:
    """The process, and whether its terminal can be resized."""
    env = dict(map(_variable, options.env))
    size = terminal.size() if options.tty else None
    if options.tty and "TERM" in os.environ:
        env.setdefault("TERM", os.environ["TERM"])

    async def start(size: tuple[int, int] | None) -> Process:
        return await client.start(
            options.argv,
            cwd=options.directory,
            env=env,
            tty=options.tty,
            size=size,
            stdin=options.interactive,
            process_id=options.name,
            overflow="block",
        )

    try:
        if size is not None:
            try:
                return await start(size), True
            except Unsupported:
                log.info(
                    "the server cannot resize terminals; this one stays at its size, "
                    "usually 24 rows of 80 columns"
                )
        return await start(None), False
    except OSError as error:
        if isinstance(error, ClientError):
            raise
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        raise CommandError(describe(error), code) from error


def _variable(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for the value that it has here."""
    name, equals, value = text.partition("=")
    if not name:
        raise CommandError(f"-e {text}: expected NAME=VALUE or NAME")
    return name, value if equals else os.environ.get(name, "")


class TerminalSession:
    """A process, and the terminal or streams that it is joined to."""

    def __init__(self, process: Process, *, has_size: bool, sink: Sink = terminal.write) -> None:
        """``has_size``: its terminal can be resized. ``sink`` gets what it writes."""
        self._process = process
        self._has_size = has_size
        self._sink = sink
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_signal: int | None = None
        self._is_ending = False

    async def follow(self, *, interactive: bool) -> int:
        """Join the two until the process and its output have ended."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, *ENDING):
            loop.add_signal_handler(signum, self._signalled, signum)
        if self._has_size:
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        is_raw = interactive and self._process.tty
        try:
            with terminal.raw(terminal.STDIN) if is_raw else contextlib.nullcontext():
                if interactive:
                    self._spawn(self._forward_input())
                return await self.show()
        except BrokenPipeError as error:
            if isinstance(error, ClientError):
                raise
            # Whoever read the output is gone: the program is told as it would be here.
            await self._process.terminate()
            return SIGNALLED + signal.SIGPIPE
        finally:
            for task in self._tasks:
                task.cancel()

    async def show(self) -> int:
        """Pass on its output to the end; returns what to exit with."""
        code = 0
        async for event in self._process:
            if type(event) is Output:
                fd = terminal.STDERR if event.stream == "stderr" else terminal.STDOUT
                await self._sink(fd, event.data)
            elif type(event) is Gap:
                log.error("output is missing here: the server no longer had it")
            elif type(event) is Exited:
                code = event.code
        if code >= 0:
            return code
        return UNKNOWN_SIGNAL if self._last_signal is None else SIGNALLED + self._last_signal

    async def _forward_input(self) -> None:
        # A program that has ended, or closed its input, is no fault.
        with contextlib.suppress(InputRefused):
            async for piece in terminal.stdin():
                await self._process.write(piece)
            if self._process.tty or self._process.can_close_stdin:
                await self._process.close_stdin()
            else:
                log.error("the server cannot end the program's standard input; Ctrl-C ends it")

    # Signals

    def _signalled(self, signum: int) -> None:
        self._last_signal = signum
        self._spawn(self._interrupt() if signum == signal.SIGINT else self._end())

    def _resized(self) -> None:
        size = terminal.size()
        if size is not None:
            self._spawn(self._process.resize(*size))

    async def _interrupt(self) -> None:
        try:
            await self._process.signal(signal.SIGINT)
        except Unsupported:
            log.info("the server cannot interrupt programs; this one is killed")
            await self._process.terminate()

    async def _end(self) -> None:
        """Ask the program to end; the second time, and where it cannot be asked, kill it."""
        was_asked, self._is_ending = self._is_ending, True
        try:
            await self._process.terminate(graceful=None if was_asked else GRACE_SECONDS)
        except Unsupported:
            await self._process.terminate()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(_reported(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _reported(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except ClientError as error:
        log.info("%s", error)
