"""Pseudo-terminals: one pair per process.

The child opens the slave by name after it has become a session leader. The first terminal that a
session leader opens becomes its controlling terminal, so no code has to run between fork and exec.
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
"""Shell of a user without an entry in the user database."""


class Pair(msgspec.Struct, frozen=True):
    """The two ends of a pseudo-terminal; the caller closes them."""

    master: int
    """Non-blocking."""
    slave: int
    """Kept open until the child has opened its own, otherwise the master would report the end."""
    slave_name: str


def open_pair(rows: int, cols: int) -> Pair:
    """Open a pair of the given size, in the kernel's default terminal modes.

    Raises OSError if none is available, InvalidArgument for an invalid size.
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
    """Resize a terminal; its foreground process group receives SIGWINCH.

    Raises InvalidArgument for an invalid size.
    """
    fcntl.ioctl(master, termios.TIOCSWINSZ, _winsize(rows, cols))


def _winsize(rows: int, cols: int) -> bytes:
    try:
        return struct.pack("HHHH", rows, cols, 0, 0)
    except struct.error as error:
        raise InvalidArgument("a terminal has 0 to 65535 rows and columns") from error


def login_shell() -> str:
    """Return the shell of the server's user in the user database."""
    try:
        return _shell_of(os.getuid())
    except KeyError:
        return FALLBACK_SHELL


@functools.cache  # failures are not cached: the lookup needs a free descriptor
def _shell_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_shell or FALLBACK_SHELL
