"""The handshake of v2, and its handlers put together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from exec_server.revisions.binding import BoundMethods, Decoders, LazyHandlers
from exec_server.revisions.interface import BoundRevision
from exec_server.revisions.v2 import capabilities, config, filesystem, http, process
from exec_server.revisions.v2.environment import EnvironmentV2, describe_environment
from exec_server_protocol.v2.errors import ERRORS
from exec_server_protocol.v2.methods import METHODS
from exec_server_protocol.v2.session import InitializedParams, InitializeParams, InitializeResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from exec_server.revisions.interface import ConnectionContext
    from exec_server_protocol.table import ErrorKind, Method
    from exec_server_protocol.v2.server import Handlers


class EveryRevisionInitializeResult(InitializeResult, frozen=True, kw_only=True):
    """Result that serves clients of every revision; each ignores the members it does not know."""

    protocol_version: str | UnsetType = UNSET
    """Version of v0, if the server speaks it."""


class LifecycleV2:
    """The handshake."""

    def __init__(self, connection: ConnectionContext) -> None:
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


def v0_version(connection: ConnectionContext) -> str | UnsetType:
    """Members that a client of v0 needs in the result of initialize, if the server speaks v0."""
    return "exec-server.v0" if "v0" in connection.revisions else UNSET


class ExtensibleHandlers(LazyHandlers):
    """The handlers of one connection, as far as revisions that extend v2 have the same."""

    @cached_property
    def filesystem(self) -> filesystem.FilesystemV2:
        """fs/*."""
        return filesystem.FilesystemV2(self._connection)

    @cached_property
    def http(self) -> http.HttpV2:
        """http/request."""
        return http.HttpV2(self._connection)

    @cached_property
    def config(self) -> config.ConfigV2:
        """environmentConfig/*."""
        return config.ConfigV2()

    @cached_property
    def capabilities(self) -> capabilities.CapabilitiesV2:
        """capabilityRoots/* and capabilities/*."""
        return capabilities.CapabilitiesV2()


class HandlersV2(ExtensibleHandlers):
    """The handlers of one connection."""

    @cached_property
    def lifecycle(self) -> LifecycleV2:
        """The handshake."""
        return LifecycleV2(self._connection)

    @cached_property
    def process(self) -> process.ProcessV2:
        """process/*."""
        return process.ProcessV2(self._connection)

    @cached_property
    def environment(self) -> EnvironmentV2:
        """environment/*."""
        return EnvironmentV2()


def bound_revision(
    name: str,
    methods: Mapping[str, Method],
    errors: Mapping[str, ErrorKind],
    decoders: Decoders,
    handlers: object,
    *,
    aclose: Callable[[], Awaitable[None]],
) -> BoundRevision:
    """v2 or an extension of it, bound to one connection."""
    return BoundRevision(
        name=name,
        methods=BoundMethods(name, methods, errors, decoders, handlers),
        aclose=aclose,
        attached_code=errors["sessionAttached"].code,
    )


_DECODERS: Final = Decoders(METHODS)


class V2:
    """Revision v2, for the server's list."""

    name = "v2"

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        handlers = HandlersV2(connection)
        served: Handlers = handlers
        return bound_revision(self.name, METHODS, ERRORS, _DECODERS, served, aclose=handlers.aclose)
