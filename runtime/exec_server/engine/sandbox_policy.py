"""What a confined process or file operation may touch, in terms of no revision and no mechanism.

A policy is a list of rules about paths. Where several concern a file, the rule of the longest path
counts; of two rules for one path, ``deny`` counts before ``write``, and that before ``read``. What
no rule concerns is hidden. (v2, ``sandbox`` of process/start and of fs/*.)
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from exec_server.engine.paths import normalize
from exec_server.errors import InvalidArgument

Access = Literal["read", "write", "deny"]

PlaceKind = Literal[
    "root", "minimal", "tmpdir", "slash_tmp", "project_roots", "current_working_directory"
]
"""A place that a rule may name by the part it plays."""

MINIMAL_PATHS: Final = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
"""What programs need to run."""


class Rule(msgspec.Struct, frozen=True):
    """What may be done with one file, or with one directory and everything below it."""

    path: str
    """Absolute and normalised; ``/`` is everything."""
    access: Access
    skips_missing: bool = False
    """Whether a path that does not exist may come to exist; else nobody confined can create it,
    unless the rule itself allows writing."""


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
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidArgument(
                f"sandbox: the subpath of {kind} must be relative and stay below it, "
                f"got {subpath!r}"
            )
        return [normalize(f"{path}/{subpath}") for path in found]
