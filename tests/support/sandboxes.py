"""Sandbox objects of v2 requests, and sandboxed processes started with them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.sandbox import bubblewrap
from exec_server.errors import InvalidRequest
from tests.support import peer

if TYPE_CHECKING:
    from pathlib import Path


def _why_not() -> str:
    try:
        bubblewrap.require()
    except InvalidRequest as error:
        return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(
    not bubblewrap.is_available(), reason=f"SANDBOXES ARE NOT TESTED HERE: {_why_not()}"
)


def entry(path: Any, access: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "access": access, **more}


def plain(path: Path) -> dict[str, Any]:
    return {"type": "path", "path": path.as_uri()}


def place(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "special", "value": {"kind": kind, **more}}


def glob(pattern: str) -> dict[str, Any]:
    return {"type": "glob_pattern", "pattern": pattern}


READ_ALL = entry(place("root"), "read")


def sandbox(*entries: dict[str, Any], network: str = "restricted", **more: Any) -> dict[str, Any]:
    """Return a sandbox with managed permissions."""
    file_system = {"type": "restricted", "entries": list(entries)}
    return {
        "permissions": {"type": "managed", "file_system": file_system, "network": network},
        "windowsSandboxLevel": "disabled",
        **more,
    }


def run(
    client: peer.Client, script: str, sandbox: dict[str, Any], cwd: Path, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Return the output of a sandboxed script, and the params of process/exited."""
    name = f"p{len(client.arrivals)}"
    started = client.call(
        "process/start",
        peer.start_params(
            name, "sh", "-c", f"exec 2>&1; {script}", cwd=cwd.as_uri(), sandbox=sandbox, **options
        ),
    )
    assert started == {"processId": name, "sandboxType": "linuxSeccomp"}
    events = client.closed(name)
    output = b"".join(
        base64.b64decode(event["params"]["chunk"])
        for event in events
        if event["method"] == "process/output"
    )
    (exited,) = (event["params"] for event in events if event["method"] == "process/exited")
    read = client.call("process/read", {"processId": name})
    assert read["sandboxDenied"] == exited["sandboxDenied"]
    return output.decode(), exited
