"""Commands that run and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stage import CommandResult, run_command

if TYPE_CHECKING:
    from .stage import Stage


def test_short_command(stage: Stage) -> None:
    """The model is told the output and the exit code; the command ran in the workspace."""
    told = stage.play([run_command("run", "pwd; echo made | tee made.txt; echo oops >&2")])
    result = CommandResult.of(told, "run")
    assert result.exit_code == 0
    assert sorted(result.output.splitlines()) == sorted([str(stage.workspace), "made", "oops"])
    assert (stage.workspace / "made.txt").read_text() == "made\n"
