"""Files in memory, to hand something to another process."""

from __future__ import annotations

import os


def memory_file(name: str, content: bytes) -> int:
    """A descriptor to read ``content`` from; ``name`` is for people who look at the process."""
    descriptor = os.memfd_create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
