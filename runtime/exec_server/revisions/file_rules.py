"""From the entries of a client's permissions to the rules of a policy, in whatever revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from exec_server.engine.sandbox.policy import MAX_PATTERNS, Rule, bounded, check_number
from exec_server.errors import EngineError, InvalidRequest
from exec_server_protocol.v2.sandbox import (
    GlobFileSystemPath,
    MinimalPlace,
    ProjectRootsPlace,
    RootPlace,
    SlashTmpPlace,
    SpecialFileSystemPath,
    TmpdirPlace,
    WorkingDirectoryPlace,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exec_server.engine.sandbox.policy import SpecialPaths
    from exec_server_protocol.v2.sandbox import SpecialPlace


class NamedPath(Protocol):
    """A path that an entry gives by name."""

    @property
    def path(self) -> str:
        """In the form that the revision has for paths."""


class Entry(Protocol):
    """One permission."""

    @property
    def path(self) -> GlobFileSystemPath | SpecialFileSystemPath | NamedPath:
        """Which part of the file system is meant."""

    @property
    def access(self) -> Literal["read", "write", "deny", "none"]:
        """What may be done there."""

    @property
    def missing_path_behavior(self) -> Literal["skip"] | None:
        """What to do where the path does not exist."""


class EntryReader(msgspec.Struct, frozen=True):
    """Reads the entries of one request."""

    places: SpecialPaths
    home: str
    """What ``~`` stands for."""
    read_path: Callable[[str], str]
    """Makes a path of the revision a native one."""
    no_cwd: EngineError
    """Raised where a place depends on a directory that is not given."""

    def rules(self, entries: Iterable[Entry]) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        """The rules, and the patterns of what is denied.

        Raises what ``read_path`` raises, InvalidArgument for a part that is none, InvalidRequest
        for a denied place that is unknown, or ``no_cwd``.
        """
        patterns: list[str] = []
        return bounded(self._rules(entries, patterns)), tuple(patterns)

    def _rules(self, entries: Iterable[Entry], patterns: list[str]) -> Iterator[Rule]:
        """Yield the rules one by one, and add the patterns that are met on the way."""
        for entry in entries:
            if isinstance(entry.path, GlobFileSystemPath):
                # A pattern grants nothing, it only takes away (as in the released servers).
                if entry.access in ("deny", "none"):
                    patterns.append(self._absolute(entry.path.pattern))
                    check_number("glob patterns", len(patterns), MAX_PATTERNS)
                continue
            if isinstance(entry.path, SpecialFileSystemPath):
                paths = self._find(entry.path.value, is_denied=entry.access in ("deny", "none"))
            else:
                paths = [self.read_path(entry.path.path)]
            access = "deny" if entry.access == "none" else entry.access
            skips_missing = entry.missing_path_behavior == "skip"
            for path in paths:
                yield Rule(path, access, skips_missing)

    def _find(self, place: SpecialPlace, *, is_denied: bool) -> list[str]:
        match place:
            case RootPlace():
                return self.places.find("root")
            case MinimalPlace():
                return self.places.find("minimal")
            case TmpdirPlace():
                return self.places.find("tmpdir")
            case SlashTmpPlace():
                return self.places.find("slash_tmp")
            case ProjectRootsPlace(subpath=subpath):
                self._cwd()
                return self.places.find("project_roots", subpath)
            case WorkingDirectoryPlace(subpath=subpath):
                self._cwd()
                return self.places.find("current_working_directory", subpath)
            case _ if is_denied:
                raise InvalidRequest(
                    "sandbox: a place of a kind that this server does not know cannot be denied"
                )
            case _:
                return []  # nothing is granted there

    def _absolute(self, pattern: str) -> str:
        # Loaded only for policies with patterns.
        from exec_server.engine.sandbox.glob_patterns import escape  # noqa: PLC0415

        if pattern.startswith("~/"):
            return escape(self.home) + pattern[1:]
        if not pattern.startswith("/"):
            return f"{escape(self._cwd())}/{pattern}"
        return pattern

    def _cwd(self) -> str:
        if self.places.cwd is None:
            raise self.no_cwd
        return self.places.cwd
