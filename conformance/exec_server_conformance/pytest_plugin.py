"""The suite as tests of another project: ``pytest --exec-server-cmd "your-server"``.

Each session over each transport is a test, next to the project's own. What does not apply is
skipped; a known deviation is an expected failure, and a stale one ends the run with exit code 4.
"""

from __future__ import annotations

import pytest

from exec_server_conformance.runner.selection import CHOICE_OPTIONS


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suite's command that make sense here."""
    group = parser.getgroup("exec-server-conformance")
    group.addoption("--exec-server-cmd", metavar="CMD", help="command that runs the server to test")
    group.addoption("--exec-server-url", metavar="URL", help="ws:// URL of a server that runs")
    group.addoption(
        "--exec-server-transport",
        choices=["ws", "stdio", "both"],
        default="both",
        help="transports to play over (default: %(default)s; --exec-server-url means ws)",
    )
    for name, settings in CHOICE_OPTIONS.items():
        group.addoption(f"--exec-server-{name}", action="append", **settings)
    group.addoption(
        "--exec-server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for (default: the newest)",
    )
    group.addoption(
        "--exec-server-known-deviations", metavar="FILE", help="TOML file of known deviations"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take part only when there is a server to test."""
    if not config.getoption("exec_server_cmd") and not config.getoption("exec_server_url"):
        return
    # Whoever has the suite installed and does not use it here is not to wait for its imports.
    from exec_server_conformance.errors import ConformanceError  # noqa: PLC0415
    from exec_server_conformance.pytest_items import Sessions  # noqa: PLC0415

    try:
        config.pluginmanager.register(Sessions(config), "exec-server-conformance-sessions")
    except ConformanceError as error:
        raise pytest.UsageError(f"exec-server-conformance: {error}") from None
