"""``exec-server ps``, ``attach`` and ``kill``: programs of a detached session."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from typing import TYPE_CHECKING, Any, Final

from exec_server.cli.client import terminal
from exec_server.cli.client.exit_codes import FAILED, SIGNALLED, CommandError
from exec_server.cli.client.printing import print_json, print_line
from exec_server.cli.client.run import GRACE_SECONDS, TerminalSession, key_filter
from exec_server.cli.client.target_options import SESSION_VARIABLE, session_of
from exec_server.client import ServerError, Unsupported
from exec_server.printable import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from exec_server.client import Client, Overflow, Process, ProcessInfo

UNKNOWN_PROCESS: Final = -32600
"""Error code of a server for an unknown process."""


@contextlib.asynccontextmanager
async def _visit(client: Client, options: argparse.Namespace, command: str) -> AsyncIterator[None]:
    """Use the session of the options and detach from it at the end.

    Closing the client would kill the programs that it has attached to.
    """
    if session_of(options) is None:
        raise CommandError(
            f"{command}: a new session has no programs; give the id that 'run --detach' printed "
            f"with --session or {SESSION_VARIABLE}"
        )
    try:
        yield
    finally:
        await client.aclose(detach=True)


async def list_processes(client: Client, options: argparse.Namespace) -> int:
    """List the programs of a session."""
    async with _visit(client, options, "ps"):
        processes = await client.processes()
    if options.json:
        print_json([_facts(process) for process in processes])
        return 0
    rows = [("ID", "PID", "STATUS", "COMMAND")]
    rows += [
        (printable(process.id), str(process.pid), _status(process), shlex.join(process.argv))
        for process in processes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, command in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print_line("  ".join((*padded, command)))
    return 0


def _facts(process: ProcessInfo) -> dict[str, Any]:
    return {
        "id": process.id,
        "pid": process.pid,
        "argv": process.argv,
        "tty": process.tty,
        "running": process.exit_code is None,
        "exitCode": process.exit_code,
        "closed": process.closed,
    }


def _status(process: ProcessInfo) -> str:
    return "running" if process.exit_code is None else f"exited {process.exit_code}"


async def attach(client: Client, options: argparse.Namespace) -> int:
    """Show the output of a program until it ends, and return its exit code.

    Without ``-i``, Ctrl-C stops the display and leaves the program running.
    """
    async with _visit(client, options, "attach"):
        tty = await _has_terminal(client, options)
        if options.interactive:
            terminal.require(tty=tty)
        process = await _attached(client, options.process, tty=tty, overflow="block")
        session = TerminalSession(
            process,
            has_size=tty and await _fit(process),
            keys=key_filter(options, can_detach=True),
        )
        return await (session.follow(interactive=True) if options.interactive else _watch(session))


async def _watch(session: TerminalSession) -> int:
    """Show the output, and stop at the first signal."""
    loop = asyncio.get_running_loop()
    showing = asyncio.create_task(session.show())
    caught: list[int] = []

    def stop(signum: int) -> None:
        caught.append(signum)
        showing.cancel()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop, signum)
    with contextlib.suppress(asyncio.CancelledError):
        return await showing
    return SIGNALLED + caught[0]


async def _has_terminal(client: Client, options: argparse.Namespace) -> bool:
    """Return true if the program has a terminal, by the server or else by the options."""
    try:
        found = {process.id: process for process in await client.processes()}
    except Unsupported:
        return bool(options.tty)
    if options.process not in found:
        raise _unknown(options.process)
    return found[options.process].tty


async def _attached(
    client: Client, process_id: str, *, tty: bool = False, overflow: Overflow = "reread"
) -> Process:
    try:
        return await client.attach(process_id, tty=tty, overflow=overflow)
    except ServerError as error:
        if error.code != UNKNOWN_PROCESS:
            raise
        raise _unknown(process_id) from error


def _unknown(process_id: str) -> CommandError:
    return CommandError(
        f"{process_id}: the session has no program of that id, or no longer", FAILED
    )


async def _fit(process: Process) -> bool:
    """Resize the terminal of the program to the local one; false if it cannot be resized."""
    size = terminal.size()
    if size is None:
        return False
    try:
        await process.resize(*size)
    except Unsupported:
        return False
    return True


async def kill(client: Client, options: argparse.Namespace) -> int:
    """End programs of the session: SIGTERM first, where the server can send it, unless forced."""
    async with _visit(client, options, "kill"):
        processes = [await _attached(client, process_id) for process_id in options.processes]
        await asyncio.gather(*(_end(process, force=options.force) for process in processes))
    return 0


async def _end(process: Process, *, force: bool) -> None:
    try:
        await process.terminate(graceful=None if force else GRACE_SECONDS)
    except Unsupported:
        await process.terminate()
    await process.wait()
