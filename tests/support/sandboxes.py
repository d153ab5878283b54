"""Sandboxes as clients of v2 ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.sandbox import bubblewrap
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


def _why_not() -> str:
    try:
        bubblewrap.require()
    except InvalidRequest as error:
        return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(
    not bubblewrap.is_available(), reason=f"CONFINEMENT IS NOT TESTED HERE: {_why_not()}"
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
    """Managed permissions."""
    file_system = {"type": "restricted", "entries": list(entries)}
    return {
        "permissions": {"type": "managed", "file_system": file_system, "network": network},
        "windowsSandboxLevel": "disabled",
        **more,
    }
