"""The terminal and the standard streams of this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
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
"""Bytes read from standard input at a time."""

PIECES_AHEAD: Final = 4
"""Pieces of standard input read ahead of the consumer."""

KEYS_AHEAD: Final = 1024
"""The same for a terminal, where a piece is a key or a paste: the keys that end a session must be
read while the server takes no input."""


def require(*, tty: bool) -> None:
    """Raise CommandError if a program on a terminal could not be typed to."""
    if tty and not os.isatty(STDIN):
        raise CommandError("standard input is not a terminal; omit -t")


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Pass every key on unchanged; restore the terminal at the end and while stopped.

    Shells set their own modes when they continue a job, so they are set again then.
    """
    before = termios.tcgetattr(fd)
    loop = asyncio.get_running_loop()

    def restore() -> None:
        # A terminal that was closed has nothing to restore.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def set_raw() -> None:
        with contextlib.suppress(termios.error):
            tty.setraw(fd)

    def stop() -> None:
        restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    tty.setraw(fd)
    loop.add_signal_handler(signal.SIGTSTP, stop)
    loop.add_signal_handler(signal.SIGCONT, set_raw)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)
        loop.remove_signal_handler(signal.SIGCONT)
        restore()


def size() -> tuple[int, int] | None:
    """Return rows and columns of the terminal; None without one, or if they are unknown."""
    for fd in (STDOUT, STDIN, STDERR):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(fd)
            if found.lines and found.columns:
                return found.lines, found.columns
    return None


async def write(fd: int, data: bytes) -> None:
    """Write all data without blocking the event loop."""
    await asyncio.to_thread(_write_all, fd, data)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def stdin(ahead: int = PIECES_AHEAD) -> AsyncIterator[bytes]:
    """Yield standard input up to its end, reading at most ``ahead`` pieces ahead."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(ahead)

    def read() -> None:
        piece = b"?"
        # The loop may be closed by the time input arrives.
        with contextlib.suppress(RuntimeError):
            while piece:
                room.acquire()
                try:
                    piece = os.read(STDIN, PIECE_BYTES)
                except OSError:
                    piece = b""
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

    # A thread, because an event loop cannot watch a file; and a daemon, because a read of a
    # terminal cannot be cancelled.
    threading.Thread(target=read, daemon=True).start()
    while piece := await pieces.get():
        yield piece
        room.release()
