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

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol

from exec_server.engine import wildcards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CORE_NAMES: Final = (
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
"""What ``core`` inherits (v1, process/start)."""

DEFAULT_EXCLUDES: Final = ("*KEY*", "*SECRET*", "*TOKEN*")
"""Names that look like secrets (v1, process/start)."""


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
            result = {name: inherited[name] for name in CORE_NAMES if name in inherited}
        case "none":
            result = {}
    excludes = tuple(policy.exclude)
    if not policy.ignore_default_excludes:
        excludes += DEFAULT_EXCLUDES
    if excludes:
        excluded = _any_of(excludes)
        result = {name: value for name, value in result.items() if not excluded.fullmatch(name)}
    result.update(policy.set)
    if policy.include_only:
        included = _any_of(tuple(policy.include_only))
        result = {name: value for name, value in result.items() if included.fullmatch(name)}
    result.update(env)
    return result


@lru_cache(maxsize=64)  # clients send the same few policies over and over
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_translate, patterns)), re.IGNORECASE | re.DOTALL)


def _translate(pattern: str) -> str:
    return wildcards.expression([_translate_part(part) for part in pattern.split("*")])


def _translate_part(part: str) -> str:
    return "".join("." if character == "?" else wildcards.literal(character) for character in part)
