"""Sandbox policies, independent of protocol revisions and of their enforcement.

A policy is a list of rules for paths. If several match a file, the rule with the longest path
applies; of two rules for the same path, ``deny`` takes precedence over ``write``, and ``write``
over ``read``. Files that match no rule are hidden. (v2, ``sandbox`` of process/start and of fs/*.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine.paths import MAX_PATH_BYTES, normalize
from exec_server.errors import InvalidArgument, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

Access = Literal["read", "write", "deny"]

SpecialPathKind = Literal[
    "root", "minimal", "tmpdir", "slash_tmp", "project_roots", "current_working_directory"
]
"""Kinds of directories that a rule can name by their purpose."""

MINIMAL_PATHS: Final = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
"""System directories that programs need."""

MAX_RULES: Final = 512
"""Rules of one policy, with one counted for each directory of a special path. Each takes a mount,
and a descriptor out of the usual 1,024."""

MAX_LEVELS: Final = 256
"""Levels of a rule's path; far more than directory trees have in practice."""

MAX_TOTAL_LEVELS: Final = 8192
"""Levels of all rules' paths together, because planning time grows with them: 16 for each of 512
rules."""

MAX_PATTERNS: Final = 1024
"""Glob patterns of one policy, with each alternative of ``{…,…}`` counted; more than are used."""


class Rule(msgspec.Struct, frozen=True):
    """Access to a file, or to a directory and everything below it."""

    path: str
    """Absolute and normalized."""
    access: Access
    skips_missing: bool = False
    """True if a missing path may be created. Otherwise sandboxed programs cannot create it, unless
    the rule itself allows writing."""


def bounded(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules. Raises InvalidRequest if they exceed the limits of a policy."""
    kept: list[Rule] = []
    levels = 0
    for rule in rules:
        kept.append(rule)
        check_number("rules", len(kept), MAX_RULES)
        own = rule.path.count("/")
        if own > MAX_LEVELS or len(rule.path) >= MAX_PATH_BYTES:
            raise InvalidRequest(
                f"sandbox: the path of a rule may have at most {MAX_LEVELS} levels and "
                f"{MAX_PATH_BYTES - 1} characters, got {own} and {len(rule.path)}"
            )
        levels += own
        check_number("levels of paths in its rules", levels, MAX_TOTAL_LEVELS)
    return tuple(kept)


def check_number(items: str, count: int, maximum: int) -> None:
    """Raise InvalidRequest if a policy has too many items of a kind."""
    if count > maximum:
        raise InvalidRequest(f"sandbox: at most {maximum} {items} are supported, got {count}")


class SandboxPolicy(msgspec.Struct, frozen=True):
    """Access rights of a sandboxed process or file operation."""

    rules: tuple[Rule, ...]
    denied_patterns: tuple[str, ...] = ()
    """Absolute glob patterns of denied paths: ``*``, ``?``, ``[…]``, ``{…,…}``, and ``**`` for any
    number of directories. They are matched when a sandbox is set up; see ``globs``."""
    scan_depth: int | None = None
    """Levels below the fixed part of a pattern that are searched; None for all."""
    allows_network: bool = False

    @property
    def leaves_files_open(self) -> bool:
        """True if the whole file system is writable."""
        return (
            not self.denied_patterns
            and any(rule.path == "/" for rule in self.rules)
            and all(rule.access == "write" for rule in self.rules)
        )


class SpecialPaths(msgspec.Struct, frozen=True):
    """The absolute paths of special directories."""

    cwd: str | None = None
    project_roots: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()

    def find(self, kind: SpecialPathKind, subpath: str | None = None) -> list[str]:
        """Return the directories of a kind, or a subpath of each.

        Raises InvalidArgument for a subpath that is not relative or leaves the directory.
        """
        match kind:
            case "root":
                found: tuple[str, ...] = ("/",)
            case "minimal":
                found = MINIMAL_PATHS
            case "slash_tmp":
                found = ("/tmp",)  # noqa: S108  # the directory itself, not a temporary file
            case "tmpdir":
                found = self.temporary
            case "project_roots":
                found = self.project_roots
            case "current_working_directory":
                found = () if self.cwd is None else (self.cwd,)
        if not subpath:
            return list(found)
        if len(subpath) >= MAX_PATH_BYTES:
            raise InvalidArgument(
                f"sandbox: the subpath of {kind} may have at most {MAX_PATH_BYTES - 1} characters, "
                f"got {len(subpath)}"
            )
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidArgument(
                f"sandbox: the subpath of {kind} must be relative and stay below it, "
                f"got {subpath!r}"
            )
        return [normalize(f"{path}/{subpath}") for path in found]
