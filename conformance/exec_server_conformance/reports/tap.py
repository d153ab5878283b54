"""TAP 14 report, with details of failures in YAML.

Known deviations are ``not ok`` with the directive TODO, which harnesses do not count as failures;
sessions that do not apply are ``ok`` with the directive SKIP. Drift is reported in comments.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import UNSET

from exec_server_conformance.runner import trace
from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from exec_server_conformance.runner.results import Play, Report

_SPECIAL = re.compile(r"[\\#]")


def render(report: Report) -> str:
    """Render a report."""
    if report.summary.no_server is not None:
        return f"TAP version 14\nBail out! {_one_line(report.summary.no_server)}\n"
    header = report.header
    lines = [
        "TAP version 14",
        f"1..{len(report.plays)}",
        f"# {_one_line(f'{header.suite} against {header.target}')}",
    ]
    for number, play in enumerate(report.plays, 1):
        lines += _play(number, play)
    lines += [f"# drift: {_one_line(str(drift))}" for drift in report.drift]
    if report.summary.interrupted:
        lines.append("Bail out! interrupted")
    return "".join(f"{line}\n" for line in lines)


def _play(number: int, play: Play) -> list[str]:
    ok = play.outcome in (Outcome.PASSED, Outcome.NOT_APPLICABLE)
    title = f"{number} - {_escaped(play.name)}"
    directive = {
        Outcome.KNOWN: f" # TODO {_escaped(play.known_deviation or '')}",
        Outcome.NOT_APPLICABLE: f" # SKIP {_escaped(play.reason or '')}",
    }.get(play.outcome, "")
    lines = [f"{'ok' if ok else 'not ok'} {title}{directive}"]
    if not ok:
        text = yaml.safe_dump(_details(play), allow_unicode=True, sort_keys=False, width=1000)
        lines += ["  ---", *(f"  {line}" for line in text.splitlines()), "  ..."]
    return lines


def _details(play: Play) -> dict[str, Any]:
    details: dict[str, Any] = {
        "message": play.reason or "",
        "severity": "pending" if play.outcome is Outcome.KNOWN else "fail",
        "outcome": str(play.outcome),
        "description": play.description,
        "seconds": play.seconds,
        "tries": play.tries,
    }
    if play.cause is not UNSET:
        details["cause"] = str(play.cause)
    if play.divergence is not UNSET:
        details["divergence"] = msgspec.to_builtins(play.divergence)
    return details | {"trace": list(trace.lines(play.trace))}


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
