"""Report formats.

===========  ======================================================================
JUnit XML    for CI services
TAP 14       for harnesses that read the Test Anything Protocol
JSON Lines   for programs; ``report.schema.json`` describes every line
HTML         for people: one self-contained page
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
"""Renderer of each text format; HTML is rendered by ``page``."""

KINDS: Final = (*FORMATS, "html")
"""Names of all formats."""


def check_writable(path: Path) -> None:
    """Raise ReportError unless the file can be written, so that the run does not fail late."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from None


def write(report: Report, kind: str, path: Path, reference_url: str | None = None) -> None:
    """Write a report; raise ReportError on failure.

    ``reference_url`` is the base URL of the reference pages; by default the pages in the checkout
    are linked, if there are any.
    """
    if kind == "html":
        text = page.render(report, reference_url or reference.checkout_url(path.parent))
    else:
        text = FORMATS[kind](report)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a file; raise ReportError on failure."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from None
