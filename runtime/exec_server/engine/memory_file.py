"""Files in memory, for passing data to another process."""

from __future__ import annotations

import os


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file with ``content``; ``name`` is visible in /proc/PID/fd."""
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
