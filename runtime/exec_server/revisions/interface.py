"""The interface between the handlers of a revision and the connection that they serve.

The server implements ``ConnectionContext`` and ``SessionContext``; a revision implements
``Revision`` and describes its methods with ``BoundMethod``. Nothing here knows the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from exec_server.jsonrpc import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence

    from exec_server.engine.memory_budget import MemoryBudget
    from exec_server.engine.processes.output_log import OutputChunk
    from exec_server.engine.processes.process import Process
    from exec_server.engine.processes.process_state import ExitStatus
    from exec_server.engine.processes.table import ProcessTable
    from exec_server.revisions.accepted_writes import AcceptedWrites
    from exec_server.settings import Settings


class NotificationEncoder(Protocol):
    """Encodes the events of a process as notifications of one revision."""

    @property
    def revision(self) -> str:
        """Name of the revision that started the process."""
        ...

    def output(self, process: Process[object], chunk: OutputChunk) -> Sequence[bytes]:
        """Encode a chunk of output, in pieces."""
        ...

    def exited(self, process: Process[object], seq: int, status: ExitStatus) -> bytes:
        """Encode the exit of the process."""
        ...

    def closed(self, process: Process[object], seq: int) -> bytes | None:
        """Encode the end of its output; None if the revision has no such notification."""
        ...


class SessionContext(Protocol):
    """A client's session, as handlers see it."""

    @property
    def id(self) -> str:
        """Name under which the session can be resumed."""
        ...

    @property
    def processes(self) -> ProcessTable[NotificationEncoder]:
        """The processes of the session."""
        ...

    @property
    def memory(self) -> MemoryBudget:
        """Memory that is held for the client."""
        ...

    @property
    def accepted_writes(self) -> AcceptedWrites:
        """Writes that are not repeated when the client sends them again."""
        ...


class ConnectionContext(Protocol):
    """A connection, as handlers see it."""

    @property
    def settings(self) -> Settings:
        """The limits of the server."""
        ...

    @property
    def revisions(self) -> Collection[str]:
        """Names of the revisions that the connection serves."""
        ...

    @property
    def session(self) -> SessionContext:
        """The session of the connection; handlers run only when there is one."""
        ...

    def open_session(self, resume_session_id: str | None) -> SessionContext:
        """Create or resume the session of the connection.

        Raises InvalidRequest if the connection has a session or the one to resume is not
        available; the client may then try again.
        """
        ...

    def notify(self, pieces: Sequence[bytes]) -> None:
        """Send an encoded notification, in pieces."""
        ...

    def track(self, stream: asyncio.Task[None]) -> None:
        """Count a task that goes on sending after the response as work of the connection."""
        ...

    def release_slot(self) -> None:
        """Let serialized requests behind the running one start before it is done."""
        ...

    async def wait_writable(self) -> None:
        """Return when the peer has read most of what was sent to it."""
        ...

    async def wait_for_room(self) -> None:
        """Return when the peer has read enough for one more response to be produced.

        Waiters are admitted one at a time, each when the response before it has been queued.
        """
        ...


class BoundMethod(msgspec.Struct, frozen=True):
    """A method of one revision, bound to the handlers of one connection."""

    revision: str
    """Name of the revision."""
    method: str
    """Name on the wire."""
    family: str
    """Name of the group in errors about the handshake: ``exec``, ``filesystem``, …"""
    params: type[msgspec.Struct]
    """Model of the params."""
    decode: Callable[[msgspec.Raw], Any]
    """Decoder of the params."""
    call: Callable[[Any], Coroutine[Any, Any, Any]]
    """Handler."""
    members: Mapping[str, str]
    """Attributes of the params by wire name."""
    base64_params: tuple[str, ...] = ()
    """Wire names of params that are base64 text."""
    base64_texts: tuple[str, ...] = ()
    """Wire names of params that are base64 text and are decoded by the handler itself."""
    id_params: tuple[str, ...] = ()
    """Wire names of params that are ids of at most jsonrpc.MAX_ID_BYTES."""
    is_newer: Callable[[msgspec.Raw, Any], bool] | None = None
    """Predicate for params that decode here but are meant for a newer revision."""
    follow_up: Callable[[Any, object], bytes | None] | None = None
    """Encoder of the notification that is sent right after the response, from the params and from
    the result or the exception."""
    serialized: bool = False
    """True if the effects must keep the order of arrival among serialized requests."""
    before_handshake: bool = False
    """True for the method that opens the session."""
    starts_process: bool = False
    """True if ``processId`` names a process that the method creates."""
    about_process: bool = False
    """True if the method concerns a process that was started before."""
    may_wait: bool = True
    """True if the response may take a while."""
    not_found_code: int = INTERNAL_ERROR
    """The revision's code for NotFound and, in the ``filesystem`` family, ENOENT."""
    large_member: tuple[str, str] | None = None
    """The large base64 member of the result: attribute and wire name. If the attribute is a list of
    models, each of those has the member, under the same name as on the wire."""


class MethodTable(Protocol):
    """The requests of a revision, by name."""

    def get(self, name: str, /) -> BoundMethod | None:
        """Return the request of that name, or None."""
        ...


class BoundRevision(msgspec.Struct, frozen=True):
    """One revision of the protocol, bound to one connection."""

    name: str
    methods: MethodTable
    aclose: Callable[[], Awaitable[None]]
    """Release what belongs to the connection: streams, open handles."""
    unknown_method: tuple[int, str] = (
        METHOD_NOT_FOUND,
        "exec-server stub does not implement `{}` yet",
    )
    """Code and text of the response to a method that no revision has."""
    attached_code: int = INVALID_REQUEST
    """Code of the refusal to resume a session that has a connection."""
    survives_malformed: bool = True
    """True if malformed input is answered, False if it ends the connection."""
    keeps_session: bool = True
    """True if a session can be resumed after its connection was lost."""


class Revision(Protocol):
    """A revision that can be bound to a connection; newest first in the server's list."""

    @property
    def name(self) -> str:
        """Name of the revision, such as ``v1``."""
        ...

    def bind(self, connection: ConnectionContext) -> BoundRevision:
        """Create the handlers of one connection."""
        ...
