"""The architecture page leads a newcomer to the right files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.checkout import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "architecture.md"

LINK = re.compile(r"\]\(([^)#]+)")


def row(first_cell: str) -> list[Path]:
    """Return the files that a row of *Where to add what* links to."""
    text = PAGE.read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| {re.escape(first_cell)} \|.*$", text, re.MULTILINE)
    return [(PAGE.parent / target).resolve() for target in LINK.findall(line)]


@pytest.mark.parametrize(
    ("what", "file", "found_there"),
    [
        ("a notification", "schema/draft/methods.json", '"process/started"'),
        ("a notification", "runtime/exec_server/revisions/process_events.py", "output"),
        ("an option of the server", "runtime/exec_server/cli/server/arguments.py", '"--protocol"'),
        ("a limit", "runtime/exec_server/settings.py", "max_sessions"),
        ("a limit", "runtime/exec_server/cli/server/limit_options.py", '"--max-sessions"'),
        ("a limit", "docs/limits.md", "--max-sessions"),
        ("a sandbox rule", "runtime/exec_server/revisions/sandbox.py", "deny"),
        ("a sandbox rule", "runtime/exec_server/engine/sandbox/policy.py", '"deny"'),
        ("a report format", "conformance/exec_server_conformance/options.py", "JUnit XML"),
    ],
)
def test_a_newcomer_finds_the_file(what: str, file: str, found_there: str) -> None:
    """The linked file holds the existing things of that kind."""
    assert ROOT / file in row(what)
    assert found_there in (ROOT / file).read_text(encoding="utf-8")


def test_every_link_leads_to_a_file() -> None:
    """Links to source files are relative to the page."""
    targets = LINK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(targets) > 30
    missing = [target for target in targets if not (PAGE.parent / target).exists()]
    assert missing == []
