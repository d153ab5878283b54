"""Terminal report: failures as they occur, and a summary."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from exec_server_conformance.runner import trace
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from exec_server_conformance.runner.results import Play, Report

MAX_SIMILAR_FAILURES = 3
"""Maximum number of failures with the same message that are printed individually."""

_WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "FAILED",
    Outcome.KNOWN: "known ",
    Outcome.NOT_APPLICABLE: "n/a   ",
    Outcome.ERROR: "ERROR ",
}


class Terminal:
    """Prints a run to standard output; ``verbose`` prints every session with its wire trace."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._is_interactive = sys.stdout.isatty()
        self._total = 0
        self._count = 0
        self._similar: Counter[str] = Counter()

    def run_started(self, total: int) -> None:
        """Remember the number of plays."""
        self._total = total

    def play_finished(self, play: Play) -> None:
        """Print the result of a play."""
        quiet = play.outcome in (Outcome.PASSED, Outcome.NOT_APPLICABLE)
        if play.outcome is Outcome.FAILED and play.divergence:
            self._similar[play.divergence.message] += 1
            quiet = self._similar[play.divergence.message] > MAX_SIMILAR_FAILURES
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
            if self._is_interactive:
                sys.stdout.write(f"\r\x1b[K{self._count}/{self._total} {play.name}")
                sys.stdout.flush()

    def print_summary(self, report: Report) -> None:
        """Print the summary."""
        self._clear()
        summary = report.summary
        if summary.interrupted:
            print("interrupted", file=sys.stderr)
        if summary.no_server is not None:
            role = report.header.role
            print(f"the {role} could not be run: {summary.no_server}", file=sys.stderr)
            return
        for message, count in self._similar.items():
            if count > MAX_SIMILAR_FAILURES and not self._verbose:
                print(
                    f"FAILED {count - MAX_SIMILAR_FAILURES} more with the same message: {message}"
                )
        for sessions in summary.stale:
            print(f"STALE  known deviation {sessions!r}: none of its sessions fails")
        if report.drift:
            print(f"Drift, {len(report.drift)} additions that the schema does not describe:")
        for drift in report.drift:
            print(f"DRIFT  {drift}")
        for play in report.plays:
            if play.tries > 1:
                print(f"FLAKY  {play.name}: {play.outcome} after {play.tries} tries")
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
        if self._is_interactive:
            sys.stdout.write("\r\x1b[K")
