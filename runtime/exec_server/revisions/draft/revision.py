"""The handshake of the draft, and its handlers put together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from exec_server.revisions.binding import Decoders
from exec_server.revisions.draft import process
from exec_server.revisions.draft.environment import EnvironmentDraft, describe_environment
from exec_server.revisions.v2.revision import (
    ExtensibleHandlers,
    LifecycleV2,
    bound_revision,
    v0_version,
)
from exec_server_protocol.draft.errors import ERRORS
from exec_server_protocol.draft.methods import METHODS
from exec_server_protocol.draft.session import InitializeResult

if TYPE_CHECKING:
    from exec_server.revisions.interface import BoundRevision, ConnectionContext
    from exec_server_protocol.draft.server import Handlers
    from exec_server_protocol.draft.session import InitializeParams


class EveryRevisionInitializeResult(InitializeResult, frozen=True, kw_only=True):
    """Result that serves clients of every revision; each ignores the members it does not know."""

    protocol_version: str | UnsetType = UNSET
    """Version of v0, if the server speaks it."""


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


class HandlersDraft(ExtensibleHandlers):
    """The handlers of one connection."""

    @cached_property
    def lifecycle(self) -> LifecycleDraft:
        """The handshake."""
        return LifecycleDraft(self._connection)

    @cached_property
    def process(self) -> process.ProcessDraft:
        """process/*."""
        return process.ProcessDraft(self._connection)

    @cached_property
    def environment(self) -> EnvironmentDraft:
        """environment/*."""
        return EnvironmentDraft(self._connection)


_DECODERS: Final = Decoders(METHODS)


class Draft:
    """The draft, for the server's list."""

    name = "draft"

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """The handlers of one connection; see Revision."""
        handlers = HandlersDraft(connection)
        served: Handlers = handlers
        return bound_revision(self.name, METHODS, ERRORS, _DECODERS, served, aclose=handlers.aclose)
