"""Values that describe a process at one moment: exit status, read results and snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server.engine.processes.head_tail import Excerpt
    from exec_server.engine.processes.output_log import OutputChunk, StreamName

WriteStatus: TypeAlias = Literal["accepted", "stdinClosed"]


class ExitStatus(msgspec.Struct, frozen=True):
    """Exit code or signal of a process; exactly one of the two is set."""

    code: int | None
    """0 to 255; -1 if the code is unknown."""
    signal: int | None
    """Number of the signal that killed the process."""


class ReadView(msgspec.Struct, frozen=True):
    """Result of reading a process (v1 and v2, process/read)."""

    chunks: list[OutputChunk]
    next_seq: int
    """One more than the last number in ``chunks``; without chunks, the next unused number."""
    process_next_seq: int
    """The next unused number, regardless of ``chunks``."""
    exited: bool
    status: ExitStatus | None
    closed: bool


class Snapshot(msgspec.Struct, frozen=True):
    """Head and tail of the output of each stream, and the state (draft, process/snapshot)."""

    streams: Mapping[StreamName, Excerpt]
    """``pty`` for a process with a terminal, otherwise ``stdout`` and ``stderr``."""
    next_seq: int
    """Number of the first event that is not included."""
    status: ExitStatus | None
    closed: bool
