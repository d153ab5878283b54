"""The handshake of the draft, and its handlers put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, UnsetType

from exec_server.handlers.binding import decoders
from exec_server.handlers.draft.environment import EnvironmentDraft, describe_environment
from exec_server.handlers.draft.process import REVISION, ProcessDraft
from exec_server.handlers.v2.capabilities import CapabilitiesV2
from exec_server.handlers.v2.config import ConfigV2
from exec_server.handlers.v2.revision import (
    ConnectionHandlers,
    LifecycleV2,
    bound_revision,
    v0_version,
)
from exec_server_protocol.draft.server import ROUTES, bind
from exec_server_protocol.draft.session import InitializeResult

if TYPE_CHECKING:
    from exec_server.connection import BoundRevision, Connection
    from exec_server.handlers.v2.filesystem import FilesystemV2
    from exec_server.handlers.v2.http import HttpV2
    from exec_server_protocol.draft.session import InitializeParams


class EveryRevisionInitializeResult(InitializeResult, frozen=True, kw_only=True):
    """What clients of every revision find what they need in; each ignores the rest."""

    protocol_version: str | UnsetType = UNSET
    """How v0 names itself, if it is spoken."""


class LifecycleDraft(LifecycleV2):
    """The handshake."""

    async def initialize(self, params: InitializeParams) -> InitializeResult:
        """Create or resume the session."""
        session = self._connection.open_session(params.resume_session_id)
        return EveryRevisionInitializeResult(
            session_id=session.id,
            environment_info=describe_environment(self._connection.settings),
            protocol_version=v0_version(self._connection),
        )


class HandlersDraft(msgspec.Struct, frozen=True):
    """The handlers of one connection."""

    lifecycle: LifecycleDraft
    process: ProcessDraft
    filesystem: FilesystemV2
    http: HttpV2
    environment: EnvironmentDraft
    config: ConfigV2
    capabilities: CapabilitiesV2


_DECODERS: Final = decoders(ROUTES)


class Draft:
    """The draft, for the server's list."""

    name = REVISION

    def bind(self, connection: Connection) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        held = ConnectionHandlers(connection)
        handlers = HandlersDraft(
            lifecycle=LifecycleDraft(connection),
            process=ProcessDraft(connection),
            filesystem=held.filesystem,
            http=held.http,
            environment=EnvironmentDraft(connection),
            config=ConfigV2(),
            capabilities=CapabilitiesV2(),
        )
        return bound_revision(self.name, ROUTES, _DECODERS, bind(handlers), held.aclose)
