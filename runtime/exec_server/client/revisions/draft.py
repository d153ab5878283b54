"""The draft: v2, and where its flags say so, a process API that is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exec_server.client.events import Excerpt, Excerpts, ProcessInfo
from exec_server.client.revisions.v2 import V2
from exec_server_protocol.draft.client import ProcessClient
from exec_server_protocol.draft.environment import EnvironmentInfoResult
from exec_server_protocol.draft.methods import METHODS
from exec_server_protocol.draft.process import (
    GracefulTermination,
    OutputExcerpt,
    ProcessCloseStdinParams,
    ProcessListParams,
    ProcessResizeParams,
    ProcessSnapshotParams,
    ProcessStartParams,
    ProcessTerminateParams,
)

if TYPE_CHECKING:
    import msgspec

    from exec_server.client.revisions.base import StartSpec
    from exec_server_protocol.caller import Caller

RESIZE: Final = "processResize"
CLOSE_STDIN: Final = "processCloseStdin"
TERMINATE_MODE: Final = "processTerminateMode"
LIST: Final = "processList"
SNAPSHOT: Final = "processSnapshot"
"""Capabilities, as the wire names them."""


class Draft(V2):
    """See Revision for what the methods do."""

    name = "draft"
    methods = METHODS
    _info_model = EnvironmentInfoResult

    def __init__(self, caller: Caller, environment_info: msgspec.Raw) -> None:
        super().__init__(caller, environment_info)
        self._process = ProcessClient(caller)
        flags = frozenset() if self._environment is None else self._environment.capabilities
        self._flags: frozenset[str] = flags
        self.can_close_stdin = CLOSE_STDIN in flags

    async def start(self, spec: StartSpec) -> str:
        """process/start, with the size of the terminal."""
        if spec.size is None:
            return await super().start(spec)
        if RESIZE not in self._flags:
            self._unsupported("the size of a terminal")
        rows, cols = spec.size
        members = await self._start_members(spec)
        return await self._start(ProcessStartParams(**members, rows=rows, cols=cols))

    async def terminate(self, process_id: str, grace_ms: int | None) -> bool:
        """process/terminate, with or without a mode."""
        if grace_ms is None:
            return await super().terminate(process_id, None)
        if TERMINATE_MODE not in self._flags:
            self._unsupported("asking a process to end")
        mode = GracefulTermination(timeout_ms=grace_ms)
        params = ProcessTerminateParams(process_id=process_id, mode=mode)
        return (await self._process.terminate(params)).running

    async def excerpts(self, process_id: str) -> Excerpts:
        """process/snapshot."""
        if SNAPSHOT not in self._flags:
            self._unsupported("excerpts of the output")
        taken = await self._process.snapshot(ProcessSnapshotParams(process_id=process_id))
        return Excerpts(
            _excerpt(taken.stdout or taken.terminal),
            _excerpt(taken.stderr),
            taken.next_seq,
            taken.exit_code,
            taken.closed,
        )

    async def list_processes(self) -> list[ProcessInfo]:
        """process/list."""
        if LIST not in self._flags:
            self._unsupported("listing processes")
        return [
            ProcessInfo(
                found.process_id,
                found.pid,
                found.argv,
                found.tty,
                found.exit_code,
                found.closed,
            )
            for found in (await self._process.list(ProcessListParams())).processes
        ]

    async def close_stdin(self, process_id: str) -> None:
        """process/closeStdin."""
        if not self.can_close_stdin:
            self._unsupported("closing standard input")
        await self._process.close_stdin(ProcessCloseStdinParams(process_id=process_id))

    async def resize(self, process_id: str, rows: int, cols: int) -> None:
        """process/resize."""
        if RESIZE not in self._flags:
            self._unsupported("resizing a terminal")
        await self._process.resize(ProcessResizeParams(process_id=process_id, rows=rows, cols=cols))


def _excerpt(found: OutputExcerpt | None) -> Excerpt:
    return Excerpt(b"", 0, b"") if found is None else Excerpt(found.head, found.omitted, found.tail)
