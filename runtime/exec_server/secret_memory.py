"""Protection of a server's secrets from the programs that it runs as the same user.

Linux shows the environment, memory and descriptors of a process below ``/proc`` to all other
processes of its user, unless the process is not dumpable. Processes with CAP_SYS_PTRACE, such as
those of root, can see them anyway; only erasing a secret hides it from them.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_PR_SET_DUMPABLE: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


def forbid_inspection() -> None:
    """Prevent other processes of the user from reading this one or attaching a debugger.

    Programs that it starts can be inspected as usual. Raises OSError.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def take_variable(name: str) -> bytes | None:
    """Remove an environment variable and return its value; None if it is not set.

    The value is also overwritten in the memory that ``/proc/PID/environ`` shows.
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
