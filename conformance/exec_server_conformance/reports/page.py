"""HTML report: one page without external scripts, styles, fonts or images.

All content is static HTML; ``page.js`` only filters it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from exec_server_conformance.reports import reference
from exec_server_conformance.runner.results import Cause, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_conformance.runner.results import Divergence, Drift, Play, Report, TraceEntry

_SIGNS: Final = {
    Outcome.FAILED: "✗",
    Outcome.ERROR: "!",
    Outcome.STALE: "?",
    Outcome.KNOWN: "~",
    Outcome.PASSED: "✓",
    Outcome.NOT_APPLICABLE: "–",
}
"""Signs by outcome, most severe first; distinguishable without colour."""

_WORDS: Final = {
    Outcome.FAILED: "failed",
    Outcome.ERROR: "not judged",
    Outcome.STALE: "stale deviation",
    Outcome.KNOWN: "known deviation",
    Outcome.PASSED: "passed",
    Outcome.NOT_APPLICABLE: "not applicable",
}

_CAUSES: Final = {
    Cause.SERVER_VIOLATION: "Contract violation by the server",
    Cause.SERVER_NO_RESPONSE: "No response from the server",
    Cause.CLIENT_VIOLATION: "Contract violation by the client",
    Cause.CLIENT_NO_RESPONSE: "No response from the client",
    Cause.INVALID_SESSION: "Invalid session",
}

_WRONG: Final = (Outcome.FAILED, Outcome.ERROR, Outcome.STALE)

_MAX_OPEN: Final = 3
"""Number of failed plays that are initially expanded."""

_METHOD = re.compile(r'"method":\s*"([^"]*)"')
_ID = re.compile(r'"id":\s*("[^"]*"|-?\d+)')


def render(report: Report, reference_url: str | None = None) -> str:
    """Render a report; methods are linked to the reference pages if ``reference_url`` is given."""
    return "".join(_document(report, reference_url))


def _document(report: Report, reference_url: str | None) -> Iterator[str]:
    style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    header = report.header
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Conformance of {escape(header.target)}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<header>\n"
        "<h1>exec-server conformance</h1>\n"
        f"<p class=target><code>{escape(header.target)}</code></p>\n"
        f"<p class=facts>{_facts(report)}</p>\n"
    )
    yield from _overview(report)
    yield "</header>\n<main>\n"
    wrong = [play for play in report.plays if play.outcome in _WRONG]
    yield from _wrong(wrong)
    yield from _drift(report.drift)
    for group, members in groupby(report.plays, key=lambda play: play.group):
        plays = list(members)
        yield f"<section>\n<h2>{escape(group)} {_tally(plays)}</h2>\n"
        for play in plays:
            yield from _play(play, reference_url, is_open=play in wrong[:_MAX_OPEN])
        yield "</section>\n"
    yield "<p id=nothing hidden>No results.</p>\n</main>\n"
    yield f"<script>\n{script}</script>\n</body>\n</html>\n"


def _wrong(plays: list[Play]) -> Iterator[str]:
    """Summary of everything that did not pass."""
    if not plays:
        return
    yield "<nav aria-label='What did not pass'><h2>What did not pass</h2>\n<ul>\n"
    for play in plays:
        message = play.reason if play.divergence is UNSET else play.divergence.message
        yield (
            f'<li class="{_class(play.outcome)}"><span class=sign>{_SIGNS[play.outcome]}</span>'
            f'<a href="#{escape(_identifier(play))}">{_breakable(play.session)}</a> '
            f"<span class=transport>{play.transport}</span> {escape(message or '')}</li>\n"
        )
    yield "</ul></nav>\n"


def _drift(found: list[Drift]) -> Iterator[str]:
    """Table of the additions that the schema does not describe."""
    if not found:
        return
    yield "<section id=drift>\n<h2>Drift</h2>\n<table class=trace>\n"
    for drift in found:
        sessions = escape(", ".join(drift.sessions))
        yield (
            f"<tr><td>{drift.kind}</td><td><code>{escape(drift.place)}</code></td>"
            f"<td><code>{_json(drift.example)}</code></td>"
            f"<td title='{sessions}'>{drift.count} in {len(drift.sessions)} sessions</td></tr>\n"
        )
    yield "</table>\n</section>\n"


def _facts(report: Report) -> str:
    header = report.header
    facts = [
        f"supports {', '.join(header.revisions) or 'no revision'}",
        *([f"as codex {header.server_version}"] if header.server_version else []),
        f"{report.summary.seconds:.1f} s",
        f"{datetime.fromisoformat(header.started):%Y-%m-%d %H:%M:%S} UTC",
        header.suite,
    ]
    return " · ".join(map(escape, facts))


def _overview(report: Report) -> Iterator[str]:
    summary = report.summary
    if summary.no_server is not None:
        role = report.header.role
        yield f"<p class=alarm>The {role} could not be run: {escape(summary.no_server)}</p>\n"
    if summary.interrupted:
        yield "<p class=alarm>The run was interrupted; the results are incomplete.</p>\n"
    for stale in summary.stale:
        yield (
            f"<p class=alarm>Stale known deviation <code>{escape(stale)}</code>: "
            "none of its sessions fails.</p>\n"
        )
    counts = Counter(play.outcome for play in report.plays)
    present = [outcome for outcome in _SIGNS if counts[outcome]]
    yield "<div class=bar aria-hidden=true>"
    for outcome in present:
        yield f'<i class="{_class(outcome)}" style="flex-grow:{counts[outcome]}"></i>'
    yield '</div>\n<div class=controls role=group aria-label="Filter">\n'
    for outcome in present:
        yield (
            f'<button type=button class="{_class(outcome)}" data-outcome="{_class(outcome)}" '
            f"aria-pressed=false><b>{counts[outcome]}</b> {_WORDS[outcome]}</button>\n"
        )
    yield (
        '<input id=search type=search placeholder="Search names, methods, reasons" '
        'aria-label="Search">\n</div>\n'
    )


def _tally(plays: list[Play]) -> str:
    counts = Counter(play.outcome for play in plays)
    return "<small>{}</small>".format(
        " ".join(
            f'<span class="{_class(outcome)}">{sign} {counts[outcome]}</span>'
            for outcome, sign in _SIGNS.items()
            if counts[outcome]
        )
    )


def _play(play: Play, reference_url: str | None, *, is_open: bool) -> Iterator[str]:
    words = " ".join([play.name, play.description, *play.methods, play.reason or ""])
    yield (
        f'<details class="play {_class(play.outcome)}" id="{escape(_identifier(play))}" '
        f'data-outcome="{_class(play.outcome)}" data-words="{escape(words.lower())}"'
        f"{' open' if is_open else ''}>\n"
        f"<summary><span class=sign title={_WORDS[play.outcome]!r}>{_SIGNS[play.outcome]}</span>"
        f"<span class=name>{_breakable(play.session.removeprefix(f'{play.group}/'))}</span>"
        f"<span class=transport>{play.transport}</span>"
        f"<span class=about>{escape(play.description)}</span>"
        f"<span class=time>{_duration(play)}</span></summary>\n<div class=body>\n"
    )
    links = [_link(play.revision, method, reference_url) for method in play.methods]
    level = "" if play.level == "contract" else f"<span class=level>{play.level}</span>"
    yield f"<p class=methods>{level}{' '.join(links)}</p>\n"
    if play.known_deviation is not UNSET:
        yield f"<p class=known>Known deviation: {escape(play.known_deviation)}</p>\n"
    if play.divergence is not UNSET:
        cause = "" if play.cause is UNSET else _CAUSES[play.cause]
        yield from _divergence(play.divergence, cause)
    elif play.reason is not UNSET:
        yield f"<p class=reason>{escape(play.reason)}</p>\n"
    if play.trace:
        yield from _trace(play)
    yield "</div>\n</details>\n"


def _divergence(divergence: Divergence, cause: str) -> Iterator[str]:
    line = divergence.line
    place = "" if line is UNSET else f" <small>line {line} of the session</small>"
    yield (
        f"<div class=divergence><h3>{cause}</h3>\n<p class=reason>{escape(divergence.message)}"
        f"{place}</p>\n"
    )
    if divergence.where is not UNSET:
        yield (
            f"<p class=where><code>{escape(divergence.where)}</code></p>\n<div class=beside>"
            f"<figure><figcaption>expected</figcaption><pre>{_json(divergence.expected)}</pre>"
            f"</figure><figure><figcaption>received</figcaption>"
            f"<pre>{_json(divergence.received)}</pre></figure></div>\n"
        )
    yield "</div>\n"


def _trace(play: Play) -> Iterator[str]:
    several = len({entry.connection for entry in play.trace}) > 1
    marked = None if play.divergence is UNSET else play.divergence.entry
    yield "<table class=trace>\n"
    for index, entry in enumerate(play.trace):
        here = " diverges" if index == marked else ""
        connection = f"<span class=connection>{escape(entry.connection)}</span>" if several else ""
        arrow = "→" if entry.direction == "sent" else "←"
        mark = "<strong>first divergence</strong>" if here else ""
        yield (
            f'<tr class="{entry.direction}{here}"><td class=when>{entry.seconds:.3f}</td>'
            f"<td class=arrow title={entry.direction}>{arrow}</td>"
            f"<td>{mark}{connection}<b>{escape(_kind(entry))}</b> "
            f"<code>{escape(entry.text)}{_rest(entry)}</code></td></tr>\n"
        )
    if play.divergence is not UNSET and marked is UNSET:
        yield (
            f"<tr class=diverges><td class=when>{play.seconds:.3f}</td><td class=arrow></td>"
            "<td><strong>first divergence</strong> an expected message is missing here</td></tr>\n"
        )
    yield "</table>\n"


def _kind(entry: TraceEntry) -> str:
    """Short description of a message: its method, or the kind of answer."""
    method = _METHOD.search(entry.text)
    identifier = _ID.search(entry.text)
    number = f" {identifier[1]}" if identifier else ""
    if method is not None:
        return f"{method[1]}{number}"
    if entry.direction == "sent" or identifier is None:
        return "text"
    word = "error" if '"error":' in entry.text else "result"
    return f"{word}{number}"


def _rest(entry: TraceEntry) -> str:
    left = entry.characters - len(entry.text)
    return f"<i>… and {left:,} more characters</i>" if left else ""


def _link(revision: str, method: str, reference_url: str | None) -> str:
    place = reference.place(revision, method)
    if place is None or reference_url is None:
        return f"<code>{escape(method)}</code>"
    return f'<a href="{escape(reference_url)}/{escape(place)}"><code>{escape(method)}</code></a>'


def _json(value: Any) -> str:
    if value is UNSET:
        return "<i>nothing</i>"
    return escape(json.dumps(value, ensure_ascii=False, indent=2))


def _duration(play: Play) -> str:
    return "" if play.outcome is Outcome.NOT_APPLICABLE else f"{play.seconds:.2f} s"


def _breakable(name: str) -> str:
    """Return HTML of a name that may be broken between its words."""
    return re.sub("(?<=[_/])", "<wbr>", escape(name))


def _identifier(play: Play) -> str:
    return f"{play.session}-{play.transport}"


def _class(outcome: Outcome) -> str:
    return outcome.replace("/", "")
