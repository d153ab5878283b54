"""Known deviations: what a release is known to do differently, as data with reasons.

A TOML file of ``[[deviation]]`` tables, each with ``sessions`` (a glob over session names),
``reason``, and optionally ``transport``. The sessions still run; an entry that no failing session
matches is stale, and fails the run.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from exec_server_conformance.errors import SessionError

if TYPE_CHECKING:
    from pathlib import Path

_MEMBERS = {"sessions", "reason", "transport"}


@dataclass(slots=True)
class Deviation:
    """One entry; ``used`` once a failing session matched it."""

    sessions: str
    reason: str
    transport: str | None = None
    used: bool = False

    def excuses(self, name: str, transport: str) -> bool:
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
        if not {"sessions", "reason"} <= set(table) <= _MEMBERS or not table["reason"].strip():
            raise SessionError(
                f"{path}: deviation {number} needs sessions and a reason, and may have transport"
            )
        entries.append(Deviation(**table))
    return entries
