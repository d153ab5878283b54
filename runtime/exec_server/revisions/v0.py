"""Handlers of revision v0 (the prototype of March 2026).

The server names the processes. They belong to the session as in later revisions, but a session ends
with its connection, and a process is unknown from its exit on.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server import jsonrpc
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.errors import InvalidArgument, InvalidRequest
from exec_server.revisions.binding import BoundMethods, Decoders
from exec_server.revisions.interface import BoundRevision
from exec_server.revisions.process_events import exit_code_without_signals, output_message
from exec_server_protocol.v0.command import (
    CommandExecExitedParams,
    CommandExecOutputDeltaParams,
    CommandExecParams,
    CommandExecResult,
    CommandExecTerminateParams,
    CommandExecTerminateResult,
    CommandExecWriteParams,
    CommandExecWriteResult,
)
from exec_server_protocol.v0.errors import ERRORS, INVALID_REQUEST
from exec_server_protocol.v0.methods import METHODS
from exec_server_protocol.v0.session import InitializedParams, InitializeParams, InitializeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.engine.processes.output_log import OutputChunk
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus
    from exec_server.revisions.interface import ConnectionContext, NotificationEncoder
    from exec_server_protocol.v0.server import Handlers

PROTOCOL_VERSION: Final = "exec-server.v0"
"""Name of the revision in the result of initialize."""


class V0NotificationEncoder:
    """Encoder of v0: without ``seq`` and a closing notification; terminal output is ``stdout``."""

    revision = "v0"

    def output(self, process: Process[object], chunk: OutputChunk) -> Sequence[bytes]:
        """Encode command/exec/outputDelta."""
        stream: Final = "stderr" if chunk.stream == "stderr" else "stdout"
        return output_message(
            "command/exec/outputDelta",
            lambda data: CommandExecOutputDeltaParams(
                session_id=process.id, stream=stream, chunk=data
            ),
            chunk.data,
        )

    def exited(self, process: Process[object], seq: int, status: ExitStatus) -> bytes:
        """Encode command/exec/exited."""
        params = CommandExecExitedParams(
            session_id=process.id, exit_code=exit_code_without_signals(process, status)
        )
        return jsonrpc.notification("command/exec/exited", params)

    def closed(self, process: Process[object], seq: int) -> None:
        """Return None: v0 has no such notification."""


_ENCODER: Final = V0NotificationEncoder()


class LifecycleV0:
    """Handlers of the handshake."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create the session, which v0 does not name."""
        self._connection.open_session(None)
        return InitializeResult(protocol_version=PROTOCOL_VERSION)

    async def initialized(self, params: InitializedParams) -> None:
        """Do nothing: the connection itself completes the handshake."""


class CommandV0:
    """Handlers of command/exec and its related methods."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection
        self._numbers = count(1)

    def _find(self, session_id: str) -> Process[NotificationEncoder] | None:
        process = self._connection.session.processes.get(session_id)
        return None if process is None or process.status is not None else process

    async def exec(self, params: CommandExecParams) -> CommandExecResult:
        """Start a process; its notifications follow the response."""
        if not params.argv:  # before it uses up a name, as a failed start does
            raise InvalidArgument("argv must not be empty")
        processes = self._connection.session.processes
        spec = SpawnSpec(
            argv=params.argv, cwd=params.cwd, env=params.env, tty=params.tty, arg0=params.arg0
        )
        # A client of another revision may have used the name in the same session.
        names = (f"session-{number}" for number in self._numbers)
        name = next(name for name in names if processes.get(name) is None)
        processes.start(name, spec, context=_ENCODER)
        return CommandExecResult(session_id=name)

    async def write(self, params: CommandExecWriteParams) -> CommandExecWriteResult:
        """Queue input for a terminal."""
        process = self._find(params.session_id)
        if process is None:
            raise InvalidRequest(f"unknown session id {params.session_id}")
        if await process.write(params.chunk) == "stdinClosed":
            raise InvalidRequest(f"stdin is closed for session {params.session_id}")
        return CommandExecWriteResult(accepted=True)

    async def terminate(self, params: CommandExecTerminateParams) -> CommandExecTerminateResult:
        """Kill the process group; ``running`` until the exit has been handled."""
        process = self._find(params.session_id)
        if process is not None:
            process.terminate()
        return CommandExecTerminateResult(running=process is not None)


class HandlersV0(msgspec.Struct, frozen=True):
    """Handlers of one connection."""

    lifecycle: LifecycleV0
    command: CommandV0


_DECODERS: Final = Decoders(METHODS)


class V0:
    """Revision v0; see Revision."""

    name = "v0"

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """Create the handlers of one connection; see Revision."""
        served: Handlers = HandlersV0(
            lifecycle=LifecycleV0(connection), command=CommandV0(connection)
        )
        return BoundRevision(
            name=self.name,
            methods=BoundMethods(self.name, METHODS, ERRORS, _DECODERS, served),
            aclose=_nothing_to_release,
            unknown_method=(INVALID_REQUEST, "unknown method: {}"),
            survives_malformed=False,
            keeps_session=False,
        )


async def _nothing_to_release() -> None:
    """Do nothing: the connection holds nothing besides its session."""
