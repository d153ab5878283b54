"""A run as the terminal shows it: what did not pass as it happens, and the sum at the end."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from exec_server_conformance.runner import trace
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from exec_server_conformance.runner.results import Play, Report

MOST_ALIKE = 3
"""How many failures with the same words are shown one by one."""

_WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "FAILED",
    Outcome.KNOWN: "known ",
    Outcome.NOT_APPLICABLE: "n/a   ",
    Outcome.ERROR: "ERROR ",
}


class Terminal:
    """Prints a run to standard output; with ``verbose`` everything, with its wire trace."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._moves = sys.stdout.isatty()
        self._total = 0
        self._count = 0
        self._alike: Counter[str] = Counter()

    def begun(self, total: int) -> None:
        """So many plays are about to begin."""
        self._total = total

    def ended(self, play: Play) -> None:
        """A play has ended, or does not apply."""
        quiet = play.outcome in (Outcome.PASSED, Outcome.NOT_APPLICABLE)
        if play.outcome is Outcome.FAILED and play.divergence:
            self._alike[play.divergence.message] += 1
            quiet = self._alike[play.divergence.message] > MOST_ALIKE
        if self._verbose or not quiet:
            self._clear()
            reason = f": {play.reason}" if play.reason else f" in {play.seconds:.2f} s"
            shows = f" (shows: {play.description})" if play.outcome is Outcome.FAILED else ""
            print(f"{_WORDS[play.outcome]} {play.name}{reason}{shows}")
            if play.known_deviation:
                print(f"       known deviation: {play.known_deviation}")
        if self._verbose:
            print("".join(f"    {line}\n" for line in trace.lines(play.trace)), end="")
        if play.outcome is not Outcome.NOT_APPLICABLE:
            self._count += 1
            if self._moves:
                sys.stdout.write(f"\r\x1b[K{self._count}/{self._total} {play.name}")
                sys.stdout.flush()

    def summarise(self, report: Report) -> None:
        """Print what the run came to."""
        self._clear()
        summary = report.summary
        if summary.interrupted:
            print("interrupted", file=sys.stderr)
        if summary.no_server is not None:
            role = report.header.role
            print(f"the {role} could not be run: {summary.no_server}", file=sys.stderr)
            return
        for message, count in self._alike.items():
            if count > MOST_ALIKE and not self._verbose:
                print(f"FAILED {count - MOST_ALIKE} more in the same way: {message}")
        for sessions in summary.stale:
            print(f"STALE  known deviation {sessions!r}: no session it names fails")
        reasons = Counter(
            play.reason for play in report.plays if play.outcome is Outcome.NOT_APPLICABLE
        )
        for reason, count in sorted(reasons.items(), key=str):
            print(f"n/a    {count}: {reason}")
        counts = summary.counts
        passed = counts[Outcome.PASSED] + counts[Outcome.STALE]
        failed = counts[Outcome.FAILED] + counts[Outcome.ERROR]
        print(
            f"{passed} passed, {failed} failed, {counts[Outcome.KNOWN]} known deviations, "
            f"{counts[Outcome.NOT_APPLICABLE]} n/a in {summary.seconds:.1f} s"
        )

    def _clear(self) -> None:
        if self._moves:
            sys.stdout.write("\r\x1b[K")
