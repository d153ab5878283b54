"""Commands that the model types into and interrupts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

from .stage import CommandResult, run_command, running, type_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mock_model import Item, ModelRequest
    from .stage import Stage

_UNTIL_INTERRUPTED = (
    "trap 'echo interrupted; exit 9' INT; touch ready; while :; do sleep 0.05; done"
)


def test_typing_into_a_terminal(stage: Stage) -> None:
    """A terminal echoes what is typed, has a size and a device, and its program gets the line."""
    program = 'stty size; tty; touch ready; read -p "name? " name; echo "hello $name"'

    def answer(request: ModelRequest) -> Sequence[Item]:
        assert wait_until((stage.workspace / "ready").exists)
        return [type_into("answer", running(request, "ask"), "wörld\n", yield_time_ms=10_000)]

    told = stage.play([run_command("ask", program, tty=True, yield_time_ms=500)], answer)
    asked, answered = CommandResult.of(told, "ask"), CommandResult.of(told, "answer")
    lines = (asked.output + answered.output).split("\r\n")
    assert lines[0] == "24 80"
    assert lines[1].startswith("/dev/pts/")
    assert lines[2:] == ["name? wörld", "hello wörld", ""]
    assert answered.exit_code == 0


def test_end_of_input_on_a_terminal(stage: Stage) -> None:
    """Control-D ends the input of a program on a terminal."""
    told = stage.play(
        [run_command("cat", "cat > got.txt; echo ended", tty=True, yield_time_ms=250)],
        lambda request: [
            type_into("end", running(request, "cat"), "line\n\x04", yield_time_ms=10_000)
        ],
    )
    result = CommandResult.of(told, "end")
    assert result.exit_code == 0
    assert result.output.endswith("ended\r\n")
    assert (stage.workspace / "got.txt").read_text() == "line\n"


def test_interrupting_a_terminal(stage: Stage) -> None:
    """Control-C on a terminal reaches the program as an interrupt."""
    told = _interrupt(stage, tty=True)
    result = CommandResult.of(told, "interrupt")
    assert result.exit_code == 9
    assert result.output.endswith("interrupted\r\n")


@pytest.mark.since("0.141.0")
def test_interrupting_pipes(stage: Stage) -> None:
    """Control-C without a terminal is sent as a signal."""
    told = _interrupt(stage, tty=False)
    result = CommandResult.of(told, "interrupt")
    assert (result.exit_code, result.output) == (9, "interrupted\n")
    if stage.wire is not None:
        assert [params["signal"] for params in stage.wire.requests("process/signal")] == [
            "interrupt"
        ]


def test_typing_into_pipes(stage: Stage) -> None:
    """A command without a terminal takes no input: the model is told so, and it runs on."""

    def let_it_end(request: ModelRequest) -> Sequence[Item]:
        (stage.workspace / "go").touch()
        return [type_into("wait", running(request, "run"), "", yield_time_ms=60_000)]

    told = stage.play(
        [
            run_command(
                "run", "until [ -e go ]; do sleep 0.02; done; cat; echo went", yield_time_ms=250
            )
        ],
        lambda request: [type_into("type", running(request, "run"), "words\n")],
        let_it_end,
    )
    assert "stdin is closed" in told.text_result("type")
    ended = CommandResult.of(told, "wait")
    assert (ended.exit_code, ended.output) == (0, "went\n")


def _interrupt(stage: Stage, *, tty: bool) -> ModelRequest:
    def interrupt(request: ModelRequest) -> Sequence[Item]:
        assert wait_until((stage.workspace / "ready").exists)
        session_id = running(request, "run")
        return [type_into("interrupt", session_id, "\x03", yield_time_ms=10_000)]

    return stage.play(
        [run_command("run", _UNTIL_INTERRUPTED, tty=tty, yield_time_ms=250)], interrupt
    )
