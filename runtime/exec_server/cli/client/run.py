"""``exec-server run``: run a program on the server as if it were local."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from exec_server.cli.client import terminal
from exec_server.cli.client.escape_keys import (
    Action,
    KeyFilter,
    parse_detach_keys,
    parse_escape,
)
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
"""Time for a program to end after SIGTERM, as for ``docker stop``, before it is killed."""

FORCED_SECONDS: Final = 2.0
"""Time limit for ending a program when the command leaves without waiting for it."""

SILENCE_SECONDS: Final = 2.0
"""Time without an answer to a key before a notice: longer than a slow network, and shorter than
the patience of a user."""

ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end this command, and with it the program."""

UNKNOWN_SIGNAL: Final = 255
"""Exit code for death by an unknown signal (v1), as in ssh."""


async def run(client: Client, options: argparse.Namespace) -> int:
    """Run a program and return the exit code."""
    if options.detach:
        return await _detach(client, options)
    keys = key_filter(options, can_detach=client.can_detach)
    if options.interactive:
        terminal.require(tty=options.tty)
    process, has_size = await _start(client, options)
    collected = Collected()
    sink = collected.take if options.json else terminal.write
    session = TerminalSession(process, has_size=has_size, sink=sink, keys=keys)
    code = await session.follow(interactive=options.interactive)
    if session.is_detached:
        session_id = client.session_id
        await client.aclose(detach=True)
        log.error("detached from session %s, process %s", session_id, process.id)
    elif options.json:
        print_json(collected.facts(options.argv, code))
    return code


def key_filter(options: argparse.Namespace, *, can_detach: bool) -> KeyFilter:
    """Return the filter of the keys that a terminal session takes for itself."""
    detach = parse_detach_keys(options.detach_keys)
    return KeyFilter(parse_escape(options.escape), detach if can_detach else b"")


async def _detach(client: Client, options: argparse.Namespace) -> int:
    """Start a program, print its session and id, and leave it running."""
    if not client.can_detach:
        raise CommandError(
            f"{client.target} keeps no session without a connection; listening servers do, from "
            "revision v1 on"
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
    """The output of a program, collected for one JSON object."""

    def __init__(self) -> None:
        self._streams = {"stdout": bytearray(), "stderr": bytearray()}

    async def take(self, fd: int, data: bytes) -> None:
        """Append output."""
        self._streams["stderr" if fd == terminal.STDERR else "stdout"] += data

    def facts(self, argv: list[str], code: int) -> dict[str, Any]:
        """Return the object to print; output that is not UTF-8 appears as base64."""
        told: dict[str, Any] = {"argv": argv, "exitCode": code}
        for name, data in self._streams.items():
            try:
                told[name] = data.decode()
            except UnicodeDecodeError:
                told[f"{name}Base64"] = bytes(data)
        return told


async def _start(client: Client, options: argparse.Namespace) -> tuple[Process, bool]:
    """Return the process, and true if its terminal can be resized."""
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
                    "the server cannot resize terminals; this one keeps its size, "
                    "usually 24 rows of 80 columns"
                )
        return await start(None), False
    except OSError as error:
        if isinstance(error, ClientError):
            raise
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        raise CommandError(describe(error), code) from error


def _variable(text: str) -> tuple[str, str]:
    """Parse NAME=VALUE, or NAME for its value in the local environment."""
    name, equals, value = text.partition("=")
    if not name:
        raise CommandError(f"-e {text}: expected NAME=VALUE or NAME")
    return name, value if equals else os.environ.get(name, "")


