"""What a server allows, keeps and waits for.

Each field of ``Settings`` is an option of ``codex-exec-server``; docs/limits.md lists them with
what happens at each limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

    from exec_server.engine.processes.table import Execution

MEBIBYTE: Final = 1024 * 1024


class Settings(msgspec.Struct, frozen=True):
    """The limits of a server and what else it can be told; bytes, seconds, or counts."""

    detached_seconds: float = 80.0
    """How long a detached session can be resumed; v2's value."""
    retention_seconds: float = 80.0
    """How long a closed process can still be read; v2's value."""
    max_connections: int = 1024
    """WebSocket connections at a time."""
    max_sessions: int = 1024
    """Sessions at a time, attached and detached ones."""
    retained_bytes: int = MEBIBYTE
    """Output retained for process/read, per process; every revision's value."""
    retained_chunks: int = 65_536
    """Chunks retained for process/read, per process: each costs memory besides its bytes."""
    max_retained_bytes: int = 128 * MEBIBYTE
    """Memory for the retained output of all processes of a session."""
    max_detached_bytes: int = 224 * MEBIBYTE
    """Memory that all detached sessions may hold together: what the limits above and below allow a
    single one, so that one alone is never ended early."""
    remembered_writes: int = 65_536
    """Names of accepted writes that are known again, per session (v2 process/write)."""
    write_queue_bytes: int = 8 * MEBIBYTE
    """Input queued for a process above which a writer waits; what the real servers' 128 places
    hold when they are filled with 64 KiB each (v1 process/write)."""
    grace_seconds: float = 2.0
    """How long requests and processes under way may take to end when the server is told to."""
    max_processes: int | None = 1024
    """How many processes of a session may run at a time; None is no limit."""
    executions: Collection[Execution] = ("direct", "prepared")
    """The kinds of command that are run; see the draft's process/start."""
    max_message_bytes: int = 64 * MEBIBYTE
    """A WebSocket message or a line that a client sends; the real servers' value."""
    max_frame_bytes: int = 16 * MEBIBYTE
    """A WebSocket frame that a client sends; the real servers' value."""
    max_json_bytes: int = 4 * MEBIBYTE
    """JSON of a message besides the base64 data in its params: it is decoded in one step. argv and
    env, the largest of it, may take 2 MiB on Linux with the usual stack."""
    max_json_depth: int = 127
    """Nested arrays and objects of a message; the real servers refuse the next level."""
    max_json_values: int = 262_144
    """JSON values of a message: objects, arrays and scalars, but not names (v2)."""
    max_requests: int = 1024
    """Requests of a connection that wait for something at a time, bodies being sent included."""
    max_held_bytes: int = 96 * MEBIBYTE
    """Memory held for a client: its waiting requests, input queued for its processes, contents
    that are collected before they are sent, answers that it has not read. A message of the largest
    size and the body of one, and little more."""
    max_unsent_bytes: int = 16 * MEBIBYTE
    """Answers a connection has not taken above which no more of its requests are read."""
    max_file_handles: int = 128
    """Files that a connection may hold open (v2 fs/open); the real servers' value."""
    max_http_seconds: float | None = None
    """How long an http/request may take, whatever the client says; None is no limit: an event
    stream may go on for days."""
    fsync: bool = False
    """Whether an answered fs/writeFile or fs/copy survives a loss of power."""
