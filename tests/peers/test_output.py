"""Output that is large, binary, or late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stage import CommandResult, run_command

if TYPE_CHECKING:
    from .stage import Stage


def test_large_output(stage: Stage) -> None:
    """4 MB arrive whole and in order; the model is shown the ends."""
    expected = "".join(f"{number:07}\n" for number in range(1, 525_001)).encode()
    told = stage.play([run_command("count", "seq -f %07.0f 1 525000 | tee count.txt")])
    result = CommandResult.of(told, "count")
    assert result.exit_code == 0
    assert result.output.endswith("0524999\n0525000\n")
    assert (stage.workspace / "count.txt").read_bytes() == expected
    if stage.release.speaks_v2:  # before, a client that reads too late loses the beginning
        assert "0000001\n0000002\n" in result.output
    if stage.wire is not None:
        assert stage.wire.output(stage.only_process()) == expected


def test_binary_output(stage: Stage) -> None:
    """Bytes that are no text arrive unchanged; the model is told them as text."""
    data = bytes(range(256)) * 4 + b"\xff\n"
    (stage.workspace / "data.bin").write_bytes(data)
    told = stage.play([run_command("show", "cat data.bin")])
    result = CommandResult.of(told, "show")
    assert result.exit_code == 0
    assert result.output == data.decode(errors="replace")
    if stage.wire is not None:
        assert stage.wire.output(stage.only_process()) == data


def test_late_output_of_a_child(stage: Stage) -> None:
    """A child that holds the output of a finished command is waited for, and heard."""
    told = stage.play(
        [
            run_command(
                "run",
                "(while kill -0 $$; do sleep 0.02; done 2>&-; echo late) & echo early; exit 3",
            )
        ]
    )
    result = CommandResult.of(told, "run")
    assert (result.exit_code, result.output) == (3, "early\nlate\n")
    assert result.seconds < 9  # it is told when it ends, not when the wait for it does
