"""Changes from one contract to another, and the log that collects them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from exec_server_codegen.breaking_rules import RULES, Severity

if TYPE_CHECKING:
    from exec_server_codegen.breaking_rules import Rule
    from exec_server_codegen.json_documents import Where


Sender = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change from an old contract to a new one."""

    rule: Rule
    is_gone: bool
    """True if the place belongs to the old contract, because the new one removed it."""

    file: str
    """Schema file, such as ``process.json``."""

    where: Where
    """Path inside the file."""

    subject: str
    """Name of a method, an error, a definition or ``Definition.member``."""

    aspect: str
    """Aspect that changed; empty if the subject was added or removed."""

    was: str | None
    """Value before the change; None if there was none."""

    now: str | None
    """Value after the change; None if there is none."""

    @property
    def is_breaking(self) -> bool:
        """True if peers or callers have to adapt to the change."""
        return self.rule.severity is not Severity.COMPATIBLE

    @property
    def message(self) -> str:
        """Description of the change."""
        if self.was is not None and self.now is not None:
            return f"{self.subject}: {self.aspect} was {self.was}, is {self.now}"
        thing = f"{self.subject}: {self.aspect}" if self.aspect else self.subject
        if self.now is None:
            return f"{thing} is gone" + (f" (was {self.was})" if self.was else "")
        return f"{thing} is new" + (f" ({self.now})" if self.now else "")


@dataclass(frozen=True, slots=True)
class Spot:
    """A place of the new contract where something is compared."""

    subject: str
    file: str
    where: Where
    sender: Sender

    def below(self, *where: str | int) -> Spot:
        """A place inside this one, of the same subject."""
        return replace(self, where=(*self.where, *where))


class ChangeLog:
    """Changes in the order in which they were found, each once."""

    def __init__(self) -> None:
        self._changes: dict[Change, None] = {}

    @property
    def changes(self) -> list[Change]:
        """Every change."""
        return list(self._changes)

    def note(
        self,
        rule: str,
        place: tuple[str, Where],
        subject: str,
        aspect: str = "",
        *,
        was: str | None = None,
        now: str | None = None,
        is_gone: bool = False,
    ) -> None:
        """Note a change of a subject, or of an aspect of it."""
        change = Change(RULES[rule], is_gone, *place, subject, aspect, was, now)
        self._changes[change] = None

    def at(self, rule: str, spot: Spot, aspect: str, was: str | None, now: str | None) -> None:
        """Note a change at a spot."""
        self.note(rule, (spot.file, spot.where), spot.subject, aspect, was=was, now=now)

    def by_sender(
        self, rule: str, spot: Spot, aspect: str, was: str | None, now: str | None
    ) -> None:
        """Note a change whose rule depends on the sender."""
        self.at(f"{_side(spot.sender)}_{rule}", spot, aspect, was, now)


def _side(sender: Sender) -> str:
    return "PARAM" if sender == "client" else "RESULT"
