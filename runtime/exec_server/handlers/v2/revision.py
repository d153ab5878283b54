"""The handshake of v2, and its handlers put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server.connection import BoundRevision
from exec_server.engine.http import HttpClient
from exec_server.handlers.binding import bind_methods, decoders
from exec_server.handlers.http_requests import HttpRequests
from exec_server.handlers.v2.capabilities import CapabilitiesV2
from exec_server.handlers.v2.config import ConfigV2
from exec_server.handlers.v2.environment import EnvironmentV2, describe_environment
from exec_server.handlers.v2.filesystem import FilesystemV2
from exec_server.handlers.v2.http import HttpV2
from exec_server.handlers.v2.process import ProcessV2
from exec_server_protocol.v2 import errors
from exec_server_protocol.v2.filesystem import FsReadBlockResult, FsReadFileResult
from exec_server_protocol.v2.http import HttpRequestBodyDeltaParams, HttpRequestResult
from exec_server_protocol.v2.server import ROUTES, bind
from exec_server_protocol.v2.session import InitializedParams, InitializeParams, InitializeResult

if TYPE_CHECKING:
    from exec_server.connection import Connection


class EveryRevisionInitializeResult(InitializeResult, frozen=True, kw_only=True):
    """What clients of every revision find what they need in; each ignores the rest."""

    protocol_version: str = "exec-server.v0"
    """How v0 names itself."""


class LifecycleV2:
    """The handshake."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create or resume the session."""
        session = self._connection.open_session(params.resume_session_id)
        speaks_v0 = "v0" in self._connection.revisions
        result = EveryRevisionInitializeResult if speaks_v0 else InitializeResult
        return result(session_id=session.id, environment_info=describe_environment())

    async def initialized(self, params: InitializedParams) -> None:
        """The connection itself notes that the handshake is over."""


@dataclass(frozen=True, slots=True)
class HandlersV2:
    """The handlers of one connection."""

    lifecycle: LifecycleV2
    process: ProcessV2
    filesystem: FilesystemV2
    http: HttpV2
    environment: EnvironmentV2
    config: ConfigV2
    capabilities: CapabilitiesV2


_DECODERS: Final = decoders(ROUTES)

_IN_LANE: Final = frozenset(
    {name for name, route in ROUTES.items() if route.family == "filesystem"} | {"process/start"}
)


class V2:
    """Revision v2, for the server's list."""

    name = "v2"

    def bind(self, connection: Connection) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        filesystem = FilesystemV2(connection)
        requests = HttpRequests(
            connection, HttpRequestBodyDeltaParams, HttpClient(route_aware=True)
        )
        handlers = HandlersV2(
            lifecycle=LifecycleV2(connection),
            process=ProcessV2(connection),
            filesystem=filesystem,
            http=HttpV2(requests),
            environment=EnvironmentV2(),
            config=ConfigV2(),
            capabilities=CapabilitiesV2(),
        )

        async def aclose() -> None:
            await filesystem.aclose()
            await requests.aclose()

        return BoundRevision(
            name=self.name,
            methods=bind_methods(
                self.name,
                ROUTES,
                _DECODERS,
                bind(handlers),
                in_lane=_IN_LANE,
                not_found_code=errors.NOT_FOUND,
            ),
            large_members={
                FsReadFileResult: ("data_base64", "dataBase64"),
                FsReadBlockResult: ("chunk", "chunk"),
                HttpRequestResult: ("body_base64", "bodyBase64"),
            },
            aclose=aclose,
            attached_code=errors.SESSION_ATTACHED,
        )
