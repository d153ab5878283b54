"""Revision v0: processes alone, named by the server; no sessions, no numbers, no files.

Nothing tells that the output of a process has ended. Its output is taken to be over when a request
sent after the notice of its exit has been answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.client.errors import InputRefused, ServerError
from exec_server.client.events import UNPLACED, Exited, Output
from exec_server.client.lenient_decode import decoder
from exec_server.client.revisions.base import Revision
from exec_server_protocol.v0.client import Client
from exec_server_protocol.v0.command import (
    CommandExecExitedParams,
    CommandExecOutputDeltaParams,
    CommandExecParams,
    CommandExecTerminateParams,
    CommandExecWriteParams,
)
from exec_server_protocol.v0.methods import METHODS

if TYPE_CHECKING:
    import msgspec

    from exec_server.client.events import PlacedEvent
    from exec_server.client.revisions.base import StartSpec
    from exec_server_protocol.caller import Caller


class V0(Revision):
    """See Revision for what the methods do."""

    name = "v0"
    methods = METHODS
    has_sessions = False
    numbers_events = False
    names_processes = False

    def __init__(self, caller: Caller) -> None:
        self._client = Client(caller)

    def event(self, method: str, params: msgspec.Raw) -> tuple[str, PlacedEvent] | None:
        """command/exec/outputDelta and command/exec/exited."""
        if method == "command/exec/outputDelta":
            output = decoder(CommandExecOutputDeltaParams)(params)
            return output.session_id, Output(UNPLACED, output.stream, output.chunk)
        if method == "command/exec/exited":
            exited = decoder(CommandExecExitedParams)(params)
            return exited.session_id, Exited(UNPLACED, exited.exit_code)
        return None

    async def drain_output(self, process_id: str) -> None:
        """Let what was sent before the exit come; see Revision."""
        await self.terminate(process_id, None)

    async def start(self, spec: StartSpec) -> str:
        """command/exec."""
        if spec.inherit not in (None, "none"):
            self._unsupported("inheriting variables")
        if spec.size is not None:
            self._unsupported("the size of a terminal")
        if spec.pipe_stdin:
            self._unsupported("a piped standard input")
        params = CommandExecParams(
            argv=list(spec.argv),
            cwd="/" if spec.cwd is None else spec.cwd,
            env=dict(spec.env),
            tty=spec.tty,
            arg0=spec.arg0,
        )
        return (await self._client.command.exec(params)).session_id

    async def write(self, process_id: str, data: bytes, write_id: str) -> None:
        """command/exec/write."""
        params = CommandExecWriteParams(session_id=process_id, chunk=data)
        try:
            await self._client.command.write(params)
        except ServerError as error:
            raise InputRefused(f"process {process_id!r}: {error.message}") from error

    async def terminate(self, process_id: str, grace_ms: int | None) -> bool:
        """command/exec/terminate."""
        if grace_ms is not None:
            self._unsupported("asking a process to end")
        params = CommandExecTerminateParams(session_id=process_id)
        return (await self._client.command.terminate(params)).running
