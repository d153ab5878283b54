"""JSON Lines report; ``report.schema.json`` describes the lines."""

from __future__ import annotations

import msgspec

from exec_server_conformance.errors import ReportError
from exec_server_conformance.runner.results import Drift, Play, Report, RunHeader, Summary

Line = RunHeader | Play | Drift | Summary


def render(report: Report) -> str:
    """Render a report."""
    lines = [report.header, *report.plays, *report.drift, report.summary]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines).decode()


def parse(text: str) -> Report:
    """Parse a report; raise ReportError if it is invalid."""
    try:
        header, *lines, summary = (
            msgspec.json.decode(line, type=Line) for line in text.splitlines()
        )
    except (ValueError, msgspec.DecodeError) as error:
        raise ReportError(f"not a report: {error}") from None
    if not isinstance(header, RunHeader) or not isinstance(summary, Summary):
        raise ReportError("not a report: expected a run first and a summary last")
    return Report(
        header,
        [one for one in lines if isinstance(one, Play)],
        summary,
        [one for one in lines if isinstance(one, Drift)],
    )
