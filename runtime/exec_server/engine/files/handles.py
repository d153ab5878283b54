"""File handles of a client, read and written in blocks (v2 fs/open, readBlock, writeBlock)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine.files.regular_file import open_regular
from exec_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from exec_server.engine.files.regular_file import OpenMode

MAX_HANDLES: Final = 128
"""Default limit of open handles per connection."""

MAX_ID_BYTES: Final = 32
"""Maximum length of a handle's id in UTF-8; it may be empty."""

MAX_BLOCK_BYTES: Final = 1024 * 1024
"""Maximum length of a block (v2 fs/readBlock, fs/writeBlock)."""

_MAX_OFFSET: Final = 2**63 - 1
"""Largest file offset of the kernel, a signed 64-bit integer."""


class Block(msgspec.Struct, frozen=True):
    """A block read from a file."""

    data: bytes
    eof: bool
    """True if fewer bytes were read than requested."""


class FileHandles:
    """Open files of one client, by the ids that it chose.

    A handle refers to the same file even after that is renamed or removed. The methods may be
    called in any thread, but not concurrently. Each raises InvalidRequest for an id of more than 32
    bytes. They never block on other processes.
    """

    def __init__(self, max_handles: int = MAX_HANDLES) -> None:
        self._max_handles = max_handles
        self._descriptors: dict[str, int] = {}

    def open(self, handle_id: str, path: str, mode: OpenMode = "read") -> None:
        """Open a regular file for reading, or create or truncate one for writing.

        Raises as ``check_free`` and ``open_regular`` do.
        """
        self.check_free(handle_id)
        self.adopt(handle_id, open_regular(path, mode))

    def check_free(self, handle_id: str) -> None:
        """Raise InvalidRequest if the id is in use, or if the limit of open handles is reached."""
        _check_id(handle_id)
        if handle_id in self._descriptors:
            raise InvalidRequest(f"file handle `{handle_id}` already exists")
        if len(self._descriptors) >= self._max_handles:
            raise InvalidRequest(
                f"at most {self._max_handles} file handles may be open per connection"
            )

    def adopt(self, handle_id: str, descriptor: int) -> None:
        """Take over a descriptor from ``open_regular`` under an unused id."""
        self._descriptors[handle_id] = descriptor

    def read_block(self, handle_id: str, offset: int, length: int) -> Block:
        """Read up to ``length`` bytes, 1 to 1 MiB, at ``offset``; none beyond the end of the file.

        Raises InvalidRequest for other lengths, NotFound for an unknown handle. An OSError closes
        the handle: EBADF if the file is open for writing, EINVAL for an offset near 2^63.
        """
        _check_id(handle_id)
        _check_block_length("read", length)
        descriptor = self._find(handle_id)
        try:
            data = _read(descriptor, offset, length)
        except OSError:
            self.close(handle_id)
            raise
        return Block(data, eof=len(data) < length)

    def write_block(self, handle_id: str, offset: int, data: bytes) -> None:
        """Write ``data``, 1 byte to 1 MiB, at ``offset``; a gap before it reads as zeros.

        Raises InvalidRequest for other lengths and beyond an offset of 2^63-1, NotFound for an
        unknown handle, OSError EBADF if the file is open for reading.
        """
        _check_id(handle_id)
        _check_block_length("write", len(data))
        if offset + len(data) > _MAX_OFFSET:
            raise InvalidRequest("file write range exceeds the signed 64-bit file offset limit")
        descriptor = self._find(handle_id)
        left = memoryview(data)
        while left:
            written = os.pwrite(descriptor, left, offset)
            left = left[written:]
            offset += written

    def close(self, handle_id: str) -> None:
        """Close a handle; unknown handles are ignored."""
        _check_id(handle_id)
        descriptor = self._descriptors.pop(handle_id, None)
        if descriptor is not None:
            os.close(descriptor)

    async def aclose(self) -> None:
        """Close all handles."""
        while self._descriptors:
            _, descriptor = self._descriptors.popitem()
            os.close(descriptor)

    def _find(self, handle_id: str) -> int:
        try:
            return self._descriptors[handle_id]
        except KeyError:
            raise NotFound(f"unknown file handle `{handle_id}`") from None


def _check_id(handle_id: str) -> None:
    if len(handle_id.encode()) > MAX_ID_BYTES:
        raise InvalidRequest(f"file handle ID must not exceed {MAX_ID_BYTES} bytes")


def _check_block_length(operation: str, length: int) -> None:
    if not 1 <= length <= MAX_BLOCK_BYTES:
        raise InvalidRequest(
            f"file {operation} block length must be between 1 and {MAX_BLOCK_BYTES}"
        )


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes, or up to the end of the file."""
    if offset > _MAX_OFFSET:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        # Local file systems return all bytes at once, some network file systems do not.
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
