"""Limits and timeouts of a server.

Each field of ``Settings`` is an option of ``codex-exec-server``; docs/limits.md lists them and what
happens at each limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

    from exec_server.engine.processes.table import Execution

MEBIBYTE: Final = 1024 * 1024


class Settings(msgspec.Struct, frozen=True):
    """Limits and timeouts of a server, in bytes, seconds or counts."""

    detached_seconds: float = 80.0
    """Time for which a detached session can be resumed; v2's value."""
    retention_seconds: float = 80.0
    """Time for which a closed process can be read; v2's value."""
    max_connections: int = 1024
    """Maximum number of concurrent WebSocket connections."""
    max_sessions: int = 1024
    """Maximum number of concurrent sessions, attached and detached."""
    retained_bytes: int = MEBIBYTE
    """Bytes of output retained for process/read, per process; the value of every revision."""
    retained_chunks: int = 65_536
    """Chunks retained for process/read, per process: each takes memory besides its bytes."""
    max_retained_bytes: int = 128 * MEBIBYTE
    """Memory for the retained output of all processes of a session, in bytes."""
    max_detached_bytes: int = 224 * MEBIBYTE
    """Memory of all detached sessions together. The other limits allow a single session as much,
    so that one alone never ends early."""
    remembered_writes: int = 65_536
    """Accepted writes remembered for deduplication, per session (v2 process/write)."""
    write_queue_bytes: int = 8 * MEBIBYTE
    """Bytes queued for the input of a process above which process/write waits. The released servers
    queue 128 writes, which hold as much at 64 KiB each (v1 process/write)."""
    grace_seconds: float = 2.0
    """Time for pending requests and running processes to end during a shutdown."""
    max_processes: int | None = 1024
    """Maximum number of running processes of a session; None for no limit."""
    executions: Collection[Execution] = ("direct", "prepared")
    """Kinds of command that are accepted; see the draft's process/start."""
    max_message_bytes: int = 64 * MEBIBYTE
    """Maximum size of a WebSocket message or line from a client; the released servers' value."""
    max_frame_bytes: int = 16 * MEBIBYTE
    """Maximum size of a WebSocket frame from a client; the released servers' value."""
    max_json_bytes: int = 4 * MEBIBYTE
    """Maximum size of a message without the base64 data in its params: the rest is decoded in one
    step. argv and env, the largest part, may take 2 MiB on Linux with the usual stack limit."""
    max_json_depth: int = 127
    """Maximum nesting of arrays and objects; the released servers refuse the next level."""
    max_json_values: int = 262_144
    """Maximum number of JSON values of a message: objects, arrays and scalars, but not names."""
    max_requests: int = 1024
    """Maximum number of pending requests of a connection, including bodies that are being sent."""
    max_held_bytes: int = 96 * MEBIBYTE
    """Memory budget of a client: pending requests, queued input of processes, contents collected
    before they are sent, and unread responses. It fits one message of the maximum size and the
    body of one, and little more."""
    max_unsent_bytes: int = 16 * MEBIBYTE
    """Bytes of unread responses above which no more requests of a connection are read."""
    max_file_handles: int = 128
    """Maximum number of open files of a connection (v2 fs/open); the released servers' value."""
    max_http_seconds: float | None = None
    """Maximum duration of an http/request, whatever timeout the client requests; None for no limit,
    as an event stream may last for days."""
    fsync: bool = False
    """True if fs/writeFile and fs/copy are answered only once they survive a loss of power."""
