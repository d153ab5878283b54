"""Listings of directory trees (v2 fs/walk)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from operator import itemgetter
from typing import Final, Literal

import msgspec

from exec_server.engine import path_uri
from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.files.listing import ENTRY_BYTES, LISTING_BYTES
from exec_server.engine.files.real_path import real_path
from exec_server.engine.paths import from_native, to_native
from exec_server.errors import InvalidRequest

# Limits of the released servers (v2 fs/walk).
MAX_DEPTH: Final = 64
MAX_DIRECTORIES: Final = 10_000
MAX_ENTRIES: Final = 50_000

Kind = Literal["file", "directory"]

_Found = tuple[bytes, Kind | int | None, bool]
"""Name of an entry, its kind or the errno of its failure (None to omit it), and True for a link."""

_DOT: Final = b"."[0]


class WalkOptions(msgspec.Struct, frozen=True):
    """Limits and options of a walk."""

    max_depth: int
    """0 for the root's own entries only; up to 64."""
    max_directories: int
    """Directories to list, including the root; 1 to 10,000."""
    max_entries: int
    """Entries to examine, of any type; 1 to 50,000. Dangling links do not count."""
    follow_directory_symlinks: bool
    prune_hidden_directories: bool = False
    """True to skip the contents of directories whose names start with a dot."""


class WalkEntry(msgspec.Struct, frozen=True, gc=False):
    """A file or directory. A Struct for speed, as ``listing.DirectoryEntry`` is."""

    path: str
    """File URI."""
    kind: Kind


class WalkError(msgspec.Struct, frozen=True):
    """An entry that could not be examined."""

    path: str
    """File URI."""
    errno: int


class WalkOutcome(msgspec.Struct, frozen=True):
    """Result of a walk."""

    entries: list[WalkEntry]
    errors: list[WalkError]
    truncated: bool
    """True if ``max_directories``, ``max_entries`` or LISTING_BYTES was exceeded."""


def walk(path: str, options: WalkOptions) -> WalkOutcome:
    """List the regular files and directories below ``path``, breadth first, sorted by name.

    With ``follow_directory_symlinks`` links to directories are treated as directories, and each
    directory is listed only once; otherwise links are omitted. A root that is not a directory, or a
    link that is not followed, has no entries. A name that is not valid UTF-8 is reported as an
    error, ENOENT, with U+FFFD.

    Raises InvalidRequest for limits out of range, OSError if the root is not accessible.
    """
    _check_limits(options)
    return _Walk(options).run(path)


def _check_limits(options: WalkOptions) -> None:
    if options.max_directories < 1 or options.max_entries < 1:
        raise InvalidRequest("filesystem walk limits must be greater than zero")
    if (
        options.max_depth > MAX_DEPTH
        or options.max_directories > MAX_DIRECTORIES
        or options.max_entries > MAX_ENTRIES
    ):
        raise InvalidRequest(
            f"filesystem walk limits exceed maximums: depth={MAX_DEPTH}, "
            f"directories={MAX_DIRECTORIES}, entries={MAX_ENTRIES}"
        )


class _Directory(msgspec.Struct, frozen=True):
    """A directory to list."""

    path: bytes
    real_path: bytes
    """Path without symbolic links, which identifies the directory."""
    depth: int


