"""Commands that run and end, one after the other and side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from .stage import CommandResult, apply_patch, run_command, running, type_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mock_model import Item, ModelRequest
    from .stage import Stage


def test_short_command(stage: Stage) -> None:
    """The model is told the output and the exit code; the command ran in the workspace."""
    told = stage.play([run_command("run", "pwd; echo made | tee made.txt; echo oops >&2")])
    result = CommandResult.of(told, "run")
    assert result.exit_code == 0
    assert sorted(result.output.splitlines()) == sorted([str(stage.workspace), "made", "oops"])
    assert (stage.workspace / "made.txt").read_text() == "made\n"


def test_failing_command(stage: Stage) -> None:
    """Exit codes arrive; a signal is told as the revision tells it; both leave a usable server."""
    told = stage.play(
        [run_command("fail", "echo sorry >&2; exit 7")],
        [run_command("kill", "kill -KILL $$")],
        [run_command("fine", "echo fine")],
    )
    failed = CommandResult.of(told, "fail")
    assert (failed.exit_code, failed.output) == (7, "sorry\n")
    assert CommandResult.of(told, "kill").exit_code == (137 if stage.release.speaks_v2 else -1)
    assert CommandResult.of(told, "fine").output == "fine\n"


def test_unknown_directory(stage: Stage) -> None:
    """A command whose directory does not exist does not run, and the model is told why."""
    told = stage.play(
        [run_command("lost", "touch ../ran", workdir=str(stage.workspace / "nowhere"))],
        [run_command("fine", "echo fine")],
    )
    assert "No such file or directory" in told.text_result("lost")
    assert not (stage.workspace / "ran").exists()
    assert CommandResult.of(told, "fine").output == "fine\n"


def test_parallel_commands(stage: Stage) -> None:
    """Commands called in one response run side by side: each waits for all the others."""
    names = ["a", "b", "c", "d"]
    meet = "for other in a b c d; do until [ -e here-$other ]; do sleep 0.02; done; done"
    told = stage.play(
        [run_command(name, f"touch here-{name}; {meet}; echo {name} met") for name in names]
    )
    for name in names:
        result = CommandResult.of(told, name)
        assert (result.exit_code, result.output) == (0, f"{name} met\n")


def test_waiting_for_a_command(stage: Stage) -> None:
    """A wait without typing ends with the command, long before its time is up."""

    def let_it_end(request: ModelRequest) -> Sequence[Item]:
        session_id = running(request, "run")
        (stage.workspace / "go").touch()
        return [type_into("wait", session_id, "", yield_time_ms=60_000)]

    told = stage.play(
        [
            run_command(
                "run",
                "echo began; until [ -e go ]; do sleep 0.02; done; echo went; exit 4",
                yield_time_ms=250,
            )
        ],
        let_it_end,
    )
    began, ended = CommandResult.of(told, "run"), CommandResult.of(told, "wait")
    assert began.output + ended.output == "began\nwent\n"
    assert ended.exit_code == 4
    assert ended.seconds < 30


@pytest.mark.since("0.143.0")  # earlier clients wrap their commands into a sandbox themselves
def test_read_only_sandbox(stage: Stage) -> None:
    """Neither a command nor a patch changes a file, whether confined or refused."""
    told = stage.play(
        [run_command("run", "touch ran")],
        [apply_patch("patch", "*** Add File: patched", "+x")],
        settings={"sandbox_mode": "read-only"},
    )
    assert re.search("Read-only file system|sandbox", told.text_result("run"))
    assert "A patched" not in told.text_result("patch")
    assert {path.name for path in stage.workspace.iterdir()} == {".git"}


@pytest.mark.since("0.145.0")  # earlier clients leave it to the server to guess their workspace
def test_workspace_sandbox(stage: Stage) -> None:
    """A command writes into its workspace at most; where nothing can confine it, it is refused."""
    told = stage.play(
        [run_command("run", "touch inside; touch ../outside")],
        settings={"sandbox_mode": "workspace-write"},
    )
    assert re.search("Read-only file system|sandbox", told.text_result("run"))
    confined = "Read-only file system" in told.text_result("run")
    assert (stage.workspace / "inside").exists() == confined
    assert not (stage.directory / "outside").exists()
