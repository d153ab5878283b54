"""Parsing of the deny globs of sandbox policies.

The syntax is that of codex's glob library: ``*`` and ``?`` match within one component, ``**`` as a
whole component matches any number of directories, ``[…]`` one of several characters (negated by
``!`` or ``^``), ``{…,…}`` one of several alternatives, and a backslash escapes a character. A ``[``
without its ``]`` matches itself. Invalid patterns are refused, because a rule that denies
access must not be without effect.

Alternatives are counted before they are expanded, so the cost is bounded for any pattern.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from exec_server.engine import wildcards
from exec_server.engine.paths import MAX_PATH_BYTES
from exec_server.engine.sandbox.policy import MAX_PATTERNS
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_PATTERN_CHARACTERS: Final = 64 * 1024
"""Characters of all patterns of one policy with alternatives expanded, parsed in about 10 ms."""

_MAX_NESTING: Final = 16
"""Nested ``{…}``, each of which takes a level of recursion."""

_MAX_SHOWN: Final = 100
"""Characters of a pattern that an error message quotes."""

_STAR: Final = ".*"
_ANY: Final = "."
_SLASH: Final = "/"

_Tokens: TypeAlias = tuple[str, ...]
"""A pattern without alternatives: each token is the regular expression of one character, or one of
the constants above."""


class Component(msgspec.Struct, frozen=True):
    """A component of a pattern, other than ``**``."""

    length: int
    text: str | None
    """The only matching name, for a component without wildcards."""
    expression: re.Pattern[str] | None

    def matches(self, name: str) -> bool:
        """Return True if a name matches."""
        if self.expression is None:
            return name == self.text
        return self.expression.fullmatch(name) is not None


Glob: TypeAlias = tuple[Component | None, ...]
"""Components of a pattern; None for ``**``, which is never the last one."""


def escape(path: str) -> str:
    """Return the pattern that matches only this path."""
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", path)


def parse_globs(patterns: Iterable[str]) -> dict[str, list[Glob]]:
    """Parse patterns; return them by their fixed part, the leading components without wildcards.

    The fixed part is removed from the patterns, so a pattern without wildcards has no components.
    Raises InvalidRequest for invalid patterns, or if they exceed the limits.
    """
    globs: dict[str, list[Glob]] = {}
    for pattern in _expanded(patterns):
        components = _normalized(pattern)
        fixed = list(itertools.takewhile(_is_plain, components))
        start = "/" + "/".join(map(_plain_text, fixed))
        globs.setdefault(start, []).append(_glob(components[len(fixed) :]))
    return globs


def _normalized(pattern: _Tokens) -> list[_Tokens]:
    """Return the components of a pattern without empty ones, dots, and repeated ``**``."""
    kept: list[_Tokens] = []
    for is_slash, group in itertools.groupby(pattern, _SLASH.__eq__):
        component = tuple(group)
        if is_slash or component == _DOT or (component == _ANY_DEPTH and kept[-1:] == [component]):
            continue
        if component == _DOT_DOT:
            if kept and not _is_plain(kept.pop()):
                raise InvalidRequest(
                    "sandbox: a glob pattern cannot have `..` after a component with wildcards"
                )
            continue
        kept.append(component)
    return kept


def _glob(components: Sequence[_Tokens]) -> Glob:
    compiled = tuple(map(_compile, components))
    # At the end ** matches at least one component: the entries of a directory.
    return (*compiled, _compile((_STAR,))) if compiled and compiled[-1] is None else compiled


def _compile(component: _Tokens) -> Component | None:
    if component == _ANY_DEPTH:
        return None
    length = len(component)
    if _is_plain(component):
        return Component(length, _plain_text(component), None)
    parts = [
        "".join(group)
        for is_star, group in itertools.groupby(component, _STAR.__eq__)
        if not is_star
    ]
    if component[0] == _STAR:
        parts.insert(0, "")
    if component[-1] == _STAR:
        parts.append("")
    return Component(length, None, re.compile(wildcards.expression(parts), re.DOTALL))


_DOT: Final = (wildcards.literal("."),)
_DOT_DOT: Final = _DOT * 2
_ANY_DEPTH: Final = (_STAR, _STAR)


def _is_plain(component: _Tokens) -> bool:
    return not any(token in (_STAR, _ANY) or token[0] == "[" for token in component)


def _plain_text(component: _Tokens) -> str:
    return "".join(token[-1] for token in component)


class _Group(msgspec.Struct, frozen=True):
    """A group of alternatives: ``{…,…}``."""

    alternatives: list[_Sequence]

    @property
    def count(self) -> int:
        """Number of patterns after expansion."""
        return sum(alternative.count for alternative in self.alternatives)


class _Sequence(msgspec.Struct, frozen=True):
    """A part of a pattern."""

    items: list[str | _Group]

    @property
    def count(self) -> int:
        """Number of patterns after expansion."""
        return math.prod(item.count for item in self.items if isinstance(item, _Group))

    def expand(self) -> Iterator[_Tokens]:
        """Yield the patterns without alternatives."""
        choices: list[list[_Tokens]] = [
            [(item,)]
            if isinstance(item, str)
            else [tokens for part in item.alternatives for tokens in part.expand()]
            for item in self.items
        ]
        for chosen in itertools.product(*choices):
            yield tuple(itertools.chain.from_iterable(chosen))


def _expanded(patterns: Iterable[str]) -> Iterator[_Tokens]:
    """Yield all patterns without alternatives. Raises InvalidRequest."""
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
                f"sandbox: at most {MAX_PATTERNS} glob patterns with {MAX_PATTERN_CHARACTERS} "
                "characters are supported, with each alternative of {} counted"
            )
        yield from parsed.expand()


class _Parser:
    """Parser for one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parse(self) -> _Sequence:
        """Return the whole pattern. Raises InvalidRequest."""
        if "\0" in self._pattern:
            raise self._error("contains a NUL")
        return self._sequence(0)

    def _sequence(self, depth: int) -> _Sequence:
        """Parse up to the end, or within braces up to the comma or brace after an alternative."""
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
                    raise self._error("has a } without a {")
                case "\\":
                    items.append(self._escaped())
                case _:
                    items.append(wildcards.literal(character))
        return _Sequence(items)

    def _group(self, depth: int) -> _Group:
        if depth > _MAX_NESTING:
            raise self._error(f"has more than {_MAX_NESTING} nested braces")
        alternatives: list[_Sequence] = []
        while True:
            alternatives.append(self._sequence(depth))
            if self._at == len(self._pattern):
                raise self._error("has a { without a }")
            self._at += 1
            if self._pattern[self._at - 1] == "}":
                return _Group(alternatives)

    def _escaped(self) -> str:
        if self._at == len(self._pattern):
            raise self._error("ends with a backslash")
        self._at += 1
        character = self._pattern[self._at - 1]
        if character == "/":
            raise self._error("has a backslash before a slash")
        return wildcards.literal(character)

    def _class(self) -> str:
        """Parse the part after a ``[``."""
        pattern, start = self._pattern, self._at
        if pattern[start : start + 1] in ("!", "^"):
            start += 1
        end = pattern.find("]", start + 1)
        if end < 0:
            return wildcards.literal("[")
        members = pattern[start:end]
        if "/" in members:
            raise self._error("has a slash between [ and ]")
        if "[:" in members:
            raise self._error("has a named character class such as [:alpha:]")
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
                    raise self._error(f"has the range {first}-{last}, which is empty")
                yield f"{re.escape(first)}-{re.escape(last)}"
                at += 3
            else:
                yield re.escape(first)
                at += 1

    def _error(self, problem: str) -> InvalidRequest:
        shown = (
            self._pattern if len(self._pattern) <= _MAX_SHOWN else f"{self._pattern[:_MAX_SHOWN]}…"
        )
        return InvalidRequest(f"sandbox: the glob pattern {shown!r} {problem}")
