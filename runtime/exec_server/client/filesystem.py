"""Files of the server's machine, with the names that ``pathlib`` and ``os`` have for them.

Paths are absolute and native. What the server's operating system refuses is raised as it would be
here: ``FileNotFoundError``, ``PermissionError``, ``IsADirectoryError`` and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

from exec_server.client import arguments
from exec_server.client.arguments import Data, Text, absolute
from exec_server.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionLost,
    ServerError,
    Unsupported,
    os_error,
)
from exec_server.client.walk_fallback import list_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from types import TracebackType

    from exec_server.client.revisions.base import DirEntry, FileStatus, Tree
    from exec_server.client.session import Session

T = TypeVar("T")

Path: TypeAlias = Text
"""An absolute path of the server's machine."""

BLOCK_BYTES: Final = 1024 * 1024
"""What one message reads or writes of an open file, the most that servers allow."""

WHOLE_FILE_BYTES: Final = 47 * 1024 * 1024
"""The largest file that is written in one message, which servers limit to 64 MiB of base64."""

BLOCKS_AHEAD: Final = 4
"""Blocks asked for before the first of them has come, or sent before it has been written."""


class FileSystem:
    """The files of the server's machine. ``Client.fs`` makes it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._handles = 0

    # Whole files

    async def read_bytes(self, path: Path) -> bytes:
        """The content of a file, of up to 512 MiB."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            try:
                return await self._session.revision.read_file(name)
            except ServerError as error:
                if not error.message.endswith("is not a file"):
                    raise
                is_dir = (await self._session.revision.status(name)).is_dir
                code = errno.EISDIR if is_dir else errno.EINVAL
                raise OSError(code, os.strerror(code), name) from error

    async def read_text(self, path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of a file as text; line ends are left as they are."""
        return (await self.read_bytes(path)).decode(encoding, errors)

    async def write_bytes(self, path: Path, data: Data) -> None:
        """Create a file, or replace the content of one.

        Raises Unsupported for more than 47 MiB where the server cannot take files in blocks.
        """
        name = absolute("path", path)
        data = arguments.data("data", data)
        if len(data) <= BLOCK_BYTES or not await self._session.revision.can_stream_writes():
            _check_size(len(data), self._session.revision.name)
            with _raising_os_errors(name):
                await self._session.revision.write_file(name, data)
            return
        async with await self.open_write(name) as file:
            await file.write(data)

    async def write_text(
        self, path: Path, text: str, encoding: str = "utf-8", errors: str = "strict"
    ) -> None:
        """Create a file with this text, or replace the content of one."""
        await self.write_bytes(path, text.encode(encoding, errors))

    # Large files

    async def open_read(self, path: Path) -> FileReader:
        """Open a regular file to read it piece by piece.

        Revision v1 has no open files: there the whole file, of up to 512 MiB, is fetched at once.
        """
        name = absolute("path", path)
        revision = self._session.revision
        if not revision.can_stream_reads:
            return FileReader(self._session, name, None, await self.read_bytes(name))
        handle = self._next_handle()
        with _raising_os_errors(name):
            await revision.open_file(handle, name, writes=False)
        return FileReader(self._session, name, handle, b"")

    async def open_write(self, path: Path) -> FileWriter:
        """Create or empty a file to write it piece by piece.

        Where the server cannot take files in blocks (v1, and v2 before codex 0.162), the content is
        collected, up to 47 MiB of it, and written when the file is closed.
        """
        name = absolute("path", path)
        revision = self._session.revision
        if not await revision.can_stream_writes():
            return FileWriter(self._session, name, None)
        handle = self._next_handle()
        with _raising_os_errors(name):
            await revision.open_file(handle, name, writes=True)
        return FileWriter(self._session, name, handle)

    def _next_handle(self) -> str:
        self._handles += 1
        return f"file-{self._handles}"

    # Looking around

    async def stat(self, path: Path) -> FileStatus:
        """What the path leads to, symbolic links followed."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            return await self._session.revision.status(name)

    async def exists(self, path: Path) -> bool:
        """Whether the path leads to something."""
        try:
            await self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def is_file(self, path: Path) -> bool:
        """Whether the path leads to a regular file."""
        try:
            return (await self.stat(path)).is_file
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def is_dir(self, path: Path) -> bool:
        """Whether the path leads to a directory."""
        try:
            return (await self.stat(path)).is_dir
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def listdir(self, path: Path) -> list[DirEntry]:
        """The entries of a directory in no particular order, without links that lead nowhere."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            return await self._session.revision.read_directory(name)

    async def walk(
        self, top: Path, *, follow_symlinks: bool = False
    ) -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """Each directory of a tree with the names of its directories and of everything else.

        From the top down, names in order, like ``os.walk``: directories that the caller takes out
        of the list are not descended into, and those that cannot be listed are left out.
        ``follow_symlinks`` descends into directories behind links, even in circles.
        """
        waiting = [absolute("top", top)]
        while waiting:
            directory = waiting.pop()
            try:
                entries = await self.listdir(directory)
            except OSError:
                continue
            directories = sorted(entry.name for entry in entries if entry.is_dir)
            others = sorted(entry.name for entry in entries if not entry.is_dir)
            yield directory, directories, others
            paths = [posixpath.join(directory, name) for name in directories]
            if not follow_symlinks:
                paths = await self._without_links(paths)
            waiting.extend(reversed(paths))

    async def _without_links(self, paths: list[str]) -> list[str]:
        found = await asyncio.gather(*map(self.stat, paths), return_exceptions=True)
        kept = []
        for path, status in zip(paths, found, strict=True):
            if isinstance(status, BaseException):
                if not isinstance(status, OSError):
                    raise status
            elif not status.is_symlink:
                kept.append(path)
        return kept

    async def tree(
        self, top: Path, *, follow_symlinks: bool = False, prune_hidden: bool = False
    ) -> Tree:
        """The regular files and directories below a directory, at once.

        One request where the server has one for it (v2), and otherwise one for each directory.
        Up to 64 levels, 10,000 directories and 50,000 entries are listed. Links, pipes, sockets
        and devices are left out.

        follow_symlinks: list links to directories as directories, and descend into each once.
        prune_hidden: do not descend into directories whose name begins with a dot.

        Use ``walk`` to see links too, or to choose on the way.
        """
        name = absolute("top", top)
        revision = self._session.revision
        with _raising_os_errors(name):
            if revision.has_tree:
                return await revision.tree(
                    name, follow_symlinks=follow_symlinks, prune_hidden=prune_hidden
                )
            return await list_tree(
                revision, name, follow_symlinks=follow_symlinks, prune_hidden=prune_hidden
            )

    async def resolve(self, path: Path) -> str:
        """The path of an existing file without symbolic links (from codex 0.137 on)."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            return await self._session.revision.canonicalize(name)

    # Changing

    async def mkdir(self, path: Path) -> None:
        """Create a directory, whose parent exists."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            await self._session.revision.create_directory(name, recursive=False)

    async def makedirs(self, path: Path) -> None:
        """Create a directory and its parents, as far as they are missing."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            await self._session.revision.create_directory(name, recursive=True)

    async def remove(
        self, path: Path, *, recursive: bool = False, missing_ok: bool = False
    ) -> None:
        """Remove a file, a symbolic link or an empty directory; ``recursive``: a whole tree."""
        name = absolute("path", path)
        with _raising_os_errors(name):
            await self._session.revision.remove(name, recursive=recursive, force=missing_ok)

    async def copy(self, source: Path, destination: Path, *, recursive: bool = False) -> None:
        """Copy a file or a symbolic link within the server; ``recursive``: or a directory."""
        name = absolute("source", source)
        target = absolute("destination", destination)
        with _raising_os_errors(name, target):
            await self._session.revision.copy(name, target, recursive=recursive)


class FileReader:
    """An open file, read from its start. ``FileSystem.open_read`` makes it.

    Close it, or use it in ``async with``. Iterating yields its content in pieces of up to 1 MiB.
    Blocks are fetched ahead, so that the way to the server and back is waited for once.
    """

    def __init__(self, session: Session, path: str, handle: str | None, content: bytes) -> None:
        self._session = session
        self._path = path
        self._handle = handle
        self._generation = session.generation
        self._buffer = bytearray(content)
        self._asked = 0
        self._at_end = handle is None
        self._blocks: deque[asyncio.Task[bytes]] = deque()

    async def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, by default all that is left; empty at the end."""
        while (size < 0 or len(self._buffer) < size) and await self._fetch():
            pass
        taken = bytes(self._buffer if size < 0 else self._buffer[:size])
        del self._buffer[: len(taken)]
        return taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece."""
        if not self._buffer:
            await self._fetch()
        if not self._buffer:
            raise StopAsyncIteration
        piece = bytes(self._buffer[:BLOCK_BYTES])
        del self._buffer[: len(piece)]
        return piece

    async def _fetch(self) -> bool:
        """Add the next block to the buffer; false at the end."""
        if self._at_end:
            return False
        while len(self._blocks) < BLOCKS_AHEAD:
            self._blocks.append(_begin(self._read_block(self._asked)))
            self._asked += BLOCK_BYTES
        with _raising_os_errors(self._path):
            block = await asyncio.shield(self._blocks[0])
        self._blocks.popleft()
        self._buffer += block
        if len(block) < BLOCK_BYTES:
            self._at_end = True
            _abandon(self._blocks)
        return bool(block)

    async def _read_block(self, offset: int) -> bytes:
        assert self._handle is not None
        with _open_on(self._session, self._generation, self._path):
            block = await self._session.revision.read_block(self._handle, offset, BLOCK_BYTES)
        if len(block) > BLOCK_BYTES:
            raise BadAnswer(f"fs/readBlock: {len(block)} bytes instead of up to {BLOCK_BYTES}")
        return block

    async def aclose(self) -> None:
        """Close the file."""
        self._at_end = True
        self._buffer.clear()
        _abandon(self._blocks)
        handle, self._handle = self._handle, None
        await _close_handle(self._session, self._generation, handle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class FileWriter:
    """A file that is being written from its start. ``FileSystem.open_write`` makes it.

    Close it, or use it in ``async with``; what was written is certain to be there after that. Left
    by way of an exception it is closed with what had been written by then.
    """

    def __init__(self, session: Session, path: str, handle: str | None) -> None:
        self._session = session
        self._path = path
        self._handle = handle
        self._generation = session.generation
        self._is_open = True
        self._buffer = bytearray()
        self._written = 0
        self._blocks: deque[asyncio.Task[None]] = deque()

    async def write(self, data: Data) -> None:
        """Write behind what was written; returns when it is on its way, not when it is there.

        Errors of earlier writes may be raised.
        """
        if not self._is_open:
            raise ValueError("the file is closed")
        data = arguments.data("data", data)
        self._buffer += data
        if self._handle is None:
            _check_size(len(self._buffer), self._session.revision.name)
            return
        while len(self._buffer) >= BLOCK_BYTES:
            await self._send(bytes(self._buffer[:BLOCK_BYTES]))
            del self._buffer[:BLOCK_BYTES]

    async def _send(self, block: bytes) -> None:
        while len(self._blocks) >= BLOCKS_AHEAD:
            await self._settle_one()
        self._blocks.append(_begin(self._write_block(self._written, block)))
        self._written += len(block)

    async def _settle_one(self) -> None:
        with _raising_os_errors(self._path):
            await asyncio.shield(self._blocks[0])
        self._blocks.popleft()

    async def _write_block(self, offset: int, block: bytes) -> None:
        assert self._handle is not None
        with _open_on(self._session, self._generation, self._path):
            await self._session.revision.write_block(self._handle, offset, block)

    async def aclose(self) -> None:
        """Write what is left, and close the file. Raises what made a write fail."""
        if not self._is_open:
            return
        self._is_open = False
        if self._handle is None:
            with _raising_os_errors(self._path):
                await self._session.revision.write_file(self._path, bytes(self._buffer))
            return
        try:
            if self._buffer:
                await self._send(bytes(self._buffer))
            while self._blocks:
                await self._settle_one()
        finally:
            _abandon(self._blocks)
            await _close_handle(self._session, self._generation, self._handle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.aclose()
            return
        with contextlib.suppress(ClientError, OSError):
            await self.aclose()


@contextlib.contextmanager
def _raising_os_errors(path: str, second: str | None = None) -> Iterator[None]:
    """Raise what the server's operating system refuses as it would be raised here.

    ``second``: the other path of a request that has two.
    """
    try:
        yield
    except ServerError as error:
        failure = os_error(error, path, second)
        raise error if failure is None else failure from error


def _begin(request: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Send a request whose outcome may never be looked at."""
    task = asyncio.create_task(request)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


def _abandon(blocks: deque[asyncio.Task[Any]]) -> None:
    """Forget requests, and what becomes of them."""
    for block in blocks:
        block.cancel()
    blocks.clear()


def _check_size(size: int, revision: str) -> None:
    if size > WHOLE_FILE_BYTES:
        raise Unsupported(
            f"this server takes files of up to {WHOLE_FILE_BYTES} bytes in revision {revision}, "
            f"not {size}"
        )


@contextlib.contextmanager
def _open_on(session: Session, generation: int, path: str) -> Iterator[None]:
    """Use a file that is open on one connection of the session and on no other."""
    lost = f"{path} was open on a connection that was lost"
    if session.generation != generation:
        raise ConnectionLost(lost, was_sent=False)
    try:
        yield
    except ConnectionLost as error:
        raise ConnectionLost(lost) from error


async def _close_handle(session: Session, generation: int, handle: str | None) -> None:
    if handle is not None and session.generation == generation and session.failure is None:
        with contextlib.suppress(ClientError):
            await session.revision.close_file(handle)
