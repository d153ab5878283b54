"""Keeping a server's secrets from the programs it runs, which belong to the same user.

Linux shows a process's environment, memory and descriptors below ``/proc`` to every other process
of its user, unless the process cannot be dumped. A process with CAP_SYS_PTRACE, such as root's,
sees them all the same; from it only what is erased is kept.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_PR_SET_DUMPABLE: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


def forbid_inspection() -> None:
    """Keep other processes of the user from reading this one, and from attaching a debugger.

    Programs that it starts can be inspected as ever. Raises OSError.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def take_variable(name: str) -> bytes | None:
    """Remove an environment variable and return its value; None if it is not set.

    The value is also overwritten where the kernel put it: ``/proc/PID/environ`` shows that place.
    """
    key = os.fsencode(name)
    value = os.environb.get(key)
    if value is None:
        return None
    address = _libc.getenv(key)
    if address:
        ctypes.memset(address, 0, len(value))
    del os.environb[key]
    return value
