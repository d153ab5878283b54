"""The terminal and the standard streams of this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
import threading
import tty
from typing import TYPE_CHECKING, Final

from exec_server.cli.client.exit_codes import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

PIECE_BYTES: Final = 64 * 1024
"""The most that is read from standard input at a time."""

PIECES_AHEAD: Final = 4
"""Pieces of standard input that are read before the first of them is taken."""


def require(*, tty: bool) -> None:
    """Raise CommandError unless keys can be passed on to a program that has a terminal."""
    if tty and not os.isatty(STDIN):
        raise CommandError("standard input is no terminal; leave out -t")


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Leave every key to the program at the other end; the terminal is restored at the end."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        # A terminal that was closed has nothing to restore.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def size() -> tuple[int, int] | None:
    """Rows and columns of the terminal; None without one, or if it does not know them."""
    for fd in (STDOUT, STDIN, STDERR):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(fd)
            if found.lines and found.columns:
                return found.lines, found.columns
    return None


async def write(fd: int, data: bytes) -> None:
    """Write all of it, however long that takes; the event loop goes on meanwhile."""
    await asyncio.to_thread(_write_all, fd, data)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def stdin() -> AsyncIterator[bytes]:
    """What comes on standard input, until its end; read no faster than it is taken."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(PIECES_AHEAD)

    def read() -> None:
        piece = b"?"
        # The loop may be closed by the time that something comes.
        with contextlib.suppress(RuntimeError):
            while piece:
                room.acquire()
                try:
                    piece = os.read(STDIN, PIECE_BYTES)
                except OSError:
                    piece = b""
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

    # A thread, because stdin may be a file, which no event loop watches; and one that nobody
    # waits for, because a read of a terminal cannot be taken back.
    threading.Thread(target=read, daemon=True).start()
    while piece := await pieces.get():
        yield piece
        room.release()
