"""Files of the server's machine, with the method names of ``pathlib`` and ``os``.

Paths are absolute and native. Errors of the server's operating system are raised as a local call
would raise them: ``FileNotFoundError``, ``PermissionError``, ``IsADirectoryError`` and so on.

Every method takes a ``timeout``; see ``Client``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
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
"""Absolute path on the server's machine."""

BLOCK_BYTES: Final = 1024 * 1024
"""Bytes of an open file that one message reads or writes, the maximum that servers allow."""

WHOLE_FILE_BYTES: Final = 47 * 1024 * 1024
"""Largest file written by one message; servers limit messages to 64 MiB, in base64."""

BLOCKS_AHEAD: Final = 4
"""Blocks requested or sent ahead of the first answer, which hides the round-trip time."""


class FileSystem:
    """Files of the server's machine: ``Client.fs``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._handles = 0

    @contextlib.asynccontextmanager
    async def _request(
        self, action: str, path: str, second: str | None = None, *, timeout: float | None
    ) -> AsyncIterator[None]:
        """Bound a request in time, and raise its errors as ``OSError``."""
        arguments.seconds("timeout", timeout)
        async with self._session.deadline(timeout, f"{action} {path!r}"):
            with _raising_os_errors(path, second):
                yield

    # Whole files

    async def read_bytes(self, path: Path, *, timeout: float | None = None) -> bytes:
        """Return the content of a file of up to 512 MiB."""
        name = absolute("path", path)
        async with self._request("read", name, timeout=timeout):
            try:
                return await self._session.revision.read_file(name)
            except ServerError as error:
                if not error.message.endswith("is not a file"):
                    raise
                is_dir = (await self._session.revision.status(name)).is_dir
                code = errno.EISDIR if is_dir else errno.EINVAL
                raise OSError(code, os.strerror(code), name) from error

    async def read_text(
        self,
        path: Path,
        encoding: str = "utf-8",
        errors: str = "strict",
        *,
        timeout: float | None = None,
    ) -> str:
        """Return the content of a file as text, with its line ends unchanged."""
        return (await self.read_bytes(path, timeout=timeout)).decode(encoding, errors)

    async def write_bytes(self, path: Path, data: Data, *, timeout: float | None = None) -> None:
        """Create a file or replace its content.

        Raises Unsupported for more than 47 MiB where the server cannot write files in blocks (v1,
        and v2 before codex 0.162).
        """
        name = absolute("path", path)
        data = arguments.data("data", data)
        revision = self._session.revision
        async with self._request("write", name, timeout=timeout):
            if len(data) <= BLOCK_BYTES or not await revision.can_stream_writes():
                _check_size(len(data), revision.name)
                await revision.write_file(name, data)
                return
            async with await self.open_write(name) as file:
                await file.write(data)

    async def write_text(
        self,
        path: Path,
        text: str,
        encoding: str = "utf-8",
        errors: str = "strict",
        *,
        timeout: float | None = None,
    ) -> None:
        """Create a file or replace its content with text; line ends are written unchanged."""
        await self.write_bytes(path, text.encode(encoding, errors), timeout=timeout)

    # Large files

    async def open_read(self, path: Path, *, timeout: float | None = None) -> FileReader:
        """Open a regular file for reading in pieces.

        Revision v1 has no open files; the whole file, of up to 512 MiB, is read at once.
        """
        name = absolute("path", path)
        revision = self._session.revision
        if not revision.can_stream_reads:
            return FileReader(
                self._session, name, None, await self.read_bytes(name, timeout=timeout)
            )
        handle = self._next_handle()
        async with self._request("open", name, timeout=timeout):
            await revision.open_file(handle, name, writes=False)
        return FileReader(self._session, name, handle, b"")

    async def open_write(self, path: Path, *, timeout: float | None = None) -> FileWriter:
        """Create or truncate a file for writing in pieces.

        Where the server cannot write files in blocks (v1, and v2 before codex 0.162), up to 47 MiB
        are collected and written when the file is closed.
        """
        name = absolute("path", path)
        revision = self._session.revision
        async with self._request("open", name, timeout=timeout):
            if not await revision.can_stream_writes():
                return FileWriter(self._session, name, None)
            handle = self._next_handle()
            await revision.open_file(handle, name, writes=True)
        return FileWriter(self._session, name, handle)

    def _next_handle(self) -> str:
        self._handles += 1
        return f"file-{self._handles}"

    # Status and listings

    async def stat(self, path: Path, *, timeout: float | None = None) -> FileStatus:
        """Return the status of a file; symbolic links are followed."""
        name = absolute("path", path)
        async with self._request("stat", name, timeout=timeout):
            return await self._session.revision.status(name)

    async def exists(self, path: Path, *, timeout: float | None = None) -> bool:
        """Return true if the path leads to an existing file of any kind."""
        try:
            await self.stat(path, timeout=timeout)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def is_file(self, path: Path, *, timeout: float | None = None) -> bool:
        """Return true if the path leads to a regular file."""
        try:
            return (await self.stat(path, timeout=timeout)).is_file
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def is_dir(self, path: Path, *, timeout: float | None = None) -> bool:
        """Return true if the path leads to a directory."""
        try:
            return (await self.stat(path, timeout=timeout)).is_dir
        except (FileNotFoundError, NotADirectoryError):
            return False

    async def listdir(self, path: Path, *, timeout: float | None = None) -> list[DirEntry]:
        """Return the entries of a directory, in no particular order.

        The servers leave out dangling symbolic links.
        """
        name = absolute("path", path)
        async with self._request("list", name, timeout=timeout):
            return await self._session.revision.read_directory(name)

    async def walk(
        self, top: Path, *, follow_symlinks: bool = False, timeout: float | None = None
    ) -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """Yield each directory of a tree, its subdirectories and its other entries.

        Walks top down, in order of names, like ``os.walk``: directories that the caller removes
        from the list are not visited, and those that cannot be listed are skipped.
        ``follow_symlinks`` visits directories behind links, even in cycles. ``timeout`` bounds
        each request.
        """
        waiting = [absolute("top", top)]
        while waiting:
            directory = waiting.pop()
            try:
                entries = await self.listdir(directory, timeout=timeout)
            except OSError as error:
                # A call that timed out is no reason to report a smaller tree.
                if isinstance(error, ClientError):
                    raise
                continue
            directories = sorted(entry.name for entry in entries if entry.is_dir)
            others = sorted(entry.name for entry in entries if not entry.is_dir)
            yield directory, directories, others
            paths = [posixpath.join(directory, name) for name in directories]
            if not follow_symlinks:
                paths = await self._without_links(paths, timeout)
            waiting.extend(reversed(paths))

    async def _without_links(self, paths: list[str], timeout: float | None) -> list[str]:
        found = await asyncio.gather(
            *(self.stat(path, timeout=timeout) for path in paths), return_exceptions=True
        )
        kept = []
        for path, status in zip(paths, found, strict=True):
            if isinstance(status, BaseException):
                if not isinstance(status, OSError) or isinstance(status, ClientError):
                    raise status
            elif not status.is_symlink:
                kept.append(path)
        return kept

    async def tree(
        self,
        top: Path,
        *,
        follow_symlinks: bool = False,
        prune_hidden: bool = False,
        timeout: float | None = None,
    ) -> Tree:
        """Return the regular files and directories below a directory.

        Takes one request in v2, and one for each directory otherwise. Up to 64 levels, 10,000
        directories and 50,000 entries are listed. Links, pipes, sockets and devices are left out.

        follow_symlinks: list links to directories as directories, and visit each target once.
        prune_hidden: do not visit directories whose name begins with a dot.

        Use ``walk`` to list links too, or to select directories on the way.
        """
        name = absolute("top", top)
        revision = self._session.revision
        async with self._request("list", name, timeout=timeout):
            if revision.has_tree:
                return await revision.tree(
                    name, follow_symlinks=follow_symlinks, prune_hidden=prune_hidden
                )
            return await list_tree(
                revision, name, follow_symlinks=follow_symlinks, prune_hidden=prune_hidden
            )

    async def resolve(self, path: Path, *, timeout: float | None = None) -> str:
        """Return the path of an existing file without symbolic links (from codex 0.137 on)."""
        name = absolute("path", path)
        async with self._request("resolve", name, timeout=timeout):
            return await self._session.revision.canonicalize(name)

    # Changes

    async def mkdir(self, path: Path, *, timeout: float | None = None) -> None:
        """Create a directory; its parent must exist."""
        name = absolute("path", path)
        async with self._request("create directory", name, timeout=timeout):
            await self._session.revision.create_directory(name, recursive=False)

    async def makedirs(self, path: Path, *, timeout: float | None = None) -> None:
        """Create a directory and its missing parents."""
        name = absolute("path", path)
        async with self._request("create directory", name, timeout=timeout):
            await self._session.revision.create_directory(name, recursive=True)

    async def remove(
        self,
        path: Path,
        *,
        recursive: bool = False,
        missing_ok: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Remove a file, a symbolic link or an empty directory; with ``recursive``, a tree."""
        name = absolute("path", path)
        async with self._request("remove", name, timeout=timeout):
            await self._session.revision.remove(name, recursive=recursive, force=missing_ok)

    async def copy(
        self,
        source: Path,
        destination: Path,
        *,
        recursive: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Copy a file or a symbolic link on the server; with ``recursive``, also a directory."""
        name = absolute("source", source)
        target = absolute("destination", destination)
        async with self._request("copy", name, target, timeout=timeout):
            await self._session.revision.copy(name, target, recursive=recursive)


class FileReader:
    """A file open for reading, from its start. ``FileSystem.open_read`` returns it.

    Close it, or use it in ``async with``. Iterating yields its content in pieces of up to 1 MiB.
    Blocks are read ahead, so that the round-trip time counts once.
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

    async def read(self, size: int = -1, *, timeout: float | None = None) -> bytes:
        """Return up to ``size`` bytes, by default the rest of the file; empty at the end.

        Without ``timeout``, the default of the client bounds each block.
        """
        arguments.seconds("timeout", timeout)
        limit = math.inf if timeout is None else timeout
        async with self._session.deadline(limit, f"read {self._path!r}"):
            while (size < 0 or len(self._buffer) < size) and await self._fetch():
                pass
        taken = bytes(self._buffer if size < 0 else self._buffer[:size])
        del self._buffer[: len(taken)]
        return taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        if not self._buffer:
            await self._fetch()
        if not self._buffer:
            raise StopAsyncIteration
        piece = bytes(self._buffer[:BLOCK_BYTES])
        del self._buffer[: len(piece)]
        return piece

    async def _fetch(self) -> bool:
        """Append the next block to the buffer; false at the end."""
        if self._at_end:
            return False
        while len(self._blocks) < BLOCKS_AHEAD:
            self._blocks.append(_begin(self._read_block(self._asked)))
            self._asked += BLOCK_BYTES
        async with self._session.deadline(None, f"read {self._path!r}"):
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
    """A file open for writing, from its start. ``FileSystem.open_write`` returns it.

    Close it, or use it in ``async with``: closing waits until all data has been written. After an
    exception the file is closed with the data written by then.
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

    async def write(self, data: Data, *, timeout: float | None = None) -> None:
        """Append data; return when it is queued, before it has been written.

        Raises errors of earlier writes. Without ``timeout``, the default of the client bounds each
        block.
        """
        if not self._is_open:
            raise ValueError("the file is closed")
        arguments.seconds("timeout", timeout)
        data = arguments.data("data", data)
        self._buffer += data
        if self._handle is None:
            _check_size(len(self._buffer), self._session.revision.name)
            return
        limit = math.inf if timeout is None else timeout
        async with self._session.deadline(limit, f"write {self._path!r}"):
            while len(self._buffer) >= BLOCK_BYTES:
                await self._send(bytes(self._buffer[:BLOCK_BYTES]))
                del self._buffer[:BLOCK_BYTES]

    async def _send(self, block: bytes) -> None:
        while len(self._blocks) >= BLOCKS_AHEAD:
            await self._settle_one()
        self._blocks.append(_begin(self._write_block(self._written, block)))
        self._written += len(block)

    async def _settle_one(self) -> None:
        async with self._session.deadline(None, f"write {self._path!r}"):
            with _raising_os_errors(self._path):
                await asyncio.shield(self._blocks[0])
        self._blocks.popleft()

    async def _write_block(self, offset: int, block: bytes) -> None:
        assert self._handle is not None
        with _open_on(self._session, self._generation, self._path):
            await self._session.revision.write_block(self._handle, offset, block)

    async def aclose(self) -> None:
        """Write the rest of the data and close the file. Raises errors of earlier writes."""
        if not self._is_open:
            return
        self._is_open = False
        if self._handle is None:
            async with self._session.deadline(None, f"write {self._path!r}"):
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
    """Convert errors of the server's operating system to ``OSError``.

    ``second`` is the other path of a request that has two.
    """
    try:
        yield
    except ServerError as error:
        failure = os_error(error, path, second)
        raise error if failure is None else failure from error


def _begin(request: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Send a request whose result may be discarded."""
    task = asyncio.create_task(request)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


def _abandon(blocks: deque[asyncio.Task[Any]]) -> None:
    """Cancel requests and discard their results."""
    for block in blocks:
        block.cancel()
    blocks.clear()


def _check_size(size: int, revision: str) -> None:
    if size > WHOLE_FILE_BYTES:
        raise Unsupported(
            f"the server accepts files of up to {WHOLE_FILE_BYTES} bytes in revision {revision}, "
            f"not {size}"
        )


@contextlib.contextmanager
def _open_on(session: Session, generation: int, path: str) -> Iterator[None]:
    """Use a file handle, which is valid on one connection only."""
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
            async with session.deadline(None, "close"):
                await session.revision.close_file(handle)
