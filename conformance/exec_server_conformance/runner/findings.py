"""Findings of one play besides its outcome: drift, and comparisons that are excused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exec_server_conformance.errors import Failure
    from exec_server_conformance.runner.known_deviations import ExpectedFailure
    from exec_server_conformance.runner.results import DriftKind


class Addition(NamedTuple):
    """Unknown part of a valid message, relative to the message."""

    kind: DriftKind
    path: tuple[str | int, ...]
    example: Any


class Findings:
    """Collects drift and decides which failed comparisons are excused."""

    def __init__(self, excused: Sequence[ExpectedFailure] = ()) -> None:
        self._excused = excused
        self.drift: dict[tuple[DriftKind, str], tuple[Any, int]] = {}
        """First example and number of occurrences, by kind and place."""
        self.tolerated: list[Failure] = []

    def add(self, method: str, additions: Iterable[Addition]) -> None:
        """Count additions in a message of a method."""
        for addition in additions:
            place = method + "".join(map(_step, addition.path))
            example, count = self.drift.get((addition.kind, place), (addition.example, 0))
            self.drift[addition.kind, place] = example, count + 1

    def tolerate(self, failure: Failure) -> bool:
        """Return True, and remember the failure, if a known deviation excuses it."""
        if any(one.matches(failure) for one in self._excused):
            self.tolerated.append(failure)
            return True
        return False


def _step(part: str | int) -> str:
    return "[]" if isinstance(part, int) else f".{part}"
