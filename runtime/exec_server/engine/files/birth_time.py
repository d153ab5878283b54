"""When a file was created: the one thing that Python does not ask Linux for."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800

# Of struct statx: its size, the mask of what the file system told, and the birth time.
_ANSWER_BYTES: Final = 256
_MASK: Final = struct.Struct("@I")
_BIRTH_TIME: Final = struct.Struct("@qI")
_BIRTH_TIME_OFFSET: Final = 80

_statx: Callable[..., int] | None = getattr(ctypes.CDLL(None), "statx", None)


def birth_time_ns(descriptor: int) -> int:
    """When an open file was created, in nanoseconds since 1970; 0 where nobody knows."""
    answer = ctypes.create_string_buffer(_ANSWER_BYTES)
    if _statx is None or _statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, answer) != 0:
        return 0
    (told,) = _MASK.unpack_from(answer)
    if not told & _STATX_BTIME:
        return 0
    seconds, nanoseconds = _BIRTH_TIME.unpack_from(answer, _BIRTH_TIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
