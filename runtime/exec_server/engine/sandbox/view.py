"""A sandbox's view of the file system: its mounts, in the order in which they are made."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Purpose = Literal["run", "write", "read"]
"""Intended use of a view: running a program, a file operation, or one that only reads."""

MountKind = Literal[
    "read", "write", "device", "hidden", "denied_directory", "denied_file", "link", "dev", "proc"
]
"""``read``, ``write``, ``device``: the existing file or directory, read-only, writable, or writable
including its device files; ``hidden``: an empty directory; ``denied_directory``: a directory that
cannot be listed; ``denied_file``: a file that cannot be opened; ``link``: a symbolic link;
``dev``, ``proc``: new instances of these file systems."""

WRITABLE: Final = frozenset(("write", "device"))
"""Mounts that expose an existing file or directory for writing."""

EXPOSING: Final = WRITABLE | {"read"}
"""Mounts that expose an existing file or directory."""

DENYING: Final = frozenset(("denied_directory", "denied_file"))
"""Mounts that deny access to a file or directory."""


class Mount(msgspec.Struct, frozen=True):
    """A single mount of a view."""

    kind: MountKind
    path: str
    content: str = ""
    """Target of a link."""
    is_passable: bool = False
    """True for a denied directory with accessible paths below it."""


class Placeholder(msgspec.Struct, frozen=True):
    """An empty file or directory at a path that must not be created from within the sandbox."""

    path: str
    is_directory: bool


class View(msgspec.Struct, frozen=True, cache_hash=True):
    """Mounts and placeholders of a sandbox. Equal views expose the same files in the same way."""

    mounts: tuple[Mount, ...]
    placeholders: tuple[Placeholder, ...]
    sources: tuple[tuple[int, int], ...]
    """Device and inode of each exposed file, in the order of the mounts, placeholders excluded."""
    absent: tuple[str, ...] = ()
    """Denied paths that do not exist, in directories that are exposed read-only."""
