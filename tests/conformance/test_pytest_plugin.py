"""The sessions as tests of another project's pytest run."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.suite_runs import against
from tests.support.waiting import RUN_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

STDIO = ("--exec-server-transport", "stdio")

SELECT = ("--exec-server-select", "v1/process/terminate_not_running")
"""A session that the server of these tests fails: it starts processes in ``/`` alone."""

PASSING = ("--exec-server-select", "v1/handshake/empty_client_name")


def pytest_in(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_own.py").write_text("def test_of_the_project():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--rootdir", "."]
    return subprocess.run(
        [*command, *STDIO, *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


def test_plugin_is_inactive_without_a_server(tmp_path: Path) -> None:
    done = pytest_in(tmp_path)
    assert done.returncode == 0
    assert "collected 1 item" in done.stdout
    assert "1 passed" in done.stdout


def test_sessions_become_tests(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "--exec-server-cmd", against("none"), *SELECT, *PASSING)
    assert done.returncode == 1
    assert "v1/handshake/empty_client_name[stdio] PASSED" in done.stdout
    assert "v1/process/terminate_not_running[stdio] FAILED" in done.stdout
    assert "terminate_not_running.jsonl:3: process/start: expected a member 'result'" in done.stdout
    assert 'main -> {"id":1002,"method":"process/terminate"' in done.stdout
    assert "Traceback" not in done.stdout


def test_session_options(tmp_path: Path) -> None:
    server = ("--exec-server-cmd", against("none"), "--collect-only")
    about = ("--exec-server-method", "initialize", "--exec-server-tag", "handshake")
    chosen = pytest_in(tmp_path, *server, *about, "--exec-server-select", "v1/*")
    names = re.findall(r"<SessionItem (.*)>", chosen.stdout)
    assert "v1/handshake/basic[stdio]" in names, chosen.stdout
    assert all(name.startswith("v1/handshake/") for name in names)
    quirks = pytest_in(tmp_path, *server, *PASSING, "--exec-server-level", "quirk")
    assert "no session matches v1/handshake/empty_client_name, level quirk" in quirks.stderr


def test_known_deviations_are_expected_failures_and_stale_ones_fail(tmp_path: Path) -> None:
    (tmp_path / "known.toml").write_text(
        '[[deviation]]\nsessions = "v1/process/terminate_not_running"\nreason = "so it is"\n'
        "fails_with = { reason = '.' }\n"
    )
    known = ("--exec-server-known-deviations", "known.toml")
    server = ("--exec-server-cmd", against("none"))
    excused = pytest_in(tmp_path, *server, *SELECT, *known)
    assert "XFAIL (so it is)" in excused.stdout
    (tmp_path / "known.toml").write_text(
        '[[deviation]]\nsessions = "v1/handshake/empty_*"\nreason = "so it was"\n'
        'fails_with = { kind = "value" }\n'
    )
    for more in ((), ("-n", "1")):
        stale = pytest_in(tmp_path, *server, *PASSING, *known, *more)
        assert stale.returncode == 4, stale.stdout
        assert "STALE known deviation 'v1/handshake/empty_*'" in stale.stdout


def test_unusable_input_is_one_message(tmp_path: Path) -> None:
    missing = pytest_in(tmp_path, "--exec-server-cmd", "/no/such/server")
    assert missing.returncode == 3
    assert "the server could not be run: cannot run '/no/such/server'" in missing.stdout
    typo = pytest_in(tmp_path, "--exec-server-cmd", against("none"), "--exec-server-select", "x/*")
    assert typo.returncode == 4
    assert "exec-server-conformance: no session matches x/*" in typo.stderr
    assert "Traceback" not in missing.stdout + missing.stderr + typo.stdout + typo.stderr
