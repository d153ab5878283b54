"""The variables of a command: the server's, as the client's policy lets them through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .stage import CommandResult, run_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .stage import Stage

pytestmark = pytest.mark.server(
    PLAIN="plain", OTHER="other", SOME_TOKEN="t", my_secret="s", Signing_Key="k"
)

_POLICY = "shell_environment_policy"


def test_everything(stage: Stage) -> None:
    """A command has the variables of the server, and those that the client adds."""
    variables = _variables(stage, inherit="all", ignore_default_excludes=True)
    home = stage.client_home if stage.transport == "stdio" else stage.server_home
    assert variables["HOME"] == str(home)
    assert variables["PWD"] == str(stage.workspace)
    assert variables["PLAIN"] == "plain"
    assert variables["SOME_TOKEN"] == "t"
    assert variables["NO_COLOR"] == "1"


def test_no_secrets(stage: Stage) -> None:
    """Names that sound secret are left out, in any case, when the policy says so."""
    variables = _variables(stage, inherit="all", ignore_default_excludes=False)
    assert variables["PLAIN"] == "plain"
    assert not {"SOME_TOKEN", "my_secret", "Signing_Key"} & variables.keys()


def test_core(stage: Stage) -> None:
    """The core are the variables that nearly every program needs."""
    variables = _variables(stage, inherit="core")
    assert {"HOME", "PATH"} <= variables.keys()
    assert not {"PLAIN", "OTHER", "SOME_TOKEN"} & variables.keys()


def test_nothing_but(stage: Stage) -> None:
    """Nothing is inherited; what the policy sets is there."""
    variables = _variables(stage, inherit="none", set={"ADDED": "by policy"})
    assert variables["ADDED"] == "by policy"
    assert not {"HOME", "PLAIN", "OTHER"} & variables.keys()


def test_excluded(stage: Stage) -> None:
    """Patterns leave variables out, whatever the case; a variable that is set is not left out."""
    variables = _variables(
        stage, inherit="all", exclude=["plai?", "OTH*"], set={"OTHER": "set by policy"}
    )
    assert "PLAIN" not in variables
    assert variables["OTHER"] == "set by policy"
    assert "HOME" in variables


def test_included_only(stage: Stage) -> None:
    """Patterns choose what stays, of what is set too."""
    variables = _variables(
        stage,
        inherit="all",
        include_only=["PLAIN", "path", "ADD*"],
        set={"ADDED": "by policy", "LEFT": "out"},
    )
    assert (variables["PLAIN"], variables["ADDED"]) == ("plain", "by policy")
    assert not {"HOME", "OTHER", "LEFT"} & variables.keys()


def _variables(stage: Stage, **policy: Any) -> Mapping[str, str]:
    """The variables of a command under a policy, as the command itself sees them."""
    settings: dict[str, Any] = {}
    for name, value in policy.items():
        if isinstance(value, dict):
            settings |= {f"{_POLICY}.{name}.{key}": item for key, item in value.items()}
        else:
            settings[f"{_POLICY}.{name}"] = value
    told = stage.play(
        [run_command("env", "/usr/bin/env", login=False)],
        settings=settings,
    )
    result = CommandResult.of(told, "env")
    assert result.exit_code == 0
    lines = [line.partition("=") for line in result.output.splitlines()]
    return {name: value for name, _, value in lines}
