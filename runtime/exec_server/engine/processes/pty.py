"""Pseudo-terminals: a new pair per process.

The child opens the slave by name, as its first terminal after it has become a session leader:
that makes it the controlling terminal without code of ours running between fork and exec.
"""

from __future__ import annotations

import fcntl
import functools
import os
import pwd
import struct
import termios
from typing import Final

import msgspec

from exec_server.errors import InvalidArgument

FALLBACK_SHELL: Final = "/bin/sh"
"""The shell of a user without an entry in the user database."""


class Pair(msgspec.Struct, frozen=True):
    """Both ends of a pseudo-terminal; the caller closes them."""

    master: int
    """Non-blocking."""
    slave: int
    """Held open until the child has its own, lest the master sees the end of the output."""
    slave_name: str


def open_pair(rows: int, cols: int) -> Pair:
    """Open a pair of the given size, in the kernel's own terminal modes.

    Raises OSError when there is none to be had, InvalidArgument for an impossible size.
    """
    size = _winsize(rows, cols)
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        return Pair(master, slave, os.ttyname(slave))
    except BaseException:
        os.close(master)
        os.close(slave)
        raise


def resize(master: int, rows: int, cols: int) -> None:
    """Give a terminal another size; its foreground process group hears of it by SIGWINCH.

    Raises InvalidArgument for an impossible size.
    """
    fcntl.ioctl(master, termios.TIOCSWINSZ, _winsize(rows, cols))


def _winsize(rows: int, cols: int) -> bytes:
    try:
        return struct.pack("HHHH", rows, cols, 0, 0)
    except struct.error as error:
        raise InvalidArgument("a terminal has 0 to 65535 rows and columns") from error


def login_shell() -> str:
    """The shell of the server's user in the user database."""
    try:
        return _shell_of(os.getuid())
    except KeyError:
        return FALLBACK_SHELL


@functools.cache  # but not its failures, one of which is that no more files can be opened
def _shell_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_shell or FALLBACK_SHELL