class TerminalSession:
    """A process connected to the local terminal or the standard streams."""

    def __init__(
        self,
        process: Process,
        *,
        has_size: bool,
        sink: Sink = terminal.write,
        keys: KeyFilter | None = None,
    ) -> None:
        """``has_size``: the terminal of the process can be resized. ``sink`` takes its output."""
        self._process = process
        self._has_size = has_size
        self._sink = sink
        self._keys = keys
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_signal: int | None = None
        self._is_ending = False
        self._unanswered = 0
        self._showing: asyncio.Task[int] | None = None
        self._exit_code: int | None = None
        self.is_detached = False
        """True if the user has left the process running."""

    async def follow(self, *, interactive: bool) -> int:
        """Connect the two until the process and its output have ended, or the user leaves."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, *ENDING):
            loop.add_signal_handler(signum, self._signalled, signum)
        if self._has_size:
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        is_raw = interactive and self._process.tty
        try:
            with terminal.raw(terminal.STDIN) if is_raw else contextlib.nullcontext():
                if interactive:
                    self._spawn(self._forward_input(is_raw=is_raw))
                self._showing = asyncio.create_task(self.show())
                try:
                    return await self._showing
                except asyncio.CancelledError:
                    if self._exit_code is None:
                        self._showing.cancel()
                        raise
                    return self._exit_code
        except BrokenPipeError as error:
            if isinstance(error, ClientError):
                raise
            # The reader of the output is gone: end the program as a local SIGPIPE would.
            await self._process.terminate(timeout=FORCED_SECONDS)
            return SIGNALLED + signal.SIGPIPE
        finally:
            for task in self._tasks:
                task.cancel()

    async def show(self) -> int:
        """Write the output of the process up to its end; return the exit code."""
        code = 0
        async for event in self._process:
            if type(event) is Output:
                fd = terminal.STDERR if event.stream == "stderr" else terminal.STDOUT
                await self._sink(fd, event.data)
            elif type(event) is Gap:
                log.error("output is missing here: the server no longer retained it")
            elif type(event) is Exited:
                code = event.code
        if code >= 0:
            return code
        return UNKNOWN_SIGNAL if self._last_signal is None else SIGNALLED + self._last_signal

    def _leave(self, code: int) -> None:
        """End the session without waiting for the process or the server."""
        self._exit_code = code
        if self._showing is not None:
            self._showing.cancel()

    # Input

    async def _forward_input(self, *, is_raw: bool) -> None:
        pieces: asyncio.Queue[bytes] = asyncio.Queue(0 if is_raw else 1)
        self._spawn(self._write_input(pieces))
        keys = self._keys if is_raw else None
        async for piece in terminal.stdin(terminal.KEYS_AHEAD if is_raw else terminal.PIECES_AHEAD):
            sent, action = (piece, None) if keys is None else keys.feed(piece)
            if sent:
                await pieces.put(sent)
            if action is Action.QUIT:
                self._spawn(self._end())
                self._leave(SIGNALLED + signal.SIGHUP)
            elif action is Action.DETACH:
                self.is_detached = True
                self._leave(0)
        await pieces.put(b"")

    async def _write_input(self, pieces: asyncio.Queue[bytes]) -> None:
        loop = asyncio.get_running_loop()
        # A program that has ended, or has closed its input, is not an error.
        with contextlib.suppress(InputRefused):
            while piece := await pieces.get():
                notice = loop.call_later(SILENCE_SECONDS, self._report_silence)
                try:
                    await self._process.write(piece)
                finally:
                    notice.cancel()
            if self._process.tty or self._process.can_close_stdin:
                await self._process.close_stdin()
            else:
                log.error("the server cannot close the program's standard input; press Ctrl-C")

    def _report_silence(self) -> None:
        way_out = "; type ~. on a new line to end the session" if self._keys is not None else ""
        log.error("no answer from the server for %g s%s", SILENCE_SECONDS, way_out)

    # Signals

    def _signalled(self, signum: int) -> None:
        is_stuck = self._unanswered or self._process.returncode is not None
        self._last_signal = signum
        if is_stuck:
            # Either the server has not answered the last signal, or the program has exited and
            # only its descendants keep the output open.
            self._spawn(self._end())
            self._leave(SIGNALLED + signum)
            return
        self._spawn(self._interrupt() if signum == signal.SIGINT else self._end())

    def _resized(self) -> None:
        size = terminal.size()
        if size is not None:
            self._spawn(self._process.resize(*size))

    async def _interrupt(self) -> None:
        self._unanswered += 1
        try:
            await self._process.signal(signal.SIGINT)
        except Unsupported:
            log.info("the server cannot interrupt programs; this one is killed")
            await self._process.terminate()
        finally:
            self._unanswered -= 1

    async def _end(self) -> None:
        """Ask the program to end; the second time, and where the server cannot ask, kill it."""
        was_asked, self._is_ending = self._is_ending, True
        self._unanswered += 1
        try:
            await self._process.terminate(graceful=None if was_asked else GRACE_SECONDS)
        except Unsupported:
            await self._process.terminate()
        finally:
            self._unanswered -= 1

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(_reported(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _reported(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except ClientError as error:
        log.info("%s", error)
