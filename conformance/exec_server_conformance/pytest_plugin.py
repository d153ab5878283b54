"""pytest plugin that runs the suite: ``pytest --exec-server-cmd "your-server"``.

Each session over each transport becomes a test. Sessions that do not apply are skipped, known
deviations are expected failures, and a stale deviation ends the run with exit code 4.
"""

from __future__ import annotations

import pytest

from exec_server_conformance.runner.selection import CHOICE_OPTIONS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the plugin's options."""
    group = parser.getgroup("exec-server-conformance")
    group.addoption(
        "--exec-server-cmd", metavar="CMD", help="command that runs the server under test"
    )
    group.addoption("--exec-server-url", metavar="URL", help="ws:// URL of a running server")
    group.addoption(
        "--exec-server-transport",
        choices=["ws", "stdio", "both"],
        default="both",
        help="transports to use (default: %(default)s; only ws with --exec-server-url)",
    )
    for name, settings in CHOICE_OPTIONS.items():
        group.addoption(f"--exec-server-{name}", action="append", **settings)
    group.addoption(
        "--exec-server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for (default: the newest)",
    )
    group.addoption(
        "--exec-server-known-deviations",
        metavar="FILE",
        help="TOML file with known deviations of the server",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the sessions if a server was given."""
    if not config.getoption("exec_server_cmd") and not config.getoption("exec_server_url"):
        return
    # Imported here so that test runs without a server do not load the suite.
    from exec_server_conformance.errors import ConformanceError  # noqa: PLC0415
    from exec_server_conformance.pytest_items import Sessions  # noqa: PLC0415

    try:
        config.pluginmanager.register(Sessions(config), "exec-server-conformance-sessions")
    except ConformanceError as error:
        raise pytest.UsageError(f"exec-server-conformance: {error}") from None
