"""Set-up of the test process, and the summary of what it could not run."""

from __future__ import annotations

import re
import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# A shell makes its background jobs ignore Ctrl-C. Every program that a test starts would inherit
# that, also those that the test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_REMEDIES: Final = (
    (r"nothing proven on codex", "`make peers` fetches the codex binaries"),
    (r"(?i)sandbox|confinement|bubblewrap", "apt-get install bubblewrap, with user namespaces"),
    (r"chromium", "apt-get install chromium"),
    (r"full-screen programs", "apt-get install htop less tmux vim"),
    (r"zsh", "apt-get install zsh"),
    (r"root|mount", "run as root, where mounting is allowed"),
    (r"CGROUP", "run where cgroups (version 2) can be made"),
    (r"chosen releases", "choose other releases in PEER_VERSIONS"),
)
"""Ways to have skipped tests run, by a pattern of the reason for the skip."""


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Sum up in one line what was skipped, and how to have it run."""
    reasons = [
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.getreports("skipped")
    ]
    if not reasons:
        return
    counts = Counter(map(_remedy, reasons))
    parts = "; ".join(f"{count}: {remedy}" for remedy, count in counts.most_common())
    terminalreporter.write_line(f"{len(reasons)} SKIPPED, nothing proven. {parts}", red=True)


def _remedy(reason: str) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, reason):
            return remedy
    return reason.removeprefix("Skipped: ")
