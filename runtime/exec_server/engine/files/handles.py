"""Files held open by a client, read and written in blocks (v2 fs/open, readBlock, writeBlock)."""

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
"""Files that one client may hold open, unless somebody says otherwise."""

MAX_ID_BYTES: Final = 32
"""Of a handle's id in UTF-8; it may be empty."""

MAX_BLOCK_BYTES: Final = 1024 * 1024

_MAX_OFFSET: Final = 2**63 - 1
"""The operating system's file offsets have 64 bits and a sign."""


class Block(msgspec.Struct, frozen=True):
    """A piece of a file."""

    data: bytes
    eof: bool
    """Whether fewer bytes were found than asked for."""


class FileHandles:
    """The files that one client holds open, by the ids that it chose.

    A handle stays with the file it opened, whatever is renamed or removed. The methods are to be
    called one after the other, in any thread; each refuses an id of more than 32 bytes with
    InvalidRequest. They never wait for another process.
    """

    def __init__(self, max_handles: int = MAX_HANDLES) -> None:
        self._max_handles = max_handles
        self._descriptors: dict[str, int] = {}

    def open(self, handle_id: str, path: str, mode: OpenMode = "read") -> None:
        """Open a regular file to read it, or an empty one to write, created if it is missing.

        Raises as ``check_free`` and ``open_regular`` do.
        """
        self.check_free(handle_id)
        self.adopt(handle_id, open_regular(path, mode))

    def check_free(self, handle_id: str) -> None:
        """Raise InvalidRequest if the id is in use, and for one file too many."""
        _check_id(handle_id)
        if handle_id in self._descriptors:
            raise InvalidRequest(f"file handle `{handle_id}` already exists")
        if len(self._descriptors) >= self._max_handles:
            raise InvalidRequest(
                f"at most {self._max_handles} file handles may be open per connection"
            )

    def adopt(self, handle_id: str, descriptor: int) -> None:
        """Take over what ``open_regular`` has opened, under an id that is free."""
        self._descriptors[handle_id] = descriptor

    def read_block(self, handle_id: str, offset: int, length: int) -> Block:
        """Read up to ``length`` bytes, 1 to 1 MiB, from ``offset`` on; none beyond the end.

        Raises InvalidRequest for another length, NotFound for an unknown handle. An OSError,
        EBADF if the file is open to write, EINVAL for an offset near 2^63, ends the handle.
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
        """Write ``data``, 1 byte to 1 MiB, from ``offset`` on; a gap before it reads as zeros.

        Raises InvalidRequest for another length and beyond an offset of 2^63-1, NotFound for an
        unknown handle, OSError: EBADF if the file is open to read.
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
        """Let go of a file; harmless for an unknown handle."""
        _check_id(handle_id)
        descriptor = self._descriptors.pop(handle_id, None)
        if descriptor is not None:
            os.close(descriptor)

    async def aclose(self) -> None:
        """Let go of every file."""
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
    """Read until the length or the end of the file is reached."""
    if offset > _MAX_OFFSET:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        # A regular file gives all at once, except over some networks.
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
