"""The environment of a child process: the client's variables on top of inherited ones.

Without a policy, the client's variables are the whole environment. With a policy (v1, process/start
``envPolicy``), it is built in this order:

1. start with nothing, the core variables, or all variables of this server;
2. drop names that look like secrets, unless ``ignoreDefaultExcludes`` is set;
3. drop names that match ``exclude``;
4. add ``set``;
5. if ``include_only`` is not empty, drop every name that does not match it;
6. add the client's own variables, which replace inherited ones.
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
"""Maximum number of patterns per policy, and of characters per pattern."""

MAX_NAME_CHARACTERS: Final = 4096
"""Maximum length of a name in ``set``: it matches the longest pattern within 5 ms."""

MAX_EFFORT: Final = 2**29
"""Maximum effort per policy, see ``_effort``: a few seconds at worst."""

_SMALL_EFFORT: Final = 2**20
"""Maximum effort on the event loop: 1 ms, or 5 ms for the slowest patterns."""

_FIXED_EFFORT: Final = 16
"""Fixed cost of one comparison, in characters."""


class EnvironmentPolicy(Protocol):
    """Rules for the variables that a child inherits from the server.

    Patterns match whole names, ignoring case: ``*`` matches any characters, ``?`` one character;
    everything else, brackets included, matches itself.
    """

    @property
    def inherit(self) -> Literal["core", "all", "none"]:
        """The variables to start with."""

    @property
    def ignore_default_excludes(self) -> bool:
        """True to keep names that look like secrets."""

    @property
    def exclude(self) -> Sequence[str]:
        """Patterns of names to drop."""

    @property
    def set(self) -> Mapping[str, str]:
        """Variables to add."""

    @property
    def include_only(self) -> Sequence[str]:
        """Patterns of names to keep; empty to keep all."""


async def prepare_child_environment(
    policy: EnvironmentPolicy | None, env: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return ``child_environment``, computed in a thread if it would block the event loop.

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
    """Return the whole environment of a child.

    ``env`` are the client's variables, ``inherited`` is the environment of this server.
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
    """A set of patterns; a name matches if any of them matches."""

    def __init__(self, patterns: Iterable[str]) -> None:
        # One expression per pattern: a combined one would be compiled for every policy, and a
        # single long match would hold the interpreter lock.
        self._matches = [_compile(pattern).fullmatch for pattern in patterns]

    def matches(self, name: str) -> bool:
        """Return True if a pattern matches this name."""
        return any(match(name) for match in self._matches)


@lru_cache(maxsize=256)  # clients reuse a few policies
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(_translate(pattern), re.IGNORECASE | re.DOTALL)


def _translate(pattern: str) -> str:
    return wildcards.expression([_translate_part(part) for part in pattern.split("*")])


def _translate_part(part: str) -> str:
    return "".join("." if character == "?" else wildcards.literal(character) for character in part)
