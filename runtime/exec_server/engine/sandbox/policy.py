"""What a confined process or file operation may touch, in terms of no revision and no mechanism.

A policy is a list of rules about paths. Where several concern a file, the rule of the longest path
counts; of two rules for one path, ``deny`` counts before ``write``, and that before ``read``. What
no rule concerns is hidden. (v2, ``sandbox`` of process/start and of fs/*.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine.paths import MAX_PATH_BYTES, normalize
from exec_server.errors import InvalidArgument, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

Access = Literal["read", "write", "deny"]

PlaceKind = Literal[
    "root", "minimal", "tmpdir", "slash_tmp", "project_roots", "current_working_directory"
]
"""A place that a rule may name by the part it plays."""

MINIMAL_PATHS: Final = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
"""What programs need to run."""


MAX_RULES: Final = 512
"""Rules of one policy, each place that a rule names counted; each costs a mount, and a descriptor
of the usual 1,024."""

MAX_LEVELS: Final = 256
"""Levels of a rule's path; far more than anybody's directories have."""

MAX_TOTAL_LEVELS: Final = 8192
"""Levels of all rules' paths: what the effort for a view grows with. 512 rules may have 16."""

MAX_PATTERNS: Final = 1024
"""Patterns of one policy, each alternative of ``{…,…}`` counted; more than anybody writes."""


class Rule(msgspec.Struct, frozen=True):
    """What may be done with one file, or with one directory and everything below it."""

    path: str
    """Absolute and normalised; ``/`` is everything."""
    access: Access
    skips_missing: bool = False
    """Whether a path that does not exist may come to exist; else nobody confined can create it,
    unless the rule itself allows writing."""


def bounded(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules. Raises InvalidRequest for more than a view can be made of."""
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


def check_number(what: str, count: int, maximum: int) -> None:
    """Raise InvalidRequest for more of something than a sandbox may have."""
    if count > maximum:
        raise InvalidRequest(f"sandbox: at most {maximum} {what} are supported, got {count}")


class SandboxPolicy(msgspec.Struct, frozen=True):
    """What is allowed."""

    rules: tuple[Rule, ...]
    denied_patterns: tuple[str, ...] = ()
    """Absolute globs of what is denied: ``*``, ``?``, ``[…]``, ``{…,…}``, ``**`` for any number of
    directories. What they match is found when something is confined; see ``sandbox_globs``."""
    scan_depth: int | None = None
    """How many levels below the fixed part of a pattern matches are looked for; None is all."""
    allows_network: bool = False

    @property
    def leaves_files_open(self) -> bool:
        """Whether everything may be written."""
        return (
            not self.denied_patterns
            and any(rule.path == "/" for rule in self.rules)
            and all(rule.access == "write" for rule in self.rules)
        )


class Places(msgspec.Struct, frozen=True):
    """The directories that places stand for; each absolute."""

    cwd: str | None = None
    project_roots: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()

    def find(self, kind: PlaceKind, subpath: str | None = None) -> list[str]:
        """The paths of a place, or of a part of it.

        Raises InvalidArgument for a part that is not a relative path below the place.
        """
        match kind:
            case "root":
                found: tuple[str, ...] = ("/",)
            case "minimal":
                found = MINIMAL_PATHS
            case "slash_tmp":
                found = ("/tmp",)  # noqa: S108  # is the place itself
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
