"""``exec-server cp``, ``ls`` and ``cat``: files of the server's machine."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from exec_server.cli.client import terminal
from exec_server.cli.client.exit_codes import FAILED, CommandError
from exec_server.cli.client.local_tree import LocalTree, NameTaken
from exec_server.cli.client.printing import print_json, print_name
from exec_server.cli.client.progress import Progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from exec_server.client import Client, FileStatus

log = logging.getLogger("exec_server.cli.client")

PIECE_BYTES: Final = 1024 * 1024
"""What is read of a local file at a time."""

REMOTE_MARK: Final = ":"
"""What a path of the server's machine begins with where local ones are meant otherwise."""


_NO_NAMES: Final = frozenset(("", ".", ".."))
"""Ends of a path that name no entry of a directory; a copy of such a path goes into the target."""


async def remote_path(client: Client, path: str) -> str:
    """An absolute path of the server's machine, relative ones seen from its directory."""
    if posixpath.isabs(path):
        return path
    base = (await client.environment()).cwd
    if base is None:
        raise CommandError(f"{path or '.'}: the server tells no directory; give an absolute path")
    return posixpath.normpath(posixpath.join(base, path))


async def copy(client: Client, options: argparse.Namespace) -> int:
    """Copy files or trees from here to there or from there to here."""
    source, destination = options.source, options.destination
    if source.startswith(REMOTE_MARK) == destination.startswith(REMOTE_MARK):
        raise CommandError("cp: one of the paths, and only one, is remote, as in :/etc/hosts")
    if source.startswith(REMOTE_MARK):
        remote = await remote_path(client, source.removeprefix(REMOTE_MARK))
        local = destination
        name = posixpath.basename(remote)
        if os.path.isdir(local) and name not in _NO_NAMES:
            local = os.path.join(local, name)
        if options.recursive and await client.fs.is_dir(remote):
            return await _download_tree(client, remote, local)
        await _download(client, remote, partial(_create, local))
        return 0
    remote = await remote_path(client, destination.removeprefix(REMOTE_MARK))
    if destination.endswith("/") or await client.fs.is_dir(remote):
        remote = posixpath.join(remote, os.path.basename(os.path.abspath(source)))
    if options.recursive and os.path.isdir(source):
        await _upload_tree(client, source, remote)
    else:
        await _upload(client, source, remote)
    return 0


async def _download_tree(client: Client, remote: str, local: str) -> int:
    """Copy regular files and directories; links and devices are left out, with a message.

    Returns the exit code: FAILED if files were left out because of their names.
    """
    code = 0
    unlisted = {remote}
    with LocalTree(local) as tree:
        async for directory, directories, names in client.fs.walk(remote):
            unlisted.discard(directory)
            relative = posixpath.relpath(directory, remote)
            parents = [] if relative == "." else relative.split("/")
            tree.make_directory(parents)
            paths = [posixpath.join(directory, name) for name in (*directories, *names)]
            statuses = await asyncio.gather(*map(client.fs.stat, paths))
            for path, status in zip(paths, statuses, strict=True):
                if status.is_symlink or not (status.is_file or status.is_dir):
                    _leave_out(path)
                elif status.is_file:
                    target = (*parents, posixpath.basename(path))
                    try:
                        await _download(client, path, partial(tree.open_file, target))
                    except NameTaken as error:
                        log.error("%s", error)
                        code = FAILED
                else:
                    unlisted.add(path)
    if unlisted:
        raise CommandError(f"{min(unlisted)}: the directory cannot be listed", FAILED)
    return code


async def _upload_tree(client: Client, local: str, remote: str) -> None:
    """Regular files and directories; links and devices are left out, with a word."""
    for directory, directories, names in os.walk(local, onerror=_raise):
        target = posixpath.normpath(posixpath.join(remote, os.path.relpath(directory, local)))
        await client.fs.makedirs(target)
        for name in sorted((*directories, *names)):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                await _upload(client, path, posixpath.join(target, name))
            elif not stat.S_ISDIR(mode):
                _leave_out(path)


def _raise(error: OSError) -> None:
    raise error


def _leave_out(path: str) -> None:
    log.error("%s is left out: neither a regular file nor a directory", path)


async def _download(client: Client, remote: str, create: Callable[[], BinaryIO]) -> None:
    size = await _size(client, remote)
    progress = Progress(posixpath.basename(remote), size)
    async with await client.fs.open_read(remote) as reader:
        with create() as file:
            async for piece in reader:
                file.write(piece)
                progress.advance(len(piece))
    progress.finish()


def _create(local: str) -> BinaryIO:
    return open(local, "wb")


async def _size(client: Client, path: str) -> int | None:
    """Bytes of a regular file, None where the revision does not tell; other things are refused."""
    status = await client.fs.stat(path)
    if status.is_dir:
        raise CommandError(f"{path}: {os.strerror(errno.EISDIR)}", FAILED)
    if not status.is_file:
        raise CommandError(f"{path}: not a regular file", FAILED)
    return status.size


async def _upload(client: Client, local: str, remote: str) -> None:
    with open(local, "rb") as file:  # noqa: ASYNC230 (small reads)
        progress = Progress(os.path.basename(local), os.fstat(file.fileno()).st_size)
        async with await client.fs.open_write(remote) as writer:
            while piece := file.read(PIECE_BYTES):
                await writer.write(piece)
                progress.advance(len(piece))
    progress.finish()


async def show(client: Client, options: argparse.Namespace) -> int:
    """Write files to standard output."""
    for path in options.paths:
        remote = await remote_path(client, path)
        await _size(client, remote)
        async with await client.fs.open_read(remote) as reader:
            async for piece in reader:
                await terminal.write(terminal.STDOUT, piece)
    return 0


async def list_directory(client: Client, options: argparse.Namespace) -> int:
    """List a directory, names in order; of a file, the file."""
    path = await remote_path(client, options.path)
    status = await client.fs.stat(path)
    if status.is_dir:
        entries = sorted(await client.fs.listdir(path), key=lambda entry: entry.name)
        found = [(e.name, _kind(is_dir=e.is_dir, is_file=e.is_file)) for e in entries]
    else:
        found = [(path, _kind(is_dir=False, is_file=status.is_file))]
    rows: list[dict[str, Any]] = [{"name": name, "kind": kind} for name, kind in found]
    if options.long:
        for row in rows:
            row.update(_details(await client.fs.stat(posixpath.join(path, row["name"]))))
    if options.json:
        print_json(rows)
        return 0
    for row in rows:
        print_name(_line(row) if options.long else row["name"])
    return 0


def _kind(*, is_dir: bool, is_file: bool) -> str:
    if is_dir:
        return "directory"
    return "file" if is_file else "other"


def _details(status: FileStatus) -> dict[str, Any]:
    return {"size": status.size, "modified": status.modified, "isSymlink": status.is_symlink}


def _line(row: dict[str, Any]) -> str:
    size = "-" if row["size"] is None else row["size"]
    modified = "-"
    if row["modified"] is not None:
        modified = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["modified"]))
    return f"{row['kind']:9} {size:>12} {modified:16} {row['name']}"
