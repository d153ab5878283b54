"""Says loudly what was not proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reasons = {
        report.longrepr[2]
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and report.nodeid.startswith("tests/command/")
    }
    if reasons:
        terminalreporter.section("SKIPPED: exec-server was not tried everywhere", sep="!", red=True)
        for reason in sorted(reasons):
            terminalreporter.write_line(reason)
