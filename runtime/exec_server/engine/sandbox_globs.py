"""Finding what the globs of a sandbox policy deny, at one moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from wcmatch import glob

from exec_server.engine.paths import from_native, to_native
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_SCANNED: Final = 200_000
"""Directory entries looked at for one policy; a second's work, and more than checkouts hold."""

MAX_MATCHES: Final = 512
"""Matches of one policy; each costs a mount, and a descriptor of the usual 1,024."""

_FLAGS: Final = glob.GLOBSTAR | glob.BRACE | glob.DOTGLOB | glob.CASE

_MADE_UP: Final = frozenset((b"/dev", b"/proc", b"/sys"))
"""File systems that hold no files of anybody."""


def find_denied(patterns: Iterable[str], depth: int | None) -> list[str]:
    """The files, directories and links that match, without those below a directory that does.

    Links are matched but not followed. ``depth`` is that of ``SandboxPolicy.scan_depth``. Raises
    InvalidRequest if there are too many to be sure of all.
    """
    scan = _Scan(depth)
    for pattern in patterns:
        scan.add(pattern)
    return scan.found


class _Scan:
    def __init__(self, depth: int | None) -> None:
        self.found: list[str] = []
        self._depth = depth
        self._scanned = 0

    def add(self, pattern: str) -> None:
        start = _fixed_part(pattern)
        matches: Callable[[str], bool] = glob.compile(pattern, flags=_FLAGS).match
        if start == pattern:
            if os.path.lexists(to_native(start)):
                self._note(start)
            return
        pending = [(to_native(start), 1)]
        while pending:
            directory, level = pending.pop()
            for name, is_directory in self._entries(directory):
                path = from_native(os.path.join(directory, name))
                if matches(path):
                    self._note(path)
                elif is_directory and (self._depth is None or level < self._depth):
                    below = os.path.join(directory, name)
                    if below not in _MADE_UP:
                        pending.append((below, level + 1))

    def _entries(self, directory: bytes) -> Iterator[tuple[bytes, bool]]:
        try:
            entries = os.scandir(directory)
        except OSError:
            # Missing, no directory, or closed to the server, and so to what it confines.
            return
        with entries:
            for entry in entries:
                self._scanned += 1
                if self._scanned > MAX_SCANNED:
                    raise InvalidRequest(
                        f"sandbox: its glob patterns need more than {MAX_SCANNED} files to be "
                        "looked at; set glob_scan_max_depth or start them with a longer path"
                    )
                yield entry.name, entry.is_dir(follow_symlinks=False)

    def _note(self, path: str) -> None:
        if len(self.found) >= MAX_MATCHES:
            raise InvalidRequest(
                f"sandbox: its glob patterns deny more than {MAX_MATCHES} files one by one"
            )
        self.found.append(path)


def _fixed_part(pattern: str) -> str:
    """The leading components without magic; all of the pattern if it has none."""
    fixed = ""
    for component in pattern[1:].split("/"):
        if glob.is_magic(component, flags=_FLAGS):
            return fixed or "/"
        fixed += f"/{component}"
    return fixed