class _Walk:
    """State of a walk."""

    def __init__(self, options: WalkOptions) -> None:
        self._options = options
        self._names_left = options.max_entries
        self._directories_left = options.max_directories
        self._queue: deque[_Directory] = deque()
        self._seen: set[bytes] = set()
        self._entries: list[WalkEntry] = []
        self._errors: list[WalkError] = []
        self._truncated = False
        self._bytes_left = LISTING_BYTES

    def run(self, path: str) -> WalkOutcome:
        native = to_native(path)
        follow = self._options.follow_directory_symlinks
        if stat.S_ISDIR(os.stat(native).st_mode) and (follow or not os.path.islink(native)):
            self._enqueue(_Directory(native, real_path(native), 0))
        while self._queue and self._list(self._queue.popleft()):
            pass
        return WalkOutcome(self._entries, self._errors, self._truncated)

    def _enqueue(self, directory: _Directory) -> None:
        if directory.real_path in self._seen:
            return
        if not self._directories_left:
            self._truncated = True
            return
        self._directories_left -= 1
        self._seen.add(directory.real_path)
        self._queue.append(directory)

    def _list(self, directory: _Directory) -> bool:
        """List one directory; return True if all entries were examined."""
        check_cancelled()
        path = from_native(directory.path)
        try:
            found, is_whole = _read_directory(
                directory.path, self._options.follow_directory_symlinks
            )
        except OSError as error:
            self._errors.append(WalkError(path_uri.format(path), error.errno or 0))
            return True
        fitting = self._count_fitting(path, found)
        if fitting < len(found):
            is_whole = False
            del found[fitting:]
        self._truncated |= not is_whole
        self._names_left -= fitting
        goes_deeper = directory.depth < self._options.max_depth
        uris = path_uri.format_entries(path, [name for name, _, _ in found])
        add = self._entries.append
        for uri, (name, kind, is_link) in zip(uris, found, strict=True):
            if kind == "file":
                add(WalkEntry(uri, "file"))
            elif kind == "directory":
                add(WalkEntry(uri, "directory"))
                if goes_deeper and not (self._options.prune_hidden_directories and name[0] == _DOT):
                    self._enqueue(_child(directory, name, is_link))
            elif kind is not None:
                self._errors.append(WalkError(uri, kind))
        return is_whole

    def _count_fitting(self, path: str, found: list[_Found]) -> int:
        """Return how many entries are within the limits, and count the memory that they take."""
        fixed = ENTRY_BYTES + len(path)
        most = min(len(found), self._names_left)
        for count in range(most):
            self._bytes_left -= fixed + len(found[count][0])
            if self._bytes_left < 0:
                return count
        return most


def _child(parent: _Directory, name: bytes, is_link: bool) -> _Directory:
    path = os.path.join(parent.path, name)
    without_links = os.path.join(parent.real_path, name)
    if is_link:
        with contextlib.suppress(OSError):  # removed meanwhile; listing it will fail
            without_links = real_path(path)
    return _Directory(path, without_links, parent.depth + 1)


def _read_directory(path: bytes, follow: bool) -> tuple[list[_Found], bool]:
    """Return the entries of a directory, sorted by name and without dangling links.

    The second result is False if the names exceed LISTING_BYTES; only the first ones are returned
    then. Raises OSError.
    """
    found: list[_Found] = []
    left = LISTING_BYTES
    add = found.append
    with os.scandir(path) as entries:
        for entry in entries:
            left -= ENTRY_BYTES + len(entry.name)
            if left < 0:
                break
            if entry.is_file(follow_symlinks=False):
                add((entry.name, "file", False))
            elif entry.is_dir(follow_symlinks=False):
                add((entry.name, "directory", False))
            elif not entry.is_symlink():
                add((entry.name, None, False))
            else:
                with contextlib.suppress(OSError):
                    is_directory = stat.S_ISDIR(entry.stat().st_mode)
                    add((entry.name, "directory" if follow and is_directory else None, True))
    found.sort()
    try:
        os.stat(path + b"/.")
    except OSError as error:
        # Without search permission a directory yields names, but no other information.
        return [(name, error.errno, False) for name, _, _ in found], left >= 0
    try:
        b"/".join([name for name, _, _ in found]).decode()
    except UnicodeDecodeError:
        return sorted(map(_as_text, found), key=itemgetter(0)), left >= 0
    return found, left >= 0


def _as_text(entry: _Found) -> _Found:
    """Return the entry, or an error in its place if its name is not valid UTF-8."""
    text = entry[0].decode("utf-8", "replace").encode()
    return entry if text == entry[0] else (text, errno.ENOENT, False)
