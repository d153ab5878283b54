"""Reading of files in chunks (fs/readFile)."""

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
"""Maximum size of a file (v1 fs/readFile)."""

CHUNK_BYTES: Final = 128 * 1024
"""Maximum size of a chunk: for larger objects the allocator maps and faults in new pages."""

_FIRST_READ_BYTES: Final = 16 * 1024
"""Size of the first read from a file that reports no size; most files of /proc fit."""

_CHUNKS_PER_TURN: Final = 4
"""Chunks of an endless device per turn of the event loop: about a third of a millisecond."""


class ReadSource:
    """An open file, read once from its beginning.

    ``size`` is the number of bytes that ``read`` returns in total. It is None if it is not known
    yet (FIFOs, terminals and other devices, long files of /proc); ``load`` must be awaited then.
    Fewer bytes are returned if the file is truncated meanwhile; bytes appended meanwhile are
    ignored.
    """

    __slots__ = (
        "_charged",
        "_chunks",
        "_descriptor",
        "_left",
        "_memory",
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
        self._chunks: deque[bytes] = deque()
        self._waits_for_writer = stat.S_ISFIFO(status.st_mode)
        self._left = 0
        self._memory: MemoryBudget | None = None
        self._charged = 0
        self.size = None
        if not stat.S_ISREG(status.st_mode):
            return
        _check_size(status.st_size)
        if status.st_size > CHUNK_BYTES:
            self.size = self._left = status.st_size
        else:
            self._read_small_file(descriptor, status.st_size)

    def _read_small_file(self, descriptor: int, reported: int) -> None:
        """Read a small file, whose reported size may be wrong: 0 in /proc, a page in /sys."""
        total = 0
        wanted = reported + 1 if reported else _FIRST_READ_BYTES
        while total <= CHUNK_BYTES:
            try:
                chunk = os.read(descriptor, wanted)
            except BlockingIOError:
                return
            if chunk:
                self._chunks.append(chunk)
                total += len(chunk)
            # One byte more was requested than reported, so this is the end of the file.
            if not chunk or total == reported:
                self._set_loaded(total)
                return
            wanted = CHUNK_BYTES

    def _set_loaded(self, total: int) -> None:
        self.size = total
        self._close_descriptor()

    def read(self, max_bytes: int, /) -> bytes:
        """Return the next bytes, at most ``max_bytes`` and 128 KiB; empty at the end.

        Requires a known ``size``, and never blocks. Raises OSError.
        """
        if self._chunks:
            chunk = self._chunks.popleft()
            if len(chunk) > max_bytes:
                self._chunks.appendleft(chunk[max_bytes:])
                chunk = chunk[:max_bytes]
            return chunk
        if self._descriptor is None or not self._left:
            return b""
        chunk = os.read(self._descriptor, min(max_bytes, CHUNK_BYTES, self._left))
        self._left = self._left - len(chunk) if chunk else 0
        return chunk

    async def load(self, memory: MemoryBudget) -> None:
        """Read all contents into memory, so that ``size`` is known.

        The bytes are counted in ``memory`` until ``close``. For a FIFO, waits for the first writer
        and until the last one has closed it. May be cancelled, and must not run during ``close``.
        Raises InvalidRequest above 512 MiB or if the memory budget is exceeded, or OSError.
        """
        descriptor = self._descriptor
        if self.size is not None or descriptor is None:
            return
        self._memory = memory
        self._charge(sum(map(len, self._chunks)))
        if self._waits_for_writer:
            # Without a writer, a FIFO is always at its end.
            await _readable(descriptor)
        is_complete = False
        while not is_complete:
            try:
                async with memory.reading:
                    is_complete = self._load_some(descriptor)
                    await asyncio.sleep(0)
            except BlockingIOError:
                await _readable(descriptor)
        self._set_loaded(sum(map(len, self._chunks)))

    def _load_some(self, descriptor: int) -> bool:
        """Read some chunks; return True at the end. Raises BlockingIOError if none is available."""
        for _ in range(_CHUNKS_PER_TURN):
            chunk = os.read(descriptor, CHUNK_BYTES)
            if not chunk:
                return True
            self._charge(len(chunk))
            self._chunks.append(chunk)
        return False

    def _charge(self, size: int) -> None:
        _check_size(self._charged + size)
        if self._memory is not None:
            self._memory.charge(size)
            self._charged += size

    def close(self) -> None:
        """Close the file and release the memory; idempotent."""
        self._chunks.clear()
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
    """Open a file for reading without blocking (fs/readFile).

    Raises InvalidRequest if it is larger than 512 MiB, or OSError: EISDIR for a directory, ENXIO
    for a socket. With ``regular_only``, as in v2, and if links are not followed, raises as
    ``open_regular`` does.
    """
    return source_of(open_descriptor(path, regular_only, follow_symlinks=follow_symlinks))


def open_descriptor(path: str, regular_only: bool, *, follow_symlinks: bool) -> int:
    """Open a file as ``open_for_read`` does, without a check of its size and for directories."""
    if regular_only or not follow_symlinks:
        return open_regular(path, "read", follow_symlinks=follow_symlinks)
    return os.open(to_native(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def source_of(descriptor: int) -> ReadSource:
    """Return a source that takes over a descriptor. Raises as ``open_for_read`` does."""
    try:
        return ReadSource(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _check_size(size: int) -> None:
    if size > READ_LIMIT_BYTES:
        raise InvalidRequest(f"file is too large to read: limit is {READ_LIMIT_BYTES} bytes")


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor is readable."""
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
