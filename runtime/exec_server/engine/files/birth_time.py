"""Birth times of files, by statx(2), which Python does not support."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800

# struct statx: its size, the mask of valid members, and the birth time.
_BUFFER_BYTES: Final = 256
_MASK: Final = struct.Struct("@I")
_BIRTH_TIME: Final = struct.Struct("@qI")
_BIRTH_TIME_OFFSET: Final = 80

_statx: Callable[..., int] | None = getattr(ctypes.CDLL(None), "statx", None)


def birth_time_ns(descriptor: int) -> int:
    """Return the birth time of an open file in nanoseconds since the epoch; 0 if it is unknown."""
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _statx is None or _statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return 0
    (valid,) = _MASK.unpack_from(buffer)
    if not valid & _STATX_BTIME:
        return 0
    seconds, nanoseconds = _BIRTH_TIME.unpack_from(buffer, _BIRTH_TIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
