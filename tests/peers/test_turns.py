"""Clients that live for more than one turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

from .app_server import AppServer
from .mock_model import MockModel, say
from .stage import CommandResult, run_command, running, type_into

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .mock_model import Item, ModelRequest, Turn
    from .stage import Stage


def test_several_turns(stage: Stage) -> None:
    """The turns of a client share a connection; what one left the next one finds."""
    turns = [
        [run_command("first", "echo left > left.txt")],
        [say("the end of the first turn")],
        [run_command("second", "cat left.txt")],
    ]
    with MockModel(turns) as model, stage.client(model, kind=AppServer) as client:
        thread_id = client.start_thread()
        for _ in range(2):
            client.wait_for_turn(client.start_turn(thread_id))
        client.wait()
    assert CommandResult.of(model.told(), "second").output == "left\n"
    if stage.wire is not None:
        assert len(stage.wire.requests("initialize")) == 1


@pytest.mark.server("--detached-seconds", "600")
def test_interrupted_turn(stage: Stage) -> None:
    """A command goes on when its turn is interrupted, and ends with the client."""
    program = "until [ -e go ]; do sleep 0.02; done; touch went; exec sleep 600"

    def wait(request: ModelRequest) -> Sequence[Item]:
        (stage.workspace / "waits").touch()
        return [type_into("wait", running(request, "run"), "", yield_time_ms=60_000)]

    turns: list[Turn] = [[run_command("run", program, yield_time_ms=250)], wait]
    with MockModel(turns) as model, stage.client(model, kind=AppServer) as client:
        thread_id = client.start_thread()
        turn_id = client.start_turn(thread_id)
        assert wait_until((stage.workspace / "waits").exists)
        client.interrupt_turn(thread_id, turn_id)
        client.wait_for_turn(turn_id)
        (stage.workspace / "go").touch()
        assert wait_until((stage.workspace / "went").exists)
        client.wait()


@pytest.mark.over("ws")
@pytest.mark.since("0.169.0")
def test_skills_that_appear(stage: Stage) -> None:
    """A skill that appears in one turn, where there was no directory, is offered in the next."""
    wire = stage.wire
    assert wire is not None
    _write_skill(stage.directory / "prepared/skills", "How to greet on day 4714.")

    def appear(_: ModelRequest) -> Sequence[Item]:
        assert wire.notifications("fs/missingChanged") == []
        (stage.directory / "prepared").rename(stage.workspace / ".agents")
        assert wait_until(lambda: wire.notifications("fs/missingChanged") != [])
        # A client with the answers to this command has read the notification before them.
        return [run_command("between", "true")]

    turns: list[Turn] = [
        [run_command("before", "true")],
        appear,
        [say("the end of the first turn")],
        [run_command("after", "true")],
    ]
    with MockModel(turns) as model, stage.client(model, kind=AppServer) as client:
        thread_id = client.start_thread()
        for _ in range(2):
            client.wait_for_turn(client.start_turn(thread_id))
        client.wait()
    assert "How to greet on day 4714." in model.told().text
    assert "How to greet on day 4714." not in model.requests[2].text
    (watch,) = wire.requests("fs/watchMissing")
    (change,) = wire.notifications("fs/missingChanged")
    assert change["watchId"] == watch["watchId"]


@pytest.mark.since("0.150.0")
def test_plugin_of_the_environment(stage: Stage) -> None:
    """The server looks into a plugin that is chosen for a thread; its skills are offered."""
    plugin = stage.directory / "plugins/one"
    manifest = plugin / ".codex-plugin/plugin.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(
        json.dumps({"name": "one", "version": "1.0.0", "description": "A", "skills": "./skills"})
    )
    _write_skill(plugin / "skills", "How to greet on day 4715.")
    settings = {"features.plugins": True, "features.executor_capability_discovery": True}
    with (
        MockModel([[run_command("run", "true")]]) as model,
        stage.client(model, settings, kind=AppServer) as client,
    ):
        place = {"type": "environment", "environmentId": "remote", "path": str(plugin)}
        thread_id = client.start_thread(selectedCapabilityRoots=[{"id": "one", "location": place}])
        client.wait_for_turn(client.start_turn(thread_id))
        client.wait()
    assert "How to greet on day 4715." in model.told().text
    if stage.wire is not None:
        assert len(stage.wire.requests("capabilityRoots/discoverV1")) == 1


def _write_skill(skills: Path, description: str) -> None:
    """Write a skill into a directory of skills."""
    skill = skills / "greeting/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text(f"---\nname: greeting\ndescription: {description}\n---\nSay ahoy.\n")
