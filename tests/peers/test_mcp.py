"""MCP servers that the client reaches through the exec-server."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import PATIENCE

from . import mcp_server
from .mcp_server import TOKEN, HttpMcpServer
from .mock_model import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mock_model import Item, ModelRequest, Turn
    from .stage import Stage

pytestmark = pytest.mark.since("0.124.0")


@pytest.mark.server(PLAIN="visible to commands only")
def test_on_pipes(stage: Stage) -> None:
    """An MCP server runs as a process of the exec-server, with few variables, and ends with it."""
    told = stage.play(
        _call("greet", "greet", name="wörld"),
        _call("look", "surroundings"),
        settings={
            "mcp_servers.greeter.command": sys.executable,
            "mcp_servers.greeter.args": [mcp_server.__file__],
            "mcp_servers.greeter.cwd": str(stage.workspace),
            "mcp_servers.greeter.env.ADDED": "yes",
            **_placed(stage),
        },
    )
    assert "hello wörld" in told.text_result("greet")
    names = set(re.findall(r"[A-Z_]{2,}", told.text_result("look")))
    assert {"PATH", "HOME", "ADDED"} <= names
    assert "PLAIN" not in names
    if stage.wire is not None:
        (params,) = stage.wire.requests("process/start")
        assert (params["pipeStdin"], params["tty"]) == (True, False)


def test_over_http(stage: Stage) -> None:
    """An MCP server is called from where the exec-server is, answers in bodies and in streams."""
    _greet_over_http(stage, **{"http_headers.Authorization": f"Bearer {TOKEN}"})


@pytest.mark.since("0.150.0")
@pytest.mark.server(MCP_TOKEN=TOKEN)
def test_secret_header(stage: Stage) -> None:
    """A token stays with the exec-server: the client only names the variable that holds it."""
    _greet_over_http(stage, bearer_token_env_var="MCP_TOKEN")
    if stage.wire is not None:
        assert TOKEN not in str(stage.wire.records)


def _greet_over_http(stage: Stage, **settings: str) -> None:
    with HttpMcpServer() as server:
        told = stage.play(
            _call("greet", "greet", name="wörld"),
            settings={
                "mcp_servers.greeter.url": server.url,
                **{f"mcp_servers.greeter.{name}": value for name, value in settings.items()},
                **_placed(stage),
            },
        )
    assert "hello wörld" in told.text_result("greet")
    assert server.methods[0] == "initialize"
    assert server.methods[-1] == "tools/call"
    if stage.wire is not None:
        asked = [params["url"] for params in stage.wire.requests("http/request")]
        assert len(asked) >= len(server.methods)
        assert set(asked) == {server.url}


def _placed(stage: Stage) -> dict[str, Any]:
    return {
        f"mcp_servers.greeter.{stage.release.environment_key}": "remote",
        # Tools of a server that has not started within 10 seconds, the default, are not offered.
        "mcp_servers.greeter.startup_timeout_sec": PATIENCE,
    }


def _call(call_id: str, tool: str, **arguments: Any) -> Turn:
    """A turn that calls a tool of the MCP server, under the name that the release gives it."""

    def turn(request: ModelRequest) -> Sequence[Item]:
        offered = {name.partition("/")[0] for name in request.tool_names}
        # Later releases keep the tools to themselves until they are searched for.
        namespace = "mcp__greeter__" if "mcp__greeter__" in offered else "mcp__greeter"
        return [call(call_id, tool, namespace=namespace, **arguments)]

    return turn
