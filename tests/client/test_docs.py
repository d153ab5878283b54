"""The pages about the client: every program on them runs as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.targets import PROGRAM
from tests.support.waiting import PATIENCE

DOCS = ROOT / "docs"

PAGES = (
    "quickstart.md",
    "guides/write-a-client.md",
    "guides/under-codex.md",
    "guides/command-line.md",
    "guides/terminal.md",
)

_PROGRAM = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```", re.DOTALL)

_LINK = re.compile(r"\]\((?P<path>[^)#:]+)\)")


def programs() -> list[tuple[str, str, str]]:
    return [
        (f"{page}-{number}", match["code"], match["output"])
        for page in PAGES
        for number, match in enumerate(_PROGRAM.finditer((DOCS / page).read_text()), 1)
    ]


@pytest.mark.parametrize(
    ("code", "output"), [program[1:] for program in programs()], ids=[p[0] for p in programs()]
)
def test_programs_print_what_the_page_says(code: str, output: str, tmp_path: Path) -> None:
    """A program of a page, run by itself, prints the block behind it."""
    path = f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", output)


def test_every_program_says_what_it_prints() -> None:
    """No program escapes the test for want of a block behind it."""
    texts = [(DOCS / page).read_text() for page in PAGES]
    assert sum(text.count("```python") for text in texts) == len(programs()) > 5


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Links within the project lead to files that are there."""
    path = DOCS / page
    for match in _LINK.finditer(path.read_text()):
        assert (path.parent / match["path"]).exists(), match["path"]
