"""Pictures of the HTML reports, for the documentation: ``python screenshots.py DIRECTORY``.

The report is of a mutant of our server, so that there is something to see; the matrix is of our
server and the peers that have been fetched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from test_page import CHROMIUM

from tests.support.checkout import ROOT
from tests.support.mutants.survey import command
from tests.support.suite_runs import PROGRAM

MUTANT = "after-seq-inclusive"

SELECT = ("v1/reading/*", "v1/handshake/*")

MATRIX = ROOT / "conformance" / "targets.toml"

WIDTHS = {"wide": 1200, "narrow": 420}


def main() -> None:
    """Run the suite, and photograph what it wrote."""
    out = Path(sys.argv[1])
    selection = [f"--select={glob}" for glob in SELECT]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        report, matrix = Path(scratch, "report.html"), Path(scratch, "matrix.html")
        server = command(MUTANT, "v1")
        options = ["--transport", "stdio", *selection[:1], "--html", report]
        subprocess.run([PROGRAM, "--cmd", server, *options], check=False)
        subprocess.run([PROGRAM, "matrix", MATRIX, *selection, "--html", matrix], check=False)
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        for page in (report, matrix):
            for name, width in WIDTHS.items():
                view = browser.new_page(viewport={"width": width, "height": 1000})
                view.goto(page.as_uri())
                # The pictures must not show the name of their author.
                view.evaluate(
                    "document.querySelectorAll('.target code')"
                    ".forEach((one) => (one.textContent = 'your-server'))"
                )
                view.screenshot(path=out / f"conformance-{page.stem}-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
