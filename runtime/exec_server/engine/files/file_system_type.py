"""Which file systems tell of every change: those that live in this kernel alone."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_TELLING: Final = frozenset(
    {
        0x01021994,  # tmpfs, devtmpfs
        0x2FC12FC1,  # zfs
        0x58465342,  # xfs
        0x73717368,  # squashfs
        0x794C7630,  # overlay
        0x858458F6,  # ramfs
        0x9123683E,  # btrfs
        0xCA451A4E,  # bcachefs
        0xE0F5E1E2,  # erofs
        0xEF53,  # ext2, ext3, ext4
        0xF2F52010,  # f2fs
    }
)
"""The magic numbers of linux/magic.h. Not there: network file systems and FUSE, which others
change; /proc, /sys and the like, whose files come and go without events."""

_ANSWER_BYTES: Final = 256
_TYPE: Final = struct.Struct("@l")
"""The first member of struct statfs."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def tells_of_changes(path: bytes) -> bool:
    """Whether inotify misses nothing on the file system of ``path``. Raises OSError."""
    answer = ctypes.create_string_buffer(_ANSWER_BYTES)
    if _libc.statfs(path, answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (number,) = _TYPE.unpack_from(answer)
    return number & 0xFFFFFFFF in _TELLING
