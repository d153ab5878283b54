"""Connections that break, and clients that die."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import PATIENCE

from .codex_client import CodexClient
from .mock_model import MockModel
from .stage import CommandResult, run_command, running, type_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mock_model import Item, ModelRequest, Turn
    from .proxy import Proxy
    from .stage import Stage

_UNTIL_TOLD = "echo began; until [ -e go ]; do sleep 0.02; done; echo went; exit 4"

keeps_sessions = pytest.mark.server("--detached-seconds", "600")
"""Nothing ends in time only because the client is gone."""

resumes = pytest.mark.since("0.143.0")
"""Later releases take up their session again; earlier ones begin a new one, or give up."""


@pytest.mark.over("ws")
@pytest.mark.since("0.135.0")
def test_cut_while_idle(stage: Stage) -> None:
    """After a cut, the next command runs as if nothing had been."""

    def cut(_: ModelRequest) -> Sequence[Item]:
        _proxy(stage).cut()
        return [run_command("after", "echo after")]

    told = stage.play([run_command("before", "echo before")], cut)
    assert CommandResult.of(told, "before").output == "before\n"
    assert CommandResult.of(told, "after").output == "after\n"
    _assert_sessions(stage)


@pytest.mark.over("ws")
@pytest.mark.since("0.124.0")  # the first releases wait for an answer for ever
@pytest.mark.until("0.135.0")
def test_cut_for_good(stage: Stage) -> None:
    """Early releases do not connect again: the model is told that nothing works any more."""

    def cut(_: ModelRequest) -> Sequence[Item]:
        _proxy(stage).cut()
        return [run_command("after", "touch ran")]

    told = stage.play([run_command("before", "echo before")], cut)
    assert CommandResult.of(told, "before").output == "before\n"
    assert "exec-server" in told.text_result("after")
    assert not (stage.workspace / "ran").exists()


@pytest.mark.over("ws")
@resumes
def test_cut_while_running(stage: Stage) -> None:
    """A command survives a cut, and the model is told all that it printed meanwhile."""

    def cut(request: ModelRequest) -> Sequence[Item]:
        session_id = running(request, "run")
        _proxy(stage).take_down()
        (stage.workspace / "go").touch()
        _proxy(stage).wait_refused(3)
        _proxy(stage).bring_up()
        return [type_into("wait", session_id, "", yield_time_ms=60_000)]

    told = stage.play([run_command("run", _UNTIL_TOLD, yield_time_ms=250)], cut)
    began, went = CommandResult.of(told, "run"), CommandResult.of(told, "wait")
    assert began.output + went.output == "began\nwent\n"
    assert went.exit_code == 4
    _assert_sessions(stage)


@pytest.mark.over("ws")
@pytest.mark.since("0.135.0")
@pytest.mark.until("0.143.0")
@pytest.mark.server("--detached-seconds", "1")
def test_lost_while_running(stage: Stage) -> None:
    """A command that its client gave up is killed; the client's new session works."""

    def cut(request: ModelRequest) -> Sequence[Item]:
        running(request, "run")
        _proxy(stage).cut()
        return [run_command("after", "echo after")]

    told = stage.play([run_command("run", _UNTIL_TOLD, yield_time_ms=250)], cut)
    assert CommandResult.of(told, "after").output == "after\n"
    _assert_sessions(stage)


@pytest.mark.over("ws")
@resumes
def test_cut_while_writing(stage: Stage) -> None:
    """A write in flight when the connection broke is sent again, and applied once."""

    def lose(request: ModelRequest) -> Sequence[Item]:
        session_id = running(request, "run")
        _proxy(stage).lose_answer("process/write")
        return [type_into("write", session_id, "once\n", yield_time_ms=1000)]

    def end(request: ModelRequest) -> Sequence[Item]:
        return [type_into("end", running(request, "write"), "\x04", yield_time_ms=10_000)]

    told = stage.play(
        [run_command("run", "stty -echo; cat > typed.txt", tty=True, yield_time_ms=250)], lose, end
    )
    assert CommandResult.of(told, "end").exit_code == 0
    assert (stage.workspace / "typed.txt").read_text() == "once\n"
    assert stage.wire is not None
    first, again, _ = stage.wire.requests("process/write")
    assert first == again
    _assert_sessions(stage)


@pytest.mark.over("ws")
@resumes
def test_cut_while_starting(stage: Stage) -> None:
    """A start whose answer is lost fails for the model; the process does not stay."""

    def lose(_: ModelRequest) -> Sequence[Item]:
        _proxy(stage).lose_answer("process/start")
        return [run_command("lost", "touch began; exec sleep 600")]

    told = stage.play(
        [run_command("before", "echo before")], lose, [run_command("after", "echo after")]
    )
    assert "exec-server" in told.text_result("lost")
    assert CommandResult.of(told, "after").output == "after\n"
    _assert_sessions(stage)


@pytest.mark.over("ws")
@pytest.mark.server("--detached-seconds", "1")
def test_killed_client(stage: Stage) -> None:
    """The commands of a client that was killed are killed when its session is not resumed."""
    _end_client(stage, signal.SIGKILL)


@pytest.mark.over("stdio")
def test_killed_client_on_pipes(stage: Stage) -> None:
    """A server on the pipes of a client that was killed ends, and so do the commands."""
    _end_client(stage, signal.SIGKILL)


@keeps_sessions
def test_interrupted_client(stage: Stage) -> None:
    """A client that is interrupted ends its commands itself, as the last thing it does."""
    _end_client(stage, signal.SIGINT)


@keeps_sessions
def test_unfinished_command(stage: Stage) -> None:
    """Processes that still run when the client is done are ended."""
    told = stage.play([run_command("run", "exec sleep 600", yield_time_ms=250)])
    running(told, "run")


def _end_client(stage: Stage, signum: signal.Signals) -> None:
    """Signal a client whose model waits for a command, and wait for its end."""
    waiting = threading.Event()

    def wait(request: ModelRequest) -> Sequence[Item]:
        session_id = running(request, "run")  # earlier a client does not think of ending it
        waiting.set()
        return [type_into("wait", session_id, "", yield_time_ms=60_000)]

    turns: list[Turn] = [[run_command("run", "exec sleep 600", yield_time_ms=250)], wait]
    with MockModel(turns) as model, stage.client(model, kind=CodexClient) as client:
        assert waiting.wait(PATIENCE)
        client.process.send_signal(signum)
        client.process.wait(PATIENCE)


def _proxy(stage: Stage) -> Proxy:
    assert stage.proxy is not None
    return stage.proxy


def _assert_sessions(stage: Stage) -> None:
    """A client that knows how to resumes its session, whenever it connects again."""
    assert stage.wire is not None
    first, *others = stage.wire.requests("initialize")
    assert first["resumeSessionId"] is None
    assert others
    for params in others:
        assert (params["resumeSessionId"] is not None) == stage.release.speaks_v2
