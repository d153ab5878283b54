"""Finding the files that the deny globs of a sandbox policy match, at one moment.

A pattern is read as codex's glob library reads it: ``*`` and ``?`` stay within one component,
``**`` as a whole component stands for any number of directories, ``[…]`` is one of some characters
(``!`` or ``^`` negates), ``{…,…}`` one of some alternatives, and a backslash takes away a
character's meaning. A ``[`` without its ``]`` stands for itself. What cannot be understood is
refused: a rule that denies must not be without effect.

The cost is bounded, whatever the patterns and the files: alternatives are counted before they are
written out, and directories are searched once for all patterns that begin alike, with a set of
positions in them instead of backtracking.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from exec_server.engine import wildcards
from exec_server.engine.cancellation import check_cancelled
from exec_server.engine.paths import MAX_PATH_BYTES, from_native, to_native
from exec_server.engine.sandbox.policy import MAX_PATTERNS
from exec_server.engine.sandbox.sources import changed, is_reached_without_links
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_SCANNED: Final = 200_000
"""Directory entries looked at for one policy; a second's work, and more than checkouts hold."""

MAX_COMPARISONS: Final = 5_000_000
"""Comparisons of a name with a component of a pattern, for one policy; a second's work. One of
which the lengths multiply to more than ``_CHEAP`` counts as several."""

MAX_MATCHES: Final = 512
"""Matches of one policy; each costs a mount, and a descriptor of the usual 1,024."""

MAX_PATTERN_CHARACTERS: Final = 64 * 1024
"""Characters of all patterns of one policy, alternatives written out: 10 ms to read."""

_MAX_NESTING: Final = 16
"""Nested ``{…}``; each level is a level of recursion."""

_CHEAP: Final = 512
"""Product of the lengths of a name and a component that are compared in well under 1 µs."""

_MAX_SHOWN: Final = 100
"""Characters of a pattern in an error."""

_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MADE_UP: Final = frozenset((b"/dev", b"/proc", b"/sys"))
"""File systems that hold no files of anybody."""

_STAR: Final = ".*"
_ANY: Final = "."
_SLASH: Final = "/"

_Tokens = tuple[str, ...]
"""A pattern without alternatives: each token is the regular expression of one character, or one of
the constants above."""


def find_denied(
    patterns: Iterable[str], depth: int | None, resolve: Callable[[str], str]
) -> list[str]:
    """Return the files, directories and links that match, without those below a matching directory.

    Links are matched but not followed, except in the leading components that are plain names:
    ``resolve`` follows those. ``depth`` is that of ``SandboxPolicy.scan_depth``. Raises
    InvalidRequest for a pattern that cannot be understood, for too many to be sure of all, and for
    directories that are exchanged with links meanwhile.
    """
    scan = _Scan(depth)
    for start, globs in _by_start(_written_out(patterns)).items():
        scan.add(resolve(start), globs)
    return list(scan.found)


def escape(path: str) -> str:
    """Return the pattern that matches this path alone."""
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", path)


class _Scan:
    def __init__(self, depth: int | None) -> None:
        self.found: dict[str, None] = {}
        self._depth = depth
        self._start = b"/"
        self._scanned = 0
        self._compared = 0

    def add(self, start: str, globs: Sequence[_Glob]) -> None:
        """Look for what matches below a directory."""
        positions = _Positions(globs)
        if positions.is_end(positions.first) and os.path.lexists(to_native(start)):
            self._note(start)
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
                    self._note(from_native(os.path.join(directory, name)))
                elif after and is_directory and not is_deepest:
                    below = os.path.join(directory, name)
                    if below not in _MADE_UP:
                        pending.append((below, level + 1, after))

    def _entries(self, directory: bytes) -> Iterator[tuple[bytes, bool]]:
        check_cancelled()
        try:
            descriptor = os.open(directory, _LISTING)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and directory != self._start:
                raise changed(from_native(directory)) from None
            if error.errno == errno.ENAMETOOLONG:
                raise InvalidRequest(
                    "sandbox: its glob patterns cannot be followed into directories whose paths "
                    f"are longer than {MAX_PATH_BYTES} bytes"
                ) from None
            # Missing, no directory, or closed to the server, and so to what it confines.
            return
        try:
            if not is_reached_without_links(descriptor, directory):
                raise changed(from_native(directory))
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
            f"sandbox: its glob patterns need more than {MAX_SCANNED} files to be looked at, or "
            f"more than {MAX_COMPARISONS} comparisons; set glob_scan_max_depth, use fewer patterns "
            "or start them with a longer path"
        )

    def _note(self, path: str) -> None:
        self.found[path] = None
        if len(self.found) > MAX_MATCHES:
            raise InvalidRequest(
                f"sandbox: its glob patterns deny more than {MAX_MATCHES} files one by one"
            )


