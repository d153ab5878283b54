"""Search for the files that match the deny globs of a sandbox policy.

The cost is bounded for any patterns and files: directories are searched once for all patterns with
the same fixed part, with a set of positions in the patterns instead of backtracking. See
``glob_patterns`` for the syntax.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NoReturn

from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.paths import MAX_PATH_BYTES, from_native, to_native
from exec_server.engine.sandbox.glob_patterns import Component, parse_globs
from exec_server.engine.sandbox.sources import is_reached_without_links, replaced
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from exec_server.engine.sandbox.glob_patterns import Glob

MAX_SCANNED: Final = 200_000
"""Directory entries examined for one policy: about a second, and more than checkouts contain."""

MAX_COMPARISONS: Final = 5_000_000
"""Comparisons of a name with a component of a pattern for one policy: about a second. A comparison
whose lengths multiply to more than ``_CHEAP`` counts as several."""

MAX_MATCHES: Final = 512
"""Matches of one policy. Each takes a mount, and a descriptor out of the usual 1,024."""

_CHEAP: Final = 512
"""Product of the lengths of a name and a component that are compared in well under 1 µs."""

_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_VIRTUAL: Final = frozenset((b"/dev", b"/proc", b"/sys"))
"""File systems without user files."""


def find_denied(
    patterns: Iterable[str], depth: int | None, resolve: Callable[[str], str]
) -> list[str]:
    """Return the matching files, directories and links, except those below a matching directory.

    Links are matched but not followed, except in the fixed part of a pattern, which ``resolve``
    resolves. ``depth`` is ``SandboxPolicy.scan_depth``. Raises InvalidRequest for invalid patterns,
    if the search exceeds its limits, and if a directory is replaced by a link meanwhile.
    """
    scan = _Scan(depth)
    for start, globs in parse_globs(patterns).items():
        scan.add(resolve(start), globs)
    return list(scan.found)


class _Scan:
    """State of a search."""

    def __init__(self, depth: int | None) -> None:
        self.found: dict[str, None] = {}
        self._depth = depth
        self._start = b"/"
        self._scanned = 0
        self._compared = 0

    def add(self, start: str, globs: Sequence[Glob]) -> None:
        """Search below a directory."""
        positions = _Positions(globs)
        if positions.is_end(positions.first) and os.path.lexists(to_native(start)):
            self._add_match(start)
            return
        self._start = to_native(start)
        pending = [(self._start, 1, positions.first)]
        while pending:
            directory, level, before = pending.pop()
            is_deepest = self._depth is not None and level >= self._depth
            for name, is_directory in self._entries(directory):
                text = from_native(name)
                self._compared += positions.cost(before, len(text))
                if self._compared > MAX_COMPARISONS:
                    self._refuse_effort()
                after = positions.step(before, text)
                if positions.is_end(after):
                    self._add_match(from_native(os.path.join(directory, name)))
                elif after and is_directory and not is_deepest:
                    below = os.path.join(directory, name)
                    if below not in _VIRTUAL:
                        pending.append((below, level + 1, after))

    def _entries(self, directory: bytes) -> Iterator[tuple[bytes, bool]]:
        check_cancelled()
        try:
            descriptor = os.open(directory, _LISTING)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and directory != self._start:
                raise replaced(from_native(directory)) from None
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidRequest(
                    "sandbox: glob patterns cannot be matched in directories whose paths are "
                    f"longer than {MAX_PATH_BYTES} bytes"
                ) from None
            # Missing, not a directory, or not accessible to the server and so to its sandboxes.
            return
        try:
            if not is_reached_without_links(descriptor, directory):
                raise replaced(from_native(directory))
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self._scanned += 1
                    if self._scanned > MAX_SCANNED:
                        self._refuse_effort()
                    yield os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)
        finally:
            os.close(descriptor)

    def _refuse_effort(self) -> NoReturn:
        raise InvalidRequest(
            f"sandbox: glob patterns take more than {MAX_SCANNED} directory entries or "
            f"{MAX_COMPARISONS} comparisons to match; set glob_scan_max_depth, use fewer patterns, "
            "or start them with a longer path"
        )

    def _add_match(self, path: str) -> None:
        self.found[path] = None
        if len(self.found) > MAX_MATCHES:
            raise InvalidRequest(f"sandbox: glob patterns match more than {MAX_MATCHES} files")


class _Positions:
    """Components of several patterns, numbered consecutively; a position is such a number."""

    def __init__(self, globs: Iterable[Glob]) -> None:
        self._components: list[Component | None] = []
        self._ends: set[int] = set()
        starts: list[int] = []
        for glob in globs:
            starts.append(len(self._components))
            self._components += glob
            self._ends.add(len(self._components))
            self._components.append(_NEVER)
        self._longest = max(component.length for component in self._components if component)
        self.first = self._close(starts)

    def _close(self, positions: Iterable[int]) -> frozenset[int]:
        """Add the position after each ``**``, which also matches no directory."""
        closed = set(positions)
        closed.update(at + 1 for at in positions if self._components[at] is None)
        return frozenset(closed)

    def step(self, positions: frozenset[int], name: str) -> frozenset[int]:
        """Return the positions after one more component of a path."""
        after: list[int] = []
        for at in positions:
            component = self._components[at]
            if component is None:
                after.append(at)
            elif component.matches(name):
                after.append(at + 1)
        return self._close(after) if after else _NOWHERE

    def cost(self, positions: frozenset[int], length: int) -> int:
        """Return the number of comparisons that a step with a name of this length counts as."""
        if self._longest * length <= _CHEAP:
            return len(positions)
        return sum(
            1 if component is None else 1 + component.length * length // _CHEAP
            for component in map(self._components.__getitem__, positions)
        )

    def is_end(self, positions: frozenset[int]) -> bool:
        """Return True if a pattern has matched completely."""
        return not self._ends.isdisjoint(positions)


_NOWHERE: Final[frozenset[int]] = frozenset()
_NEVER: Final = Component(0, None, None)
"""Sentinel at the end of a pattern, which matches no name."""
