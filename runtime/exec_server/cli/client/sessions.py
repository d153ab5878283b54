"""``exec-server ps``, ``attach`` and ``kill``: programs of a session that was left."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from typing import TYPE_CHECKING, Any, Final

from exec_server.cli.client import terminal
from exec_server.cli.client.exit_codes import FAILED, SIGNALLED, CommandError
from exec_server.cli.client.printing import print_json, print_line
from exec_server.cli.client.run import GRACE_SECONDS, TerminalSession
from exec_server.cli.client.target_options import SESSION_VARIABLE, session_of
from exec_server.client import ServerError, Unsupported
from exec_server.printable import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from exec_server.client import Client, Overflow, Process, ProcessInfo

UNKNOWN_PROCESS: Final = -32600
"""The code of the answer about a process that the session does not have."""


@contextlib.asynccontextmanager
async def _visit(client: Client, options: argparse.Namespace, command: str) -> AsyncIterator[None]:
    """Do something in the session that is named, and leave it as it is, whatever comes.

    A client that is closed otherwise kills the programs that it has attached to.
    """
    if session_of(options) is None:
        raise CommandError(
            f"{command}: a new session has no programs; name the one that 'run --detach' has left, "
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
    """Show what a program of the session writes, until it ends; its exit code is passed through.

    Without ``-i`` Ctrl-C stops the showing and leaves the program alone.
    """
    async with _visit(client, options, "attach"):
        tty = await _has_terminal(client, options)
        if options.interactive:
            terminal.require(tty=tty)
        process = await _attached(client, options.process, tty=tty, overflow="block")
        joint = TerminalSession(process, has_size=tty and await _fit(process))
        return await (joint.follow(interactive=True) if options.interactive else _watch(joint))


async def _watch(joint: TerminalSession) -> int:
    """Follow the output, and stop at the first signal."""
    loop = asyncio.get_running_loop()
    showing = asyncio.create_task(joint.show())
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
    """As the server tells, or else as the options do."""
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
    """Give the program's terminal the size of the one here; whether it can be resized."""
    size = terminal.size()
    if size is None:
        return False
    try:
        await process.resize(*size)
    except Unsupported:
        return False
    return True


async def kill(client: Client, options: argparse.Namespace) -> int:
    """End programs of the session: ask first, where the server can, unless told otherwise."""
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
