"""The handshake of v2, and its handlers put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from exec_server.connection import BoundRevision
from exec_server.handlers.binding import bind_methods, decoders
from exec_server.handlers.http_requests import HttpRequests
from exec_server.handlers.v2.capabilities import CapabilitiesV2
from exec_server.handlers.v2.config import ConfigV2
from exec_server.handlers.v2.environment import EnvironmentV2, describe_environment
from exec_server.handlers.v2.filesystem import FilesystemV2
from exec_server.handlers.v2.http import HttpV2, http_result
from exec_server.handlers.v2.process import ProcessV2
from exec_server_protocol.v2 import errors
from exec_server_protocol.v2.filesystem import FsReadBlockResult, FsReadFileResult
from exec_server_protocol.v2.http import HttpRequestBodyDeltaParams, HttpRequestResult
from exec_server_protocol.v2.process import ProcessReadResult
from exec_server_protocol.v2.server import ROUTES, bind
from exec_server_protocol.v2.session import InitializedParams, InitializeParams, InitializeResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from exec_server.connection import Connection
    from exec_server_protocol.table import Method


class EveryRevisionInitializeResult(InitializeResult, frozen=True, kw_only=True):
    """What clients of every revision find what they need in; each ignores the rest."""

    protocol_version: str | UnsetType = UNSET
    """How v0 names itself, if it is spoken."""


class LifecycleV2:
    """The handshake."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create or resume the session."""
        session = self._connection.open_session(params.resume_session_id)
        return EveryRevisionInitializeResult(
            session_id=session.id,
            environment_info=describe_environment(),
            protocol_version=v0_version(self._connection),
        )

    async def initialized(self, params: InitializedParams) -> None:
        """The connection itself notes that the handshake is over."""


def v0_version(connection: Connection) -> str | UnsetType:
    """What a client of v0 looks for in the answer to initialize, if the server speaks v0."""
    return "exec-server.v0" if "v0" in connection.revisions else UNSET


class HandlersV2(msgspec.Struct, frozen=True):
    """The handlers of one connection."""

    lifecycle: LifecycleV2
    process: ProcessV2
    filesystem: FilesystemV2
    http: HttpV2
    environment: EnvironmentV2
    config: ConfigV2
    capabilities: CapabilitiesV2


class ConnectionHandlers:
    """The handlers that hold something for their connection, the same for extensions of v2."""

    def __init__(self, connection: Connection) -> None:
        self._requests = HttpRequests(
            connection, http_result, HttpRequestBodyDeltaParams, route_aware=True
        )
        self.filesystem: Final = FilesystemV2(connection)
        self.http: Final = HttpV2(self._requests)

    async def aclose(self) -> None:
        """Release what they hold."""
        await self.filesystem.aclose()
        await self._requests.aclose()


def bound_revision(
    name: str,
    routes: Mapping[str, Method],
    decode: Mapping[str, Callable[[msgspec.Raw], Any]],
    calls: Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]],
    aclose: Callable[[], Awaitable[None]],
) -> BoundRevision:
    """v2 or an extension of it, bound to one connection."""
    in_lane = {one for one, route in routes.items() if route.family == "filesystem"}
    return BoundRevision(
        name=name,
        methods=bind_methods(
            name,
            routes,
            decode,
            calls,
            in_lane=in_lane | {"process/start"},
            not_found_code=errors.NOT_FOUND,
        ),
        large_members={
            FsReadFileResult: ("data_base64", "dataBase64"),
            FsReadBlockResult: ("chunk", "chunk"),
            HttpRequestResult: ("body_base64", "bodyBase64"),
            ProcessReadResult: ("chunks", "chunk"),
        },
        aclose=aclose,
        attached_code=errors.SESSION_ATTACHED,
    )


_DECODERS: Final = decoders(ROUTES)


class V2:
    """Revision v2, for the server's list."""

    name = "v2"

    def bind(self, connection: Connection) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        held = ConnectionHandlers(connection)
        handlers = HandlersV2(
            lifecycle=LifecycleV2(connection),
            process=ProcessV2(connection),
            filesystem=held.filesystem,
            http=held.http,
            environment=EnvironmentV2(),
            config=ConfigV2(),
            capabilities=CapabilitiesV2(),
        )
        return bound_revision(self.name, ROUTES, _DECODERS, bind(handlers), held.aclose)
