"""The GitHub Action runs the suite as its inputs say, and leaves the reports where it publishes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.checkout import ROOT
from tests.support.suite_runs import PROGRAM, against
from tests.support.waiting import RUN_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

ACTION = ROOT / "action.yml"


def step(name: str) -> dict[str, Any]:
    """A step of the action."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    (found,) = [one for one in action["runs"]["steps"] if one.get("name") == name]
    return found


def replay(directory: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the step that replays, as a runner would."""
    home = directory / "exec-server-conformance" / "bin"
    home.mkdir(parents=True)
    (home / "exec-server-conformance").symlink_to(PROGRAM)
    script = step("Replay the sessions")
    empty = dict.fromkeys(script["env"], "")
    runner = {"RUNNER_TEMP": str(directory), "GITHUB_STEP_SUMMARY": str(directory / "summary.md")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script["run"]],
        cwd=directory,
        env={**os.environ, **empty, **runner, "REPORTS": "reports", **inputs},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


@pytest.mark.parametrize(
    ("select", "status"),
    [("v1/handshake/basic v1/handshake/empty_*", 0), ("v1/process/no_output", 1)],
)
def test_reports_are_written_for_every_result(tmp_path: Path, select: str, status: int) -> None:
    (tmp_path / "known.toml").write_text("")
    inputs = {"CMD": against("none"), "TRANSPORT": "stdio", "SELECT": select}
    more = {"SERVER_VERSION": "0.139.0", "KNOWN_DEVIATIONS": "known.toml"}
    done = replay(tmp_path, **inputs, **more)
    assert done.returncode == status, done.stdout
    written = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert written == ["junit.xml", "report.html", "report.jsonl"]
    assert " passed, " in (tmp_path / "summary.md").read_text()


def test_filters_are_passed_on(tmp_path: Path) -> None:
    inputs = {"CMD": against("none"), "TRANSPORT": "stdio", "REVISION": "v1", "LEVEL": "contract"}
    done = replay(tmp_path, **inputs, METHOD="initialize process/*", TAG="handshake no_such_tag")
    assert done.returncode == 1, done.stdout  # the server remembers nothing
    report = (tmp_path / "reports" / "report.jsonl").read_text().splitlines()
    played = [one["session"] for line in report if "session" in (one := json.loads(line))]
    assert "v1/handshake/basic" in played
    assert all(name.startswith("v1/handshake/") for name in played)


def test_missing_input_is_reported(tmp_path: Path) -> None:
    done = replay(tmp_path, TRANSPORT="both")
    assert done.returncode == 2
    assert "one of the arguments --cmd --url is required" in done.stdout


def test_published_tables_are_current() -> None:
    paths = step("Publish the JUnit report")["with"]["report_paths"]
    assert paths == "${{ inputs.report-directory }}/junit.xml"
    inputs = yaml.safe_load(ACTION.read_text(encoding="utf-8"))["inputs"]
    used = ACTION.read_text(encoding="utf-8")
    assert all(f"inputs.{name} }}}}" in used for name in inputs)
