"""Matrix report as text, Markdown and JSON."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server_conformance.runner.results import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server_conformance.runner.matrix import Cell, Matrix, Row, Server

SIGNS: Final = {
    Outcome.PASSED: "✓",
    Outcome.FAILED: "✗",
    Outcome.ERROR: "!",
    Outcome.KNOWN: "~",
    Outcome.STALE: "?",
    Outcome.NOT_APPLICABLE: "–",
}

LEGEND: Final = (
    "✓ passed, ✗ failed, ! no verdict, ~ known deviation, ? stale known deviation, "
    "– does not apply, blank: not played"
)


def as_json(matrix: Matrix) -> str:
    """Render the complete matrix as JSON."""
    return msgspec.json.format(msgspec.json.encode(matrix)).decode() + "\n"


def as_text(matrix: Matrix) -> str:
    """Render a terminal table of the sessions that do not pass on every server."""
    rows = [row for row in matrix.rows if not passes(row)]
    width = max((len(row.session) for row in rows), default=0)
    columns = range(1, len(matrix.servers) + 1)
    lines = [
        *(
            f"{column:2}  {_sum(server)}"
            for column, server in zip(columns, matrix.servers, strict=True)
        ),
        "",
        *([f"{'':{width}}  {' '.join(f'{column:>2}' for column in columns)}"] if rows else []),
    ]
    for row in rows:
        signs = (_sign(row.cells.get(server.name)) for server in matrix.servers)
        lines.append(f"{row.session:{width}}  {' '.join(f'{sign:>2}' for sign in signs)}")
    passing = len(matrix.rows) - len(rows)
    lines += [
        "",
        f"{passing} of {len(matrix.rows)} sessions pass on every server that they apply to.",
        LEGEND,
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def as_markdown(matrix: Matrix) -> str:
    """Render a table per group of sessions, and the reasons of failures."""
    return "\n".join(_markdown(matrix)) + "\n"


def _markdown(matrix: Matrix) -> Iterator[str]:
    yield f"# Conformance of {len(matrix.servers)} servers\n"
    yield f"{LEGEND}\n"
    yield from (f"- {_escaped(_sum(server))}" for server in matrix.servers)
    names = [_escaped(server.name) for server in matrix.servers]
    for group, rows in groupby(matrix.rows, key=lambda row: row.session.rpartition("/")[0]):
        yield f"\n## {group}\n"
        yield f"| session | {' | '.join(names)} |"
        yield f"|---|{':-:|' * len(names)}"
        for row in rows:
            signs = (_sign(row.cells.get(server.name)) for server in matrix.servers)
            name = row.session.rpartition("/")[2]
            yield f"| {name}: {_escaped(row.description)} | {' | '.join(signs)} |"
    reasons = [
        f"- {row.session} on {_escaped(name)}: {_escaped(cell.reason)}"
        for row in matrix.rows
        for name, cell in row.cells.items()
        if cell.reason and cell.outcome is not Outcome.NOT_APPLICABLE
    ]
    if reasons:
        yield "\n## Reasons\n"
        yield from reasons


def passes(row: Row) -> bool:
    """Return True if a session passes on every server that it applies to."""
    fine = (Outcome.PASSED, Outcome.NOT_APPLICABLE)
    return all(cell.outcome in fine for cell in row.cells.values())


def _sum(server: Server) -> str:
    if server.no_server is not None:
        return f"{server.name}: could not be run: {server.no_server}"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in server.counts.items() if count)
    counts = counts or "nothing to play"
    return f"{server.name} ({', '.join(server.revisions)}): {counts} in {server.seconds:.0f} s"


def _sign(cell: Cell | None) -> str:
    return "" if cell is None else SIGNS[cell.outcome]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
