"""The environment of a child: what the client gave, over what a policy lets through.

Without a policy the client's variables are everything. With one (v1, process/start ``envPolicy``)
these steps are taken, in this order:

1. start from nothing, the core variables, or all variables of this server;
2. drop names that look like secrets, unless told not to;
3. drop names that match ``exclude``;
4. add ``set``;
5. if there is an ``include_only``, drop every name that does not match it;
6. lay the client's own variables over the result.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol

from exec_server.engine import background, wildcards
from exec_server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CORE_NAMES: Final = frozenset(
    (
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TEMP",
        "TMP",
        "TMPDIR",
        "USER",
    )
)
"""The variables that ``core`` inherits, in upper or lower case (v1, process/start)."""

DEFAULT_EXCLUDES: Final = ("*KEY*", "*SECRET*", "*TOKEN*")
"""Names that look like secrets (v1, process/start)."""

MAX_PATTERNS: Final = 1024
MAX_PATTERN_CHARACTERS: Final = 256
"""Most patterns of one policy, and most characters of one; both more than anybody writes."""

MAX_NAME_CHARACTERS: Final = 4096
"""Longest name of ``set`` that is compared: with the longest pattern in 5 ms."""

MAX_EFFORT: Final = 2**29
"""Most effort for one policy, see ``_effort``: some seconds at worst."""

_SMALL_EFFORT: Final = 2**20
"""Up to that the event loop matches itself: 1 ms, and 5 ms for the worst of patterns."""

_FIXED_EFFORT: Final = 16
"""What one comparison takes, in characters."""


class EnvironmentPolicy(Protocol):
    """Which variables of the server a child inherits.

    Patterns are compared with whole names, ignoring case: ``*`` stands for any characters,
    ``?`` for one, everything else, brackets included, for itself.
    """

    @property
    def inherit(self) -> Literal["core", "all", "none"]:
        """What to start from."""

    @property
    def ignore_default_excludes(self) -> bool:
        """Whether to keep names that look like secrets."""

    @property
    def exclude(self) -> Sequence[str]:
        """Patterns of names to drop."""

    @property
    def set(self) -> Mapping[str, str]:
        """Variables to add."""

    @property
    def include_only(self) -> Sequence[str]:
        """Patterns of the names to keep; empty for all."""


async def prepare_child_environment(
    policy: EnvironmentPolicy | None, env: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return what ``child_environment`` returns, away from the event loop if that takes long.

    Raises InvalidArgument for a policy beyond the limits.
    """
    if policy is None or _effort(policy, inherited) <= _SMALL_EFFORT:
        return child_environment(policy, env, inherited)
    return await background.compute(child_environment, policy, env, dict(inherited))


def _effort(policy: EnvironmentPolicy, inherited: Mapping[str, str]) -> int:
    """Return the product of the lengths of all names and of all patterns.

    Raises InvalidArgument for a policy beyond the limits.
    """
    patterns = [*policy.exclude, *policy.include_only]
    if not patterns:
        return 0
    if len(patterns) > MAX_PATTERNS:
        raise InvalidArgument(
            f"envPolicy: at most {MAX_PATTERNS} patterns are supported, got {len(patterns)}"
        )
    longest = max(map(len, patterns))
    if longest > MAX_PATTERN_CHARACTERS:
        raise InvalidArgument(
            f"envPolicy: a pattern may have at most {MAX_PATTERN_CHARACTERS} characters, "
            f"got {longest}"
        )
    longest = max(map(len, policy.set), default=0)
    if longest > MAX_NAME_CHARACTERS:
        raise InvalidArgument(
            f"envPolicy: a name of set may have at most {MAX_NAME_CHARACTERS} characters, "
            f"got {longest}"
        )
    effort = math.prod(
        sum(map(len, texts)) + _FIXED_EFFORT * len(texts)
        for texts in (patterns, [*policy.set, *inherited])
    )
    if effort > MAX_EFFORT:
        raise InvalidArgument("envPolicy: too many patterns for so many variables")
    return effort


def child_environment(
    policy: EnvironmentPolicy | None, env: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of a child.

    ``env`` is what the client gave, ``inherited`` the environment of this server.
    """
    if policy is None:
        return dict(env)
    match policy.inherit:
        case "all":
            result = dict(inherited)
        case "core":
            result = {
                name: value for name, value in inherited.items() if name.upper() in CORE_NAMES
            }
        case "none":
            result = {}
    excludes = tuple(policy.exclude)
    if not policy.ignore_default_excludes:
        excludes += DEFAULT_EXCLUDES
    if excludes:
        excluded = _Matcher(excludes)
        result = {name: value for name, value in result.items() if not excluded.matches(name)}
    result.update(policy.set)
    if policy.include_only:
        included = _Matcher(policy.include_only)
        result = {name: value for name, value in result.items() if included.matches(name)}
    result.update(env)
    return result


class _Matcher:
    """Some patterns, of which any may match."""

    def __init__(self, patterns: Iterable[str]) -> None:
        # One expression for each: for all together it would be compiled anew for each policy, and
        # one comparison could take long, in which no other thread gets its turn.
        self._matches = [_compile(pattern).fullmatch for pattern in patterns]

    def matches(self, name: str) -> bool:
        """Return True if a pattern stands for this name."""
        return any(match(name) for match in self._matches)


@lru_cache(maxsize=256)  # clients send the same few policies over and over
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(_translate(pattern), re.IGNORECASE | re.DOTALL)


def _translate(pattern: str) -> str:
    return wildcards.expression([_translate_part(part) for part in pattern.split("*")])


def _translate_part(part: str) -> str:
    return "".join("." if character == "?" else wildcards.literal(character) for character in part)
