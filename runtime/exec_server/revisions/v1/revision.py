"""The handshake of v1, and its handlers put together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import msgspec

from exec_server.engine.discovery.shell import login_shell
from exec_server.revisions.binding import BoundMethods, Decoders, LazyHandlers
from exec_server.revisions.interface import BoundRevision
from exec_server.revisions.v1 import filesystem, http, process
from exec_server_protocol.v1.environment import (
    EnvironmentInfoParams,
    EnvironmentInfoResult,
    Shell,
)
from exec_server_protocol.v1.errors import ERRORS
from exec_server_protocol.v1.methods import METHODS
from exec_server_protocol.v1.session import (
    InitializedParams,
    InitializeParams,
    InitializeResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exec_server.revisions.interface import ConnectionContext
    from exec_server_protocol.table import Method
    from exec_server_protocol.v1.process import ProcessStartParams, ProcessWriteParams
    from exec_server_protocol.v1.server import Handlers


class LifecycleV1:
    """The handshake."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create or resume the session."""
        session = self._connection.open_session(params.resume_session_id)
        return InitializeResult(session_id=session.id)

    async def initialized(self, params: InitializedParams) -> None:
        """The connection itself notes that the handshake is over."""


class EnvironmentV1:
    """environment/*."""

    async def info(self, params: EnvironmentInfoParams) -> EnvironmentInfoResult:
        """Shell that commands should be written for."""
        shell = login_shell()
        return EnvironmentInfoResult(shell=Shell(name=shell.name, path=shell.path))


class HandlersV1(LazyHandlers):
    """The handlers of one connection."""

    @cached_property
    def lifecycle(self) -> LifecycleV1:
        """The handshake."""
        return LifecycleV1(self._connection)

    @cached_property
    def process(self) -> process.ProcessV1:
        """process/*."""
        return process.ProcessV1(self._connection)

    @cached_property
    def filesystem(self) -> filesystem.FilesystemV1:
        """fs/*."""
        return filesystem.FilesystemV1(self._connection)

    @cached_property
    def http(self) -> http.HttpV1:
        """http/request."""
        return http.HttpV1(self._connection)

    @cached_property
    def environment(self) -> EnvironmentV1:
        """environment/*."""
        return EnvironmentV1()


_DECODERS: Final = Decoders(METHODS)


class _WriteName(msgspec.Struct, rename="camel"):
    write_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _starts_at_uri(_raw: msgspec.Raw, params: ProcessStartParams) -> bool:
    return params.cwd.startswith("file:")


def _is_named_write(raw: msgspec.Raw, _params: ProcessWriteParams) -> bool:
    return msgspec.json.decode(raw, type=_WriteName).write_id is not msgspec.UNSET


_NEWER: Final[Mapping[str, Callable[[msgspec.Raw, Any], bool]]] = {
    "process/start": _starts_at_uri,
    "process/write": _is_named_write,
}
"""Params that decode here but are v2's, and wrong there: v1 would ignore what is wrong."""


class V1:
    """Revision v1, for the server's list."""

    name = "v1"

    def __init__(self, *, beside_newer: bool = False) -> None:
        """``beside_newer``: v2 is served too, and what can only be meant for it is left to it."""
        self._beside_newer = beside_newer

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        handlers = HandlersV1(connection)
        served: Handlers = handlers
        methods: Mapping[str, Method] = METHODS
        if self._beside_newer:
            methods = {name: row for name, row in METHODS.items() if row.covered_by is None}
        return BoundRevision(
            name=self.name,
            methods=BoundMethods(
                self.name,
                methods,
                ERRORS,
                _DECODERS,
                served,
                is_newer=_NEWER if self._beside_newer else None,
            ),
            aclose=handlers.aclose,
        )
