"""Known deviations of a target, as data with reasons.

A file is TOML with ``[[deviation]]`` tables:

==============  ==================================================================================
``sessions``    glob over session names
``reason``      explanation for people
``fails_with``  the expected failure: ``kind``, ``at`` (the exact place) and ``reason`` (a regular
                expression that is searched in the message); all given members must match
``transport``   ``ws`` or ``stdio`` (default: both)
``check_only``  true: excuse this comparison alone and run the rest of the session
``flaky``       true: repeat a play that fails this way; it must pass within three tries
==============  ==================================================================================

The sessions are still run. A play that fails in another way is a failure. An entry is stale, and
fails the run, if all plays that it applies to passed. A crash of the target is never excused.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol

import tomlkit

from exec_server_conformance.errors import FAILURE_KINDS, SessionError
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from exec_server_conformance.errors import Failure
    from exec_server_conformance.runner.results import Play, Report
    from exec_server_conformance.runner.session import Transport

FLAKY_TRIES: Final = 3
"""Number of tries of a flaky play; a race that is lost more often is a deviation."""

_MEMBERS: Final = {
    "sessions": str,
    "reason": str,
    "fails_with": dict,
    "transport": str,
    "check_only": bool,
    "flaky": bool,
}
_REQUIRED: Final = frozenset({"sessions", "reason", "fails_with"})
_EXCUSABLE_KINDS: Final = tuple(kind for kind in FAILURE_KINDS if kind != "crash")


class Playable(Protocol):
    """Item that a deviation can apply to: a session or a client case."""

    @property
    def name(self) -> str:
        """Revision, group and name."""
        ...

    @property
    def transports(self) -> Sequence[Transport]:
        """Transports that the item is run over."""
        ...


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """Description of a failure that can be compared; members that are None match anything."""

    kind: str | None = None
    at: str | None = None
    reason: str | None = None

    def matches(self, failure: Failure) -> bool:
        """Return True if the failure is the described one."""
        return (
            self.kind in (None, failure.kind)
            and self.at in (None, failure.where)
            and (self.reason is None or re.search(self.reason, str(failure)) is not None)
        )

    def __str__(self) -> str:
        parts = (self.kind, self.at and f"at {self.at}", self.reason and f"matching {self.reason}")
        return " ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Deviation:
    """Entry of a file of known deviations."""

    sessions: str
    reason: str
    fails_with: ExpectedFailure
    transport: str | None = None
    check_only: bool = False
    flaky: bool = False

    def applies_to(self, name: str, transport: str) -> bool:
        """Return True if the entry applies to a session over a transport."""
        return self.transport in (None, transport) and fnmatchcase(name, self.sessions)


def load_deviations(path: Path) -> list[Deviation]:
    """Read a file of known deviations; raise SessionError if it is invalid."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("deviation", [])
    except (OSError, ValueError) as error:
        raise SessionError(f"{path}: {error}") from None
    return [_deviation(table, f"{path}: deviation {at}") for at, table in enumerate(tables, 1)]


def _deviation(table: dict[str, Any], where: str) -> Deviation:
    has_members = set(table) >= _REQUIRED and set(table) <= set(_MEMBERS)
    if not has_members or any(not isinstance(table[one], _MEMBERS[one]) for one in table):
        raise SessionError(
            f"{where} needs the strings sessions and reason and the table fails_with, and may "
            "have the string transport and the booleans check_only and flaky"
        )
    if not table["reason"].strip():
        raise SessionError(f"{where}: reason is empty")
    return Deviation(**{**table, "fails_with": _expected_failure(table["fails_with"], where)})


def _expected_failure(table: dict[str, Any], where: str) -> ExpectedFailure:
    is_valid = table and set(table) <= {"kind", "at", "reason"}
    if not is_valid or not all(isinstance(one, str) for one in table.values()):
        raise SessionError(f"{where}: fails_with needs one of the strings kind, at and reason")
    if table.get("kind", _EXCUSABLE_KINDS[0]) not in _EXCUSABLE_KINDS:
        kinds = ", ".join(_EXCUSABLE_KINDS)
        raise SessionError(f"{where}: fails_with.kind {table['kind']!r} is not one of {kinds}")
    try:
        re.compile(table.get("reason", ""))
    except re.error as error:
        raise SessionError(f"{where}: fails_with.reason is not a pattern: {error}") from None
    return ExpectedFailure(**table)


def check_named(path: Path, entries: Iterable[Deviation], sessions: Iterable[Playable]) -> None:
    """Raise SessionError for an entry that applies to no session."""
    plays = [(one.name, transport) for one in sessions for transport in one.transports]
    for entry in entries:
        if not any(entry.applies_to(name, transport) for name, transport in plays):
            over = f" over {entry.transport}" if entry.transport else ""
            raise SessionError(f"{path}: there is no session {entry.sessions!r}{over}")


def applicable(entries: Iterable[Deviation], play: Play) -> list[Deviation]:
    """Return the entries that apply to a play."""
    return [one for one in entries if one.applies_to(play.session, play.transport)]


def stale(
    entries: Iterable[Deviation], outcomes: Mapping[tuple[str, Transport], Outcome]
) -> list[Deviation]:
    """Return the entries whose plays all passed; races cannot be stale.

    ``outcomes`` are by session and transport.
    """

    def outcomes_of(entry: Deviation) -> set[Outcome]:
        found = (outcome for play, outcome in outcomes.items() if entry.applies_to(*play))
        return set(found) - {Outcome.NOT_APPLICABLE}

    return [
        entry for entry in entries if not entry.flaky and outcomes_of(entry) == {Outcome.PASSED}
    ]


def baseline(report: Report) -> str:
    """Return a file that excuses the failures of a run, each by its kind and place.

    Known deviations keep their reasons; plays without a verdict are not excused. A failure that is
    the same over every transport makes one entry.
    """
    deviating: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for play in report.plays:
        if play.outcome in (Outcome.FAILED, Outcome.KNOWN) and play.divergence:
            failure = {"kind": play.divergence.kind}
            if play.divergence.where:
                failure["at"] = play.divergence.where
            else:
                failure["reason"] = f"^{re.escape(play.divergence.message)}$"
            reason = play.known_deviation or play.reason or ""
            deviating[play.session][play.transport] = {"reason": reason, "fails_with": failure}
    document = tomlkit.document()
    comment = f"Known deviations of {report.header.target}: replace each reason by an explanation."
    document.add(tomlkit.comment(comment))
    tables = tomlkit.aot()
    for name, entries in deviating.items():
        transports = [play.transport for play in report.plays if play.session == name]
        first = next(iter(entries.values()))
        if len(entries) == len(transports) and all(one == first for one in entries.values()):
            tables.append(_table({"sessions": name, **first}))
        else:
            for transport, entry in entries.items():
                tables.append(_table({"sessions": name, "transport": transport, **entry}))
    if deviating:
        document.add("deviation", tables)
    return tomlkit.dumps(document)


def _table(entry: dict[str, Any]) -> Any:
    table = tomlkit.table()
    for name, value in entry.items():
        if name == "fails_with":
            inline = tomlkit.inline_table()
            inline.update(value)
            table.add(name, inline)
        else:
            table.add(name, value)
    return table
