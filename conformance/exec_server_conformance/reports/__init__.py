"""Reports of a run, each for another reader.

===========  ======================================================================
JUnit XML    for CI services
TAP 14       for harnesses that read the Test Anything Protocol
JSON Lines   for programs; ``report.schema.json`` describes every line
HTML         for people: one page that needs nothing else
===========  ======================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server_conformance.errors import ReportError
from exec_server_conformance.reports import jsonl, junit, page, reference, tap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from exec_server_conformance.runner.results import Report

FORMATS: Final[Mapping[str, Callable[[Report], str]]] = {
    "junit": junit.render,
    "tap": tap.render,
    "jsonl": jsonl.render,
}
"""What makes the text of a report, by the name of its format; HTML is made by ``page``."""

KINDS: Final = (*FORMATS, "html")
"""The names of the formats."""


def check_writable(path: Path) -> None:
    """Raise ReportError unless a report can be written there; better before a run than after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from None


def write(report: Report, kind: str, path: Path, reference_url: str | None = None) -> None:
    """Write a report in a format; raises ReportError if it cannot be.

    ``reference_url`` is where the reference pages are; without it they are linked to if they are
    there, beside the suite in a checkout of the project.
    """
    if kind == "html":
        text = page.render(report, reference_url or reference.checkout_url(path.parent))
    else:
        text = FORMATS[kind](report)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a file; raises ReportError if it cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from None
