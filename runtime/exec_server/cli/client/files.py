"""``exec-server ls`` and ``cat``: files of the server's machine."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import sys
import time
from typing import TYPE_CHECKING, Any

from exec_server.cli.client import file_transfer
from exec_server.cli.client.exit_codes import FAILED, describe
from exec_server.cli.client.printing import print_json, print_name
from exec_server.cli.client.remote_paths import remote_path
from exec_server.client import ClientError

if TYPE_CHECKING:
    import argparse

    from exec_server.client import Client, FileStatus

log = logging.getLogger("exec_server.cli.client")


async def show(client: Client, options: argparse.Namespace) -> int:
    """Write files to standard output."""
    for path in options.paths:
        remote = await remote_path(client, path)
        await file_transfer.to_descriptor(client, remote, sys.stdout.fileno())
    return 0


async def list_directory(client: Client, options: argparse.Namespace) -> int:
    """List the entries of a directory in order of their names, or a single file."""
    path = await remote_path(client, options.path)
    status = await client.fs.stat(path)
    if status.is_dir:
        entries = sorted(await client.fs.listdir(path), key=lambda entry: entry.name)
        found = [(e.name, _kind(is_dir=e.is_dir, is_file=e.is_file)) for e in entries]
    else:
        found = [(path, _kind(is_dir=False, is_file=status.is_file))]
    rows: list[dict[str, Any]] = [{"name": name, "kind": kind} for name, kind in found]
    failed = False
    if options.long:
        paths = [posixpath.join(path, row["name"]) for row in rows]
        found_statuses = await asyncio.gather(*map(client.fs.stat, paths), return_exceptions=True)
        for row, detail in zip(rows, found_statuses, strict=True):
            if isinstance(detail, BaseException):
                if not isinstance(detail, OSError) or isinstance(detail, ClientError):
                    raise detail
                log.error("%s", describe(detail))
                failed = True
            row.update(_details(None if isinstance(detail, BaseException) else detail))
    if options.json:
        print_json(rows)
    else:
        for row in rows:
            print_name(_line(row) if options.long else row["name"])
    return FAILED if failed else 0


def _kind(*, is_dir: bool, is_file: bool) -> str:
    if is_dir:
        return "directory"
    return "file" if is_file else "other"


def _details(status: FileStatus | None) -> dict[str, Any]:
    if status is None:
        return {"size": None, "modified": None, "isSymlink": None}
    return {"size": status.size, "modified": status.modified, "isSymlink": status.is_symlink}


def _line(row: dict[str, Any]) -> str:
    size = "-" if row["size"] is None else row["size"]
    modified = "-"
    if row["modified"] is not None:
        modified = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["modified"]))
    return f"{row['kind']:9} {size:>12} {modified:16} {row['name']}"