class _Component(msgspec.Struct, frozen=True):
    """A component of a pattern, other than ``**``."""

    length: int
    text: str | None
    """The only name that matches, if there is just one."""
    expression: re.Pattern[str] | None

    def matches(self, name: str) -> bool:
        """Return True if the component stands for this name."""
        if self.expression is None:
            return name == self.text
        return self.expression.fullmatch(name) is not None


_Glob = tuple[_Component | None, ...]
"""The components of a pattern; None is ``**``. The last one is never ``**``."""


class _Positions:
    """Positions in several patterns, each the number of a component, or of a pattern's end."""

    def __init__(self, globs: Iterable[_Glob]) -> None:
        self._components: list[_Component | None] = []
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
        """Add what follows each ``**``, which may stand for no directory."""
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
        """Return the number of comparisons that a step counts as, for a name of some length."""
        if self._longest * length <= _CHEAP:
            return len(positions)
        return sum(
            1 if component is None else 1 + component.length * length // _CHEAP
            for component in map(self._components.__getitem__, positions)
        )

    def is_end(self, positions: frozenset[int]) -> bool:
        """Return True if a whole pattern matches."""
        return not self._ends.isdisjoint(positions)


_NOWHERE: Final[frozenset[int]] = frozenset()
_NEVER: Final = _Component(0, None, None)
"""Stands at a pattern's end: nothing follows."""


def _by_start(patterns: Iterable[_Tokens]) -> dict[str, list[_Glob]]:
    """The patterns, each without the leading components that are plain names, by the directory
    that these name. A pattern of plain names alone is left with no component.
    """
    globs: dict[str, list[_Glob]] = {}
    for pattern in patterns:
        components = _normal(pattern)
        fixed = list(itertools.takewhile(_is_plain, components))
        start = "/" + "/".join(map(_plain_text, fixed))
        globs.setdefault(start, []).append(_glob(components[len(fixed) :]))
    return globs


def _normal(pattern: _Tokens) -> list[_Tokens]:
    """The components of a pattern, without empty ones, dots, and repeated ``**``."""
    kept: list[_Tokens] = []
    for is_slash, group in itertools.groupby(pattern, _SLASH.__eq__):
        component = tuple(group)
        if is_slash or component == _DOT or (component == _ANY_DEPTH and kept[-1:] == [component]):
            continue
        if component == _DOT_DOT:
            if kept and not _is_plain(kept.pop()):
                raise InvalidRequest(
                    "sandbox: a glob pattern cannot have `..` behind a component with wildcards"
                )
            continue
        kept.append(component)
    return kept


def _glob(components: Sequence[_Tokens]) -> _Glob:
    compiled = tuple(map(_compile, components))
    # At the end ** stands for one component at least: for what a directory holds.
    return (*compiled, _compile((_STAR,))) if compiled and compiled[-1] is None else compiled


def _compile(component: _Tokens) -> _Component | None:
    if component == _ANY_DEPTH:
        return None
    length = len(component)
    if _is_plain(component):
        return _Component(length, _plain_text(component), None)
    parts = [
        "".join(group)
        for is_star, group in itertools.groupby(component, _STAR.__eq__)
        if not is_star
    ]
    if component[0] == _STAR:
        parts.insert(0, "")
    if component[-1] == _STAR:
        parts.append("")
    return _Component(length, None, re.compile(wildcards.expression(parts), re.DOTALL))


_DOT: Final = (wildcards.literal("."),)
_DOT_DOT: Final = _DOT * 2
_ANY_DEPTH: Final = (_STAR, _STAR)


def _is_plain(component: _Tokens) -> bool:
    return not any(token in (_STAR, _ANY) or token[0] == "[" for token in component)


def _plain_text(component: _Tokens) -> str:
    return "".join(token[-1] for token in component)


class _Group(msgspec.Struct, frozen=True):
    """``{…,…}``: alternatives."""

    alternatives: list[_Sequence]

    @property
    def count(self) -> int:
        """Number of patterns without alternatives that it amounts to."""
        return sum(alternative.count for alternative in self.alternatives)


