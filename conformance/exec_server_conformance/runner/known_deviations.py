"""Known deviations: what a release is known to do differently, as data with reasons.

A TOML file of ``[[deviation]]`` tables, each with ``sessions`` (a glob over session names),
``reason``, and optionally ``transport`` and ``falls_silent``. The sessions still run; an entry is
stale, and fails the run, when sessions that it names were played and none of them failed.

A server that dies is never excused; one that stops answering anything only by an entry with
``falls_silent = true``, so that no glob hides what it was not written for.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

import tomlkit

from exec_server_conformance.errors import SessionError
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from exec_server_conformance.runner.results import Report
    from exec_server_conformance.runner.session import Transport

_MEMBERS = {"sessions": str, "reason": str, "transport": str, "falls_silent": bool}


class Playable(Protocol):
    """What a deviation may speak of."""

    @property
    def name(self) -> str:
        """Revision, group, name."""
        ...

    @property
    def transports(self) -> Sequence[Transport]:
        """What it is played over."""
        ...


@dataclass(frozen=True, slots=True)
class Deviation:
    """One entry."""

    sessions: str
    reason: str
    transport: str | None = None
    falls_silent: bool = False
    """Whether it speaks of a server that does not answer anything any more."""

    def applies_to(self, name: str, transport: str) -> bool:
        """Whether the entry speaks of a session over a transport."""
        return self.transport in (None, transport) and fnmatchcase(name, self.sessions)


def load_deviations(path: Path) -> list[Deviation]:
    """Read a file of known deviations; raises SessionError naming what is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("deviation", [])
    except (OSError, ValueError) as error:
        raise SessionError(f"{path}: {error}") from None
    entries = []
    for number, table in enumerate(tables, 1):
        known = {"sessions", "reason"} <= set(table) <= set(_MEMBERS)
        if not known or any(not isinstance(table[one], _MEMBERS[one]) for one in table):
            raise SessionError(
                f"{path}: deviation {number} needs the texts sessions and reason, and may have the "
                "text transport and the boolean falls_silent"
            )
        if not table["reason"].strip():
            raise SessionError(f"{path}: the reason of deviation {number} is empty")
        entries.append(Deviation(**table))
    return entries


def check_named(path: Path, entries: Iterable[Deviation], sessions: Iterable[Playable]) -> None:
    """Raise SessionError if an entry names no session at all: it applies_to nothing."""
    plays = [(one.name, transport) for one in sessions for transport in one.transports]
    for entry in entries:
        if not any(entry.applies_to(name, transport) for name, transport in plays):
            raise SessionError(f"{path}: there is no session {_name(entry)}")


def stale(
    entries: Iterable[Deviation], outcomes: Mapping[tuple[str, Transport], Outcome]
) -> list[Deviation]:
    """The entries of which everything that was played has passed.

    ``outcomes`` are by session and transport.
    """

    def of(entry: Deviation) -> set[Outcome]:
        found = (outcome for play, outcome in outcomes.items() if entry.applies_to(*play))
        return set(found) - {Outcome.NOT_APPLICABLE}

    return [entry for entry in entries if of(entry) == {Outcome.PASSED}]


def baseline(report: Report) -> str:
    """The text of a file that applies_to what failed in a run, with what came as the reason.

    What was known already keeps its reason; what could not be judged is not excused. A session that
    did the same over every transport makes one entry.
    """
    deviating: dict[str, dict[str, str]] = defaultdict(dict)
    for play in report.plays:
        if play.outcome in (Outcome.FAILED, Outcome.KNOWN):
            deviating[play.session][play.transport] = play.known_deviation or play.reason or ""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"What {report.header.target} does differently: say why of each."))
    tables = tomlkit.aot()
    for name, reasons in deviating.items():
        transports = [play.transport for play in report.plays if play.session == name]
        if len(reasons) == len(transports) and len(set(reasons.values())) == 1:
            reason = next(iter(reasons.values()))
            tables.append(tomlkit.item({"sessions": name, "reason": reason}))
        else:
            for transport, reason in reasons.items():
                entry = {"sessions": name, "transport": transport, "reason": reason}
                tables.append(tomlkit.item(entry))
    if deviating:
        document.add("deviation", tables)
    return tomlkit.dumps(document)


def _name(entry: Deviation) -> str:
    over = f" over {entry.transport}" if entry.transport else ""
    return f"{entry.sessions!r}{over}"
