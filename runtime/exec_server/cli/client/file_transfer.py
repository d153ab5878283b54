"""Copies with the file methods of the protocol, which carry names and content alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import posixpath
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from exec_server.cli.client import terminal
from exec_server.cli.client.exit_codes import FAILED, CommandError, describe
from exec_server.cli.client.local_tree import LocalTree
from exec_server.cli.client.progress import Progress
from exec_server.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from exec_server.cli.client.copying import Copy
    from exec_server.client import Client

log = logging.getLogger("exec_server.cli.client")

PIECE_BYTES: Final = 1024 * 1024
"""Bytes of a local file that are read at a time."""

FILES_AT_ONCE: Final = 16
"""Files copied at once, which hides the round-trip time of small files. Each takes a descriptor
here and a handle on the server, which allows 128 of them."""

UNPRESERVED: Final = "modes and times are not kept: the server has no tar"


async def at_once(work: Iterable[Awaitable[bool]]) -> bool:
    """Run copies, ``FILES_AT_ONCE`` of them at a time; true if any failed."""
    slots = asyncio.Semaphore(FILES_AT_ONCE)

    async def limited(one: Awaitable[bool]) -> bool:
        async with slots:
            return await one

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(limited(one)) for one in work]
    return any(task.result() for task in tasks)


# Upload


async def upload(client: Client, copies: Sequence[Copy], *, preserve: bool) -> bool:
    """Copy local files and trees to the server; true if anything was skipped."""
    failed = False
    for one in copies:
        if one.is_tree:
            failed = await _upload_tree(client, one) or failed
        else:
            failed = await _reported(_upload_file(client, one.source, one.target)) or failed
    if preserve:
        log.error("%s", UNPRESERVED)
    return failed or preserve


async def _upload_tree(client: Client, one: Copy) -> bool:
    errors: list[OSError] = []
    files: list[tuple[str, str]] = []
    for directory, directories, names in os.walk(one.source, onerror=errors.append):
        relative = os.path.relpath(directory, one.source)
        target = posixpath.normpath(posixpath.join(one.target, relative))
        await client.fs.makedirs(target)
        for name in sorted((*directories, *names)):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                files.append((path, posixpath.join(target, name)))
            elif not stat.S_ISDIR(mode):
                errors.append(_skipped(path))
    failed = await at_once(_reported(_upload_file(client, path, target)) for path, target in files)
    return report(errors) or failed


async def _upload_file(client: Client, local: str, remote: str) -> None:
    with open(local, "rb") as file:  # noqa: ASYNC230 (small reads)
        mode = os.fstat(file.fileno()).st_mode
        if not mode & 0o077:
            # The server would create it with the permissions of its own umask.
            raise CommandError(
                f"{local}: skipped, because it would become readable by others: "
                "the server has no tar, which keeps modes",
                FAILED,
            )
        await upload_stream(client, file, remote, os.path.basename(local))


async def upload_stream(client: Client, file: BinaryIO, remote: str, name: str) -> None:
    """Copy an open file to the server."""
    size = os.fstat(file.fileno()).st_size
    progress = Progress(name, size)
    async with await client.fs.open_write(remote) as writer:
        while piece := file.read(PIECE_BYTES):
            await writer.write(piece)
            progress.advance(len(piece))
    progress.finish()


async def from_descriptor(client: Client, fd: int, remote: str) -> None:
    """Copy standard input to a remote file."""
    async with await client.fs.open_write(remote) as writer:
        while piece := await asyncio.to_thread(os.read, fd, PIECE_BYTES):
            await writer.write(piece)


# Download


async def download(client: Client, one: Copy, *, preserve: bool) -> bool:
    """Copy a remote file or tree to this machine; true if anything was skipped."""
    if one.is_tree:
        failed = await _download_tree(client, one.source, one.target)
    else:
        failed = False
        await download_file(client, one.source, replaced(one.target))
    if preserve:
        log.error("%s", UNPRESERVED)
    return failed or preserve


async def _download_tree(client: Client, remote: str, local: str) -> bool:
    errors: list[OSError] = []
    unlisted = {remote}
    files: list[tuple[str, tuple[str, ...]]] = []
    with LocalTree(local) as tree:
        async for directory, directories, names in client.fs.walk(remote):
            unlisted.discard(directory)
            relative = posixpath.relpath(directory, remote)
            parents = [] if relative == "." else relative.split("/")
            tree.make_directory(parents)
            paths = [posixpath.join(directory, name) for name in (*directories, *names)]
            statuses = await asyncio.gather(*map(client.fs.stat, paths), return_exceptions=True)
            for path, status in zip(paths, statuses, strict=True):
                if isinstance(status, BaseException):
                    if not isinstance(status, OSError) or isinstance(status, ClientError):
                        raise status
                    errors.append(status)
                elif status.is_symlink or not (status.is_file or status.is_dir):
                    errors.append(_skipped(path))
                elif status.is_file:
                    files.append((path, (*parents, posixpath.basename(path))))
                else:
                    unlisted.add(path)
        failed = await at_once(
            _reported(download_file(client, path, tree.create_file(names))) for path, names in files
        )
    errors += [OSError(0, "the directory cannot be listed", path) for path in sorted(unlisted)]
    return report(errors) or failed


async def download_file(
    client: Client, remote: str, target: AbstractContextManager[BinaryIO]
) -> None:
    """Copy a remote file to one that is opened by ``target``."""
    size = await regular_size(client, remote)
    progress = Progress(posixpath.basename(remote), size)
    async with await client.fs.open_read(remote) as reader:
        with target as file:
            async for piece in reader:
                file.write(piece)
                progress.advance(len(piece))
    progress.finish()


async def to_descriptor(client: Client, remote: str, fd: int) -> None:
    """Copy a remote file to standard output."""
    await regular_size(client, remote)
    async with await client.fs.open_read(remote) as reader:
        async for piece in reader:
            await terminal.write(fd, piece)


async def regular_size(client: Client, path: str) -> int | None:
    """Return the size of a regular file, None if unknown; raise CommandError for other kinds."""
    status = await client.fs.stat(path)
    if status.is_dir:
        raise CommandError(f"{path}: {os.strerror(errno.EISDIR)}", FAILED)
    if not status.is_file:
        raise CommandError(f"{path}: not a regular file", FAILED)
    return status.size


@contextlib.contextmanager
def replaced(
    local: str, mode: int | None = None, modified_ns: int | None = None
) -> Iterator[BinaryIO]:
    """Write a local file that the user named, and replace it atomically.

    A link to a file is followed, as by cp(1). A device or a FIFO is written to.
    """
    path = os.path.realpath(local)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with open(path, "wb") as file:
            yield file
        return
    parent, name = os.path.split(path)
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), local)
    os.stat(parent)  # raises FileNotFoundError; LocalTree would create it
    with LocalTree(parent) as tree, tree.create_file([name], mode, modified_ns) as file:
        yield file


# Reports


def _skipped(path: str) -> OSError:
    return OSError(0, "skipped: neither a regular file nor a directory", path)


def report(errors: Sequence[OSError]) -> bool:
    """Print errors; true if there are any."""
    for error in errors:
        log.error("%s", describe(error))
    return bool(errors)


async def _reported(work: Awaitable[None]) -> bool:
    """Run a copy and print its error; true if it failed."""
    try:
        await work
    except CommandError as error:
        if error.code != FAILED:
            raise
        log.error("%s", error)
    except OSError as error:
        if isinstance(error, ClientError):
            raise
        return report([error])
    else:
        return False
    return True
