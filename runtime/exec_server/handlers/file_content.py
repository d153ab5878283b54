"""File content between the wire and the disk, in whatever revision it came."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import pybase64

from exec_server.engine import files
from exec_server.errors import InvalidRequest
from exec_server.long_message import PIECE_BYTES, StreamedBytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.connection import Connection

LARGE_WRITE_BYTES: Final = 1024 * 1024
"""Files above this are written in a thread, so that nothing else has to wait."""


def decode_content(text: str) -> bytes:
    """The bytes of fs/writeFile.

    Raises InvalidRequest for anything but strict base64: padded, no white space, unused bits zero.
    """
    try:
        data = pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"fs/writeFile requires valid base64 dataBase64: {error}") from None
    rest = len(data) % 3
    if rest and not text.endswith(pybase64.b64encode_as_string(data[-rest:])):
        raise InvalidRequest(
            "fs/writeFile requires valid base64 dataBase64: non-zero trailing bits"
        )
    return data


async def read_content(connection: Connection, source: files.ReadSource) -> bytes:
    """The content of an open file; a large one is read while it is sent. Takes the source over."""
    try:
        if source.size is None:
            # A FIFO may have no writer for long; it changes nothing others could depend on.
            connection.leave_lane()
            await source.load()
        assert source.size is not None
        if source.size > PIECE_BYTES:
            return StreamedBytes.of(source, source.size)
        data = source.read(source.size) if source.size else b""
    except BaseException:
        source.close()
        raise
    source.close()
    return data


async def write_content(data: bytes, write: Callable[[bytes], files.PendingWrite | None]) -> None:
    """Write with ``write``, in a thread if there is much, and wait for what it leaves pending."""
    pending = await asyncio.to_thread(write, data) if len(data) > LARGE_WRITE_BYTES else write(data)
    if pending is not None:
        await pending.finish()


async def remove_path(
    path: str, *, recursive: bool, force: bool, follow_symlinks: bool = True
) -> None:
    """Remove what is there, a tree in a thread."""
    if recursive and os.path.isdir(path) and not os.path.islink(path):
        await asyncio.to_thread(
            files.remove, path, recursive, force, follow_symlinks=follow_symlinks
        )
    else:
        files.remove(path, recursive, force, follow_symlinks=follow_symlinks)
