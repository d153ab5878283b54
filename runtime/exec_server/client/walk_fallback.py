"""Listing a tree directory by directory, where the server has no request for all of it."""

from __future__ import annotations

import asyncio
import errno
import posixpath
from collections import deque
from typing import TYPE_CHECKING

from exec_server.client.errors import ServerError, os_error
from exec_server.client.revisions.base import (
    WALK_DEPTH,
    WALK_DIRECTORIES,
    WALK_ENTRIES,
    Tree,
    TreeEntry,
    TreeError,
)

if TYPE_CHECKING:
    from exec_server.client.revisions.base import DirEntry, FileStatus, Revision


async def list_tree(
    revision: Revision, top: str, *, follow_symlinks: bool, prune_hidden: bool
) -> Tree:
    """Return what fs/walk of v2 would list. Raises ServerError about ``top``."""
    tree = Tree([], [], truncated=False)
    seen = set()
    directories = 0
    waiting = deque([(top, 0)])
    while waiting:
        directory, depth = waiting.popleft()
        if follow_symlinks:
            place = await revision.canonicalize(directory)
            if place in seen:
                continue
            seen.add(place)
        if directories == WALK_DIRECTORIES:
            return Tree(tree.entries, tree.errors, truncated=True)
        directories += 1
        try:
            entries = await revision.read_directory(directory)
        except ServerError as error:
            failure = os_error(error, directory)
            if directory != top:
                tree.errors.append(TreeError(directory, error.message))
            elif failure is None or failure.errno != errno.ENOTDIR:
                raise
            continue
        for entry in await _without_links(revision, directory, entries, follow_symlinks):
            if len(tree.entries) == WALK_ENTRIES:
                return Tree(tree.entries, tree.errors, truncated=True)
            path = posixpath.join(directory, entry.name)
            tree.entries.append(TreeEntry(path, entry.is_dir))
            is_pruned = prune_hidden and entry.name.startswith(".")
            if entry.is_dir and depth < WALK_DEPTH and not is_pruned:
                waiting.append((path, depth + 1))
    return tree


async def _without_links(
    revision: Revision,
    directory: str,
    entries: list[DirEntry],
    follow_symlinks: bool,
) -> list[DirEntry]:
    """The regular files and directories among the entries, by name."""
    kept = sorted((e for e in entries if e.is_dir or e.is_file), key=lambda e: e.name.encode())
    statuses: list[FileStatus | BaseException] = await asyncio.gather(
        *(revision.status(posixpath.join(directory, entry.name)) for entry in kept),
        return_exceptions=True,
    )
    found = []
    for entry, status in zip(kept, statuses, strict=True):
        if isinstance(status, BaseException):
            # It is gone by now.
            if not isinstance(status, ServerError):
                raise status
        elif not status.is_symlink or (follow_symlinks and entry.is_dir):
            found.append(entry)
    return found
