"""What a server allows, keeps and waits for.

Each field of ``Settings`` is an option of ``codex-exec-server``; docs/limits.md lists them with
what happens at each limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from exec_server.engine.process import Execution

MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of a server and what else it can be told; bytes, seconds, or counts."""

    detached_seconds: float = 80.0
    """How long a detached session can be resumed; v2's value."""
    retention_seconds: float = 80.0
    """How long a closed process can still be read; v2's value."""
    retained_bytes: int = MEBIBYTE
    """Output retained for process/read, per process; every revision's value."""
    grace_seconds: float = 2.0
    """How long requests and processes under way may take to end when the server is told to."""
    max_processes: int | None = None
    """How many processes of a session may run at a time; None is no limit."""
    executions: Collection[Execution] = ("direct", "prepared")
    """The kinds of command that are run; see the draft's process/start."""
    fsync: bool = False
    """Whether an answered fs/writeFile or fs/copy survives a loss of power."""
