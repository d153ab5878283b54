"""Reading a file as a sequence of small pieces (fs/readFile)."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Final

from exec_server.engine.files.regular_file import open_regular
from exec_server.engine.paths import to_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from exec_server.engine.memory_budget import MemoryBudget

READ_LIMIT_BYTES: Final = 512 * 1024 * 1024
"""The largest file that is read (v1 fs/readFile)."""

PIECE_BYTES: Final = 128 * 1024
"""Largest bytes object ever made: above it the allocator maps and faults in fresh pages."""

_FIRST_READ_BYTES: Final = 16 * 1024
"""Tried first on a file of no announced size; most of those in /proc fit."""

_PIECES_PER_TURN: Final = 4
"""Pieces taken from an endless device before others on the event loop get their turn: about a
third of a millisecond."""


class ReadSource:
    """An opened file, read once from its beginning.

    ``size`` is the number of bytes that ``read`` will give. It is None where that cannot be known
    yet (FIFOs, terminals and other devices, long files of /proc): then ``await load()`` first.
    A file that is cut short while it is read ends early; what is appended meanwhile is left out.
    """

    __slots__ = (
        "_charged",
        "_descriptor",
        "_left",
        "_memory",
        "_pieces",
        "_waits_for_writer",
        "size",
    )

    size: int | None

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor opened with O_NONBLOCK; the caller closes it if this raises."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._descriptor: int | None = descriptor
        self._pieces: deque[bytes] = deque()
        self._waits_for_writer = stat.S_ISFIFO(status.st_mode)
        self._left = 0
        self._memory: MemoryBudget | None = None
        self._charged = 0
        self.size = None
        if not stat.S_ISREG(status.st_mode):
            return
        _check_size(status.st_size)
        if status.st_size > PIECE_BYTES:
            self.size = self._left = status.st_size
        else:
            self._read_small_file(descriptor, status.st_size)

    def _read_small_file(self, descriptor: int, announced: int) -> None:
        """Read a file whose announced size may say little: 0 in /proc, a page in /sys."""
        total = 0
        wanted = announced + 1 if announced else _FIRST_READ_BYTES
        while total <= PIECE_BYTES:
            try:
                piece = os.read(descriptor, wanted)
            except BlockingIOError:
                return
            if piece:
                self._pieces.append(piece)
                total += len(piece)
            # All that was announced and not the one byte more: no second call to see the end.
            if not piece or total == announced:
                self._set_loaded(total)
                return
            wanted = PIECE_BYTES

    def _set_loaded(self, total: int) -> None:
        self.size = total
        self._close_descriptor()

    def read(self, max_bytes: int, /) -> bytes:
        """The next bytes, at most ``max_bytes`` and 128 KiB; empty at the end.

        Never waits. Only for a source whose ``size`` is known. Raises OSError.
        """
        if self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > max_bytes:
                self._pieces.appendleft(piece[max_bytes:])
                piece = piece[:max_bytes]
            return piece
        if self._descriptor is None or not self._left:
            return b""
        piece = os.read(self._descriptor, min(max_bytes, PIECE_BYTES, self._left))
        self._left = self._left - len(piece) if piece else 0
        return piece

    async def load(self, memory: MemoryBudget) -> None:
        """Take everything into memory, so that ``size`` is known.

        It counts in ``memory`` until ``close``. Waits for a FIFO's first writer and until the last
        one is gone, without keeping anybody else waiting; may be cancelled, and has to be over
        before ``close``. Raises InvalidRequest above 512 MiB or without room in memory, or OSError.
        """
        descriptor = self._descriptor
        if self.size is not None or descriptor is None:
            return
        self._memory = memory
        self._charge(sum(map(len, self._pieces)))
        if self._waits_for_writer:
            # Until somebody has opened it for writing, a FIFO reads as ended.
            await _readable(descriptor)
        is_whole = False
        while not is_whole:
            try:
                async with memory.reading:
                    is_whole = self._load_some(descriptor)
                    await asyncio.sleep(0)
            except BlockingIOError:
                await _readable(descriptor)
        self._set_loaded(sum(map(len, self._pieces)))

    def _load_some(self, descriptor: int) -> bool:
        """Read one turn's share; return True at the end. Raises BlockingIOError to wait."""
        for _ in range(_PIECES_PER_TURN):
            piece = os.read(descriptor, PIECE_BYTES)
            if not piece:
                return True
            self._charge(len(piece))
            self._pieces.append(piece)
        return False

    def _charge(self, size: int) -> None:
        _check_size(self._charged + size)
        if self._memory is not None:
            self._memory.charge(size)
            self._charged += size

    def close(self) -> None:
        """Let go of the file and of what was read; harmless when repeated."""
        self._pieces.clear()
        self._left = 0
        if self._memory is not None:
            self._memory.release(self._charged)
            self._charged = 0
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def open_for_read(
    path: str, *, regular_only: bool = False, follow_symlinks: bool = True
) -> ReadSource:
    """Open a file without ever waiting for it (fs/readFile).

    Raises InvalidRequest if it is larger than 512 MiB, or OSError: EISDIR for a directory, ENXIO
    for a socket. With ``regular_only``, the rule of v2, and where links are not followed, raises
    as ``open_regular`` does.
    """
    return source_of(open_descriptor(path, regular_only, follow_symlinks=follow_symlinks))


def open_descriptor(path: str, regular_only: bool, *, follow_symlinks: bool) -> int:
    """What ``open_for_read`` makes a source of; raises as it does but for size and directories."""
    if regular_only or not follow_symlinks:
        return open_regular(path, "read", follow_symlinks=follow_symlinks)
    return os.open(to_native(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def source_of(descriptor: int) -> ReadSource:
    """The source of a descriptor, which it takes over; raises as ``open_for_read`` does."""
    try:
        return ReadSource(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _check_size(size: int) -> None:
    if size > READ_LIMIT_BYTES:
        raise InvalidRequest(f"file is too large to read: limit is {READ_LIMIT_BYTES} bytes")


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _set_ready, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set_ready(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
