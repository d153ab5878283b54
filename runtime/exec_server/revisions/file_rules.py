"""Conversion of permission entries to the rules of a policy, for every revision."""

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
    """A path given in an entry."""

    @property
    def path(self) -> str:
        """The path, in the form of the revision."""


class Entry(Protocol):
    """One permission entry."""

    @property
    def path(self) -> GlobFileSystemPath | SpecialFileSystemPath | NamedPath:
        """Part of the file system that the entry applies to."""

    @property
    def access(self) -> Literal["read", "write", "deny", "none"]:
        """Access that is granted or denied."""

    @property
    def missing_path_behavior(self) -> Literal["skip"] | None:
        """Behavior if the path does not exist."""


class EntryReader(msgspec.Struct, frozen=True):
    """Converts the entries of one request."""

    places: SpecialPaths
    home: str
    """Directory that ``~`` stands for."""
    read_path: Callable[[str], str]
    """Conversion of a path of the revision to a native one."""
    no_cwd: EngineError
    """Error for an entry that depends on a working directory that is not given."""

    def rules(self, entries: Iterable[Entry]) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        """Return the rules, and the glob patterns of denied paths.

        Raises the errors of ``read_path``, InvalidArgument for an invalid subpath, InvalidRequest
        for a denied place of unknown kind, or ``no_cwd``.
        """
        patterns: list[str] = []
        return bounded(self._rules(entries, patterns)), tuple(patterns)

    def _rules(self, entries: Iterable[Entry], patterns: list[str]) -> Iterator[Rule]:
        """Yield the rules, and append the patterns found meanwhile."""
        for entry in entries:
            if isinstance(entry.path, GlobFileSystemPath):
                # A pattern cannot grant access, only deny it (as in the released servers).
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
                return []  # which grants nothing

    def _absolute(self, pattern: str) -> str:
        # Imported only for policies with patterns.
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
