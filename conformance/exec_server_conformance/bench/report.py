"""Aggregation of rounds into a table: medians, ratios, and targets met."""

from __future__ import annotations

import math
import os
import platform
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exec_server_conformance.bench.measurements import Figure
    from exec_server_conformance.bench.subject import Revision, Transport


@dataclass(frozen=True, slots=True)
class Result:
    """Figure of one target over all rounds."""

    figure: Figure
    transport: Transport
    target: str
    rounds: tuple[float, ...]
    failure: str | None = None

    @property
    def median(self) -> float:
        """Median of the rounds; NaN if no round succeeded."""
        return statistics.median(self.rounds) if self.rounds else math.nan


@dataclass(frozen=True, slots=True)
class Comparison:
    """Columns of one table: labels of our server and of codex with both client variants."""

    revision: Revision
    ours: str
    codex: str
    codex_quick: str


def ratio(ours: float, codex: float) -> float:
    """Return ours divided by codex's; NaN if either is missing or codex's is zero."""
    return ours / codex if codex else math.nan


def machine() -> dict[str, object]:
    """Return the properties of the machine."""
    return {"cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def table(comparison: Comparison, results: Sequence[Result]) -> str:
    """Render the table of one comparison: a row per figure and transport."""
    found = {(one.transport, one.figure.name, one.target): one for one in results}
    rows = [
        (
            "figure",
            "unit",
            comparison.ours,
            comparison.codex,
            "(quick ACK)",
            "ratio",
            "(quick ACK)",
            "bar",
            "",
        )
    ]
    figures = dict.fromkeys((one.transport, one.figure) for one in results)
    for transport, figure in figures:
        ours, codex, quick = (
            found.get((transport, figure.name, label))
            for label in (comparison.ours, comparison.codex, comparison.codex_quick)
        )
        if ours is None or codex is None:
            continue
        plain_ratio = ratio(ours.median, codex.median)
        quick_ratio = ratio(ours.median, quick.median) if quick else math.nan
        rows.append(
            (
                f"{transport:5} {figure.name}",
                figure.unit,
                number(ours.median),
                number(codex.median),
                number(quick.median) if quick else "",
                _times(plain_ratio),
                _times(quick_ratio) if quick else "",
                str(figure.bars.get(comparison.revision, "")),
                verdict(figure, comparison.revision, plain_ratio, quick_ratio),
            )
        )
    return _align(rows)


def verdict(figure: Figure, revision: Revision, plain_ratio: float, quick_ratio: float) -> str:
    """Return the verdict for a figure, for both client variants if they differ."""
    bar = figure.bars.get(revision)
    if bar is None or math.isnan(plain_ratio):
        return ""
    if math.isnan(quick_ratio):
        return "met" if bar.met(plain_ratio) else "missed"
    if figure.best_client:
        return "met" if bar.met(min(plain_ratio, quick_ratio)) else "missed"
    plain, quick = bar.met(plain_ratio), bar.met(quick_ratio)
    if plain == quick:
        return "met" if plain else "missed"
    return "met (missed with quick ACK)" if plain else "missed (met with quick ACK)"


def failures(results: Iterable[Result]) -> list[str]:
    """Return one line for each figure that could not be measured."""
    return list(
        dict.fromkeys(
            f"{one.target}, {one.transport}, {one.figure.name}: {one.failure}"
            for one in results
            if one.failure is not None
        )
    )


def as_json(results: Iterable[Result]) -> dict[str, object]:
    """Return all results for the JSON file."""
    return {
        "machine": machine(),
        "results": [
            {
                "figure": one.figure.name,
                "unit": one.figure.unit,
                "transport": one.transport,
                "target": one.target,
                "median": one.median if one.rounds else None,
                "rounds": one.rounds,
                "failure": one.failure,
            }
            for one in results
        ],
    }


def number(value: float) -> str:
    """Format a figure with three significant digits; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _times(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}×"


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 1, len(widths) - 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
