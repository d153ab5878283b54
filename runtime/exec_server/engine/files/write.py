"""Writing of whole files (fs/writeFile)."""

from __future__ import annotations

import asyncio
import os

from exec_server.engine.files.replace import Contents, put
from exec_server.engine.paths import to_native
from exec_server.errors import InvalidRequest


class PendingWrite:
    """Remainder of a write to a FIFO or terminal whose buffer is full."""

    __slots__ = ("_descriptor", "_left")

    def __init__(self, descriptor: int, left: memoryview) -> None:
        """Take over a non-blocking descriptor."""
        self._descriptor = descriptor
        self._left = left

    async def finish(self) -> None:
        """Write the remainder as the reader consumes it, and close the descriptor.

        Must be awaited exactly once, and may be cancelled. Raises OSError, EPIPE if the reader has
        closed the file.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        try:
            loop.add_writer(self._descriptor, self._advance, done)
            try:
                await done
            finally:
                loop.remove_writer(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _advance(self, done: asyncio.Future[None]) -> None:
        try:
            self._left = _write_some(self._descriptor, self._left)
        except OSError as error:
            if not done.done():
                done.set_exception(error)
            return
        if not self._left and not done.done():
            done.set_result(None)


def write_file(
    path: str,
    data: bytes | bytearray | memoryview,
    *,
    follow_symlinks: bool = True,
    durable: bool = False,
) -> PendingWrite | None:
    """Create a file with mode 0666 reduced by the umask, or replace an existing one's contents.

    Regular files are written atomically (see ``replace``). The target of a dangling link is
    created; a link that is not followed is OSError ELOOP. Returns None when everything is written,
    or the remainder for a FIFO or terminal whose buffer is full. A FIFO without a reader is OSError
    ENXIO. Raises InvalidRequest for a special file if links are not followed.
    """
    view = memoryview(data)
    contents = Contents(len(view), lambda descriptor: _write_all(descriptor, view))
    descriptor = put(to_native(path), contents, follow_symlinks=follow_symlinks, durable=durable)
    if descriptor is None:
        return None
    if not follow_symlinks:
        os.close(descriptor)
        raise InvalidRequest("path is not a regular file")
    try:
        left = _write_some(descriptor, view)
    except BaseException:
        os.close(descriptor)
        raise
    if left:
        return PendingWrite(descriptor, left)
    os.close(descriptor)
    return None


def _write_all(descriptor: int, data: memoryview) -> None:
    """Write to a regular file, which never blocks."""
    while data:
        data = data[os.write(descriptor, data) :]


def _write_some(descriptor: int, data: memoryview) -> memoryview:
    """Write until the descriptor would block; return the remainder."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            break
    return data