class _Sequence(msgspec.Struct, frozen=True):
    """A part of a pattern."""

    items: list[str | _Group]

    @property
    def count(self) -> int:
        """Number of patterns without alternatives that it amounts to."""
        return math.prod(item.count for item in self.items if isinstance(item, _Group))

    def written_out(self) -> Iterator[_Tokens]:
        """Yield the patterns without alternatives."""
        choices: list[list[_Tokens]] = [
            [(item,)]
            if isinstance(item, str)
            else [tokens for part in item.alternatives for tokens in part.written_out()]
            for item in self.items
        ]
        for chosen in itertools.product(*choices):
            yield tuple(itertools.chain.from_iterable(chosen))


def _written_out(patterns: Iterable[str]) -> Iterator[_Tokens]:
    count = characters = 0
    for pattern in patterns:
        size = len(pattern.encode("utf-8", "surrogateescape"))
        if size > MAX_PATH_BYTES:
            raise InvalidRequest(
                f"sandbox: a glob pattern may have at most {MAX_PATH_BYTES} bytes, got {size}"
            )
        parsed = _Parser(pattern).parse()
        count += parsed.count
        characters += parsed.count * len(pattern)  # none is longer than the pattern itself
        if count > MAX_PATTERNS or characters > MAX_PATTERN_CHARACTERS:
            raise InvalidRequest(
                f"sandbox: its glob patterns may be at most {MAX_PATTERNS} and have at most "
                f"{MAX_PATTERN_CHARACTERS} characters, with each alternative of {{}} counted"
            )
        yield from parsed.written_out()


class _Parser:
    """Reads one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> _Sequence:
        """Return the whole pattern. Raises InvalidRequest."""
        if "\0" in self._pattern:
            raise self._wrong("has a NUL")
        return self._sequence(0)

    def _sequence(self, depth: int) -> _Sequence:
        """Read up to the end, or inside braces to the comma or brace behind an alternative."""
        items: list[str | _Group] = []
        while self._at < len(self._pattern):
            character = self._pattern[self._at]
            if depth and character in ",}":
                break
            self._at += 1
            match character:
                case "*":
                    items.append(_STAR)
                case "?":
                    items.append(_ANY)
                case "/":
                    items.append(_SLASH)
                case "[":
                    items.append(self._class())
                case "{":
                    items.append(self._group(depth + 1))
                case "}":
                    raise self._wrong("has a } without its {")
                case "\\":
                    items.append(self._escaped())
                case _:
                    items.append(wildcards.literal(character))
        return _Sequence(items)

    def _group(self, depth: int) -> _Group:
        if depth > _MAX_NESTING:
            raise self._wrong(f"has more than {_MAX_NESTING} nested braces")
        alternatives: list[_Sequence] = []
        while True:
            alternatives.append(self._sequence(depth))
            if self._at == len(self._pattern):
                raise self._wrong("has a { without its }")
            self._at += 1
            if self._pattern[self._at - 1] == "}":
                return _Group(alternatives)

    def _escaped(self) -> str:
        if self._at == len(self._pattern):
            raise self._wrong("ends with a backslash")
        self._at += 1
        character = self._pattern[self._at - 1]
        if character == "/":
            raise self._wrong("has a backslash before a slash")
        return wildcards.literal(character)

    def _class(self) -> str:
        """Read what follows a ``[``."""
        pattern, start = self._pattern, self._at
        if pattern[start : start + 1] in ("!", "^"):
            start += 1
        end = pattern.find("]", start + 1)
        if end < 0:
            return wildcards.literal("[")
        members = pattern[start:end]
        if "/" in members:
            raise self._wrong("has a slash between [ and ]")
        if "[:" in members:
            raise self._wrong("has a named class of characters, such as [:alpha:]")
        negation = "^" if start > self._at else ""
        self._at = end + 1
        return f"[{negation}{''.join(self._ranges(members))}]"

    def _ranges(self, members: str) -> Iterator[str]:
        at = 0
        while at < len(members):
            first = members[at]
            if members[at + 1 : at + 2] == "-" and at + 2 < len(members):
                last = members[at + 2]
                if last < first:
                    raise self._wrong(f"has the range {first}-{last}, which is empty")
                yield f"{re.escape(first)}-{re.escape(last)}"
                at += 3
            else:
                yield re.escape(first)
                at += 1

    def _wrong(self, what: str) -> InvalidRequest:
        shown = (
            self._pattern if len(self._pattern) <= _MAX_SHOWN else f"{self._pattern[:_MAX_SHOWN]}…"
        )
        return InvalidRequest(f"sandbox: the glob pattern {shown!r} {what}")
