"""Entries of /proc through which the kernel is configured.

They belong to root, and for most of them the kernel requires no capability, so a sandboxed process
of root could write them. bubblewrap covers some, but not /proc/sys.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from typing import Final

_SAFE: Final = frozenset(("bus", "irq", "net", "pressure", "self", "sysrq-trigger", "thread-self"))
"""Entries that need no protection: links to a process's own files, the triggers of pressure, which
any user may set (proc(5)), and those that bubblewrap covers by itself."""


@functools.cache
def kernel_settings() -> tuple[str, ...]:
    """Return the names of entries to be mounted read-only; takes some milliseconds once."""
    if os.geteuid():
        return ("sys",)
    names = (name for name in os.listdir("/proc") if not name.isdecimal())
    others = sorted(name for name in names if name not in _SAFE | {"sys"})
    return ("sys", *(name for name in others if _has_writable_files(f"/proc/{name}")))


def _has_writable_files(path: str) -> bool:
    """Return True for a file that its owner may write, and for a directory that contains one."""
    files = [path]
    for directory, _, names in os.walk(path):
        files += (os.path.join(directory, name) for name in names)
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(file).st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IWUSR:
                return True
    return False
