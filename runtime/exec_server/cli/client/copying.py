"""``exec-server cp``: copies between this machine and the server's.

With ``tar`` on the server, a copy is one stream through a process, which keeps modes, times and
links and takes few round trips. Otherwise the files are copied with the methods of the protocol,
which carry content and names alone; the exit code tells when that lost something.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
import stat
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from exec_server.cli.client import file_transfer, tar_transfer
from exec_server.cli.client.exit_codes import FAILED, CommandError, describe
from exec_server.cli.client.remote_paths import REMOTE_MARK, remote_path
from exec_server.client import ClientError

if TYPE_CHECKING:
    import argparse

    from exec_server.client import Client, FileStatus

log = logging.getLogger("exec_server.cli.client")

STREAM: Final = "-"
"""Operand that stands for standard input or standard output."""

_NO_NAMES: Final = frozenset(("", ".", ".."))
"""Last components that name no entry of a directory: the content of such a source is copied."""


class Copy(NamedTuple):
    """One source and its target, local and remote or the other way round."""

    source: str
    target: str
    is_tree: bool


async def copy(client: Client, options: argparse.Namespace) -> int:
    """Copy the sources; return FAILED if anything was skipped."""
    *sources, destination = options.paths
    is_upload = destination.startswith(REMOTE_MARK)
    if any(source.startswith(REMOTE_MARK) == is_upload for source in sources):
        raise CommandError(
            "cp: sources and destination must be on different machines; "
            f"remote paths begin with {REMOTE_MARK!r}, as in :/etc/hosts"
        )
    if STREAM in sources or destination == STREAM:
        return await _copy_stream(client, sources, destination)
    if is_upload:
        target = await remote_path(client, destination.removeprefix(REMOTE_MARK))
        return await _upload(client, options, sources, target, destination)
    return await _download(client, options, sources, destination)


async def _copy_stream(client: Client, sources: list[str], destination: str) -> int:
    if len(sources) > 1:
        raise CommandError(f"cp: {STREAM!r} cannot be combined with other sources")
    if destination == STREAM:
        remote = await remote_path(client, sources[0].removeprefix(REMOTE_MARK))
        await file_transfer.to_descriptor(client, remote, sys.stdout.fileno())
        return 0
    remote = await remote_path(client, destination.removeprefix(REMOTE_MARK))
    if destination.endswith("/") or await client.fs.is_dir(remote):
        raise CommandError(f"cp: {destination}: a file is expected as the target of {STREAM!r}")
    await file_transfer.from_descriptor(client, sys.stdin.fileno(), remote)
    return 0


def _check_target(sources: list[str], destination: str, *, is_dir: bool) -> None:
    if len(sources) > 1 and not is_dir:
        raise CommandError(f"cp: {destination}: not a directory", FAILED)


def _check_source(source: str, *, is_dir: bool, recursive: bool) -> None:
    if is_dir and not recursive:
        raise CommandError(f"{source}: {os.strerror(errno.EISDIR)}; use -r", FAILED)
    if source.endswith("/") and not is_dir:
        raise CommandError(f"{source}: {os.strerror(errno.ENOTDIR)}", FAILED)


def _check_kind(path: str, status: FileStatus) -> None:
    if not (status.is_dir or status.is_file):
        raise CommandError(f"{path}: not a regular file", FAILED)


def _check_file_target(destination: str, *, is_dir: bool, is_tree: bool) -> None:
    if destination.endswith("/") and not is_dir and not is_tree:
        raise CommandError(f"{destination}: {os.strerror(errno.ENOTDIR)}", FAILED)


def _last_name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _report(error: CommandError | OSError) -> None:
    log.error("%s", describe(error) if isinstance(error, OSError) else error)


async def _upload(
    client: Client, options: argparse.Namespace, sources: list[str], target: str, shown: str
) -> int:
    is_dir = await client.fs.is_dir(target)
    _check_target(sources, shown, is_dir=is_dir)
    code = 0
    copies = []
    for source in sources:
        try:
            found = os.stat(source) if not options.recursive else _link_status(source)
            is_tree = stat.S_ISDIR(found.st_mode)
            _check_source(source, is_dir=is_tree, recursive=options.recursive)
            _check_file_target(shown, is_dir=is_dir, is_tree=is_tree)
        except (CommandError, OSError) as error:
            _report(error)
            code = FAILED
            continue
        name = _last_name(source)
        into = is_dir and name not in _NO_NAMES
        copies.append(Copy(source, posixpath.join(target, name) if into else target, is_tree))
    if not copies:
        return code
    failed = await tar_transfer.upload(client, copies, follow=not options.recursive)
    if failed is None:
        failed = await file_transfer.upload(client, copies, preserve=options.preserve)
    return FAILED if failed else code


def _link_status(path: str) -> os.stat_result:
    """Status of a link itself, but of the directory if a slash follows it, as for cp(1)."""
    return os.stat(path) if path.endswith("/") else os.lstat(path)


async def _download(
    client: Client, options: argparse.Namespace, sources: list[str], destination: str
) -> int:
    is_dir = os.path.isdir(destination)
    _check_target(sources, destination, is_dir=is_dir)
    paths = [await remote_path(client, source.removeprefix(REMOTE_MARK)) for source in sources]
    statuses: list[FileStatus | BaseException] = await asyncio.gather(
        *map(client.fs.stat, paths), return_exceptions=True
    )
    code = 0
    for source, path, status in zip(sources, paths, statuses, strict=True):
        try:
            if isinstance(status, BaseException):
                raise status
            is_link = status.is_symlink and options.recursive and not source.endswith("/")
            is_tree = status.is_dir and not is_link
            _check_source(
                source.removeprefix(REMOTE_MARK),
                is_dir=status.is_dir,
                recursive=options.recursive,
            )
            _check_file_target(destination, is_dir=is_dir, is_tree=is_tree)
            if not is_link:
                _check_kind(path, status)
            name = _last_name(source.removeprefix(REMOTE_MARK))
            into = is_dir and name not in _NO_NAMES
            local = os.path.join(destination, name) if into else destination
            one = Copy(path, local, is_tree)
            failed = await tar_transfer.download(
                client, one, follow=not is_link and not is_tree, size=status.size
            )
            if failed is None:
                failed = await file_transfer.download(client, one, preserve=options.preserve)
            code = FAILED if failed else code
        except OSError as error:
            if isinstance(error, ClientError):
                raise
            _report(error)
            code = FAILED
        except CommandError as error:
            if error.code != FAILED:
                raise
            _report(error)
            code = FAILED
    return code
