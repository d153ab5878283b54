"""Matrix report as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from exec_server_conformance.reports.table import LEGEND, SIGNS, passes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_conformance.runner.matrix import Cell, Matrix, Row


def render(matrix: Matrix) -> str:
    """Render the page."""
    return "".join(_document(matrix))


def _document(matrix: Matrix) -> Iterator[str]:
    style = _text("page.css") + _text("table.css")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Conformance of {len(matrix.servers)} servers</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>exec-server conformance</h1>\n<p class=facts>{escape(matrix.suite)} · "
        f"{escape(LEGEND)}</p>\n<div class=controls>\n"
        "<button type=button id=failing aria-pressed=false>Failures only</button>\n"
        '<input id=search type=search placeholder="Search sessions" aria-label="Search">\n'
        "</div>\n</header>\n<main>\n<div class=wide><table class=matrix>\n<thead><tr><th></th>"
    )
    for server in matrix.servers:
        title = server.no_server or f"{server.target} supports {', '.join(server.revisions)}"
        yield f'<th title="{escape(title)}"><span>{escape(server.name)}</span></th>'
    yield "</tr>\n<tr><td>passed</td>"
    for server in matrix.servers:
        total = sum(count for outcome, count in server.counts.items() if outcome != "n/a")
        share = f"{server.counts['passed']}<small>/{total}</small>" if total else ""
        share = "!" if server.no_server else share
        yield f"<td>{share}</td>"
    yield "</tr></thead>\n"
    for group, rows in groupby(matrix.rows, key=lambda row: row.session.rpartition("/")[0]):
        span = len(matrix.servers) + 1
        yield f"<tbody><tr class=group><th colspan={span}>{escape(group)}</th></tr>\n"
        for row in rows:
            yield from _row(matrix, row)
        yield "</tbody>\n"
    yield f"</table></div>\n</main>\n<script>\n{_text('table.js')}</script>\n</body>\n</html>\n"


def _row(matrix: Matrix, row: Row) -> Iterator[str]:
    cells = [row.cells.get(server.name) for server in matrix.servers]
    fails = "" if passes(row) else " data-fails"
    words = escape(f"{row.session} {row.description}".lower())
    yield (
        f'<tr class=session data-words="{words}"{fails}><td>'
        f"{escape(row.session.rpartition('/')[2])}<small>{escape(row.description)}</small></td>"
    )
    yield from map(_cell, cells)
    yield "</tr>\n"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    name = cell.outcome.replace("/", "")
    over = f"<small>{' '.join(cell.transports)}</small>" if cell.transports else ""
    title = f' title="{escape(cell.reason)}"' if cell.reason else ""
    return f'<td class="{name}"{title}><b>{SIGNS[cell.outcome]}</b>{over}</td>'


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
