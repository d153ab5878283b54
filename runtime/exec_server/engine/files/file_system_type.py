"""File systems on which inotify reports every change: those managed by this kernel alone."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_RELIABLE: Final = frozenset(
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
"""Magic numbers of linux/magic.h. Network file systems and FUSE are missing, because other hosts or
processes change them, as are /proc, /sys and the like, whose files change without events."""

_BUFFER_BYTES: Final = 256
_TYPE: Final = struct.Struct("@l")
"""The first member of struct statfs."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def reports_all_changes(path: bytes) -> bool:
    """Return True if inotify is reliable on the file system of ``path``. Raises OSError."""
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _libc.statfs(path, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (number,) = _TYPE.unpack_from(buffer)
    return number & 0xFFFFFFFF in _RELIABLE
