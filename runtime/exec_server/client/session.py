"""A session with a server, over one connection after the other.

Over WebSocket a session outlives a lost connection: it is resumed as soon as the server answers
again, and new requests wait until then. Requests in flight are repeated where that is harmless. The
others fail, because the client cannot know if they were carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from exec_server.client import handshake
from exec_server.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    RequestTimedOut,
    ServerError,
    SessionLost,
)
from exec_server.client.events import Output
from exec_server.client.process_registry import ProcessRegistry
from exec_server.client.rpc import RpcConnection
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from exec_server.client.handshake import Options
    from exec_server.client.revisions.base import BodyPiece, Revision
    from exec_server.client.transports.channel import Dialer

log = logging.getLogger("exec_server.client")

ResultT = TypeVar("ResultT", bound=msgspec.Struct)

RETRY_SECONDS: Final = 0.1
"""Pause between two attempts to resume: short, because the server restarts its own timer."""

ATTEMPT_SECONDS: Final = 2.0
"""Time limit of the first attempt to resume, doubled for each further one. A new connection may be
as dead as the old one, and the server keeps a session for seconds only."""

GOODBYE_SECONDS: Final = 2.0
"""Time limit for terminating the processes of a session when the client is closed."""

ALREADY_ATTACHED: Final = -32010
"""Error code of a server that has not noticed the end of the last connection (v2)."""


class BodyReceiver(Protocol):
    """The consumer of a streamed HTTP body."""

    def take(self, piece: BodyPiece) -> None:
        """Take the next piece."""
        ...

    def fail(self, error: Exception) -> None:
        """End the body with an error."""
        ...


class Session:
    """A session, from its first handshake to its end.

    Implements Caller for the generated stubs, ConnectionOwner and RegistryOwner.
    """

    def __init__(self, dialer: Dialer, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialer = dialer
        self._options = options
        self._connection: RpcConnection | None = None
        self._revision: Revision | None = None
        self.session_id = options.session_id
        """Id to resume the session with; None in a revision without sessions."""
        self.generation = 0
        """Number of reconnections; handles and requests belong to one generation."""
        self.failure: ConnectionLost | None = None
        """The reason why the session is over, once it is."""
        self.processes = ProcessRegistry(self)
        """The processes that this client follows."""
        self._reconnected: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing_connections: set[asyncio.Task[None]] = set()
        self._bodies: dict[str, BodyReceiver] = {}
        self._reading_holders: set[object] = set()

    @property
    def target(self) -> str:
        """Name of the server in error messages."""
        return self._dialer.target

    @property
    def can_resume(self) -> bool:
        """True if the session outlives a connection."""
        return (
            self.session_id is not None and self._dialer.can_resume and self.revision.has_sessions
        )

    @property
    def revision(self) -> Revision:
        """The revision in use; set by ``open``."""
        assert self._revision is not None
        return self._revision

    # Opening

    async def open(self) -> None:
        """Connect and perform the handshake. Raises ConnectFailed."""
        connection = RpcConnection(self, self._options.max_message_bytes)
        try:
            await self._dial(connection)
            await self._open(connection)
        except BaseException:
            await connection.aclose()
            raise
        self._connection = connection
        if not connection.is_alive:
            raise ConnectFailed(f"{self.target} closed the connection after the handshake")

    async def _dial(self, connection: RpcConnection) -> None:
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                connection.attach(await self._dialer.dial(connection))
        except TimeoutError:
            raise ConnectTimedOut(
                f"no connection to {self.target} within {self._options.connect_timeout:g} s"
            ) from None

    async def _open(self, connection: RpcConnection) -> None:
        try:
            async with asyncio.timeout(self._options.initialize_timeout):
                result = await handshake.initialize(connection, self._options, self.session_id)
                self.session_id = result.session_id
                await handshake.confirm(connection)
                self._revision = await handshake.select_revision(
                    connection, self, result, self._options.revision, self.target
                )
                connection.methods = self._revision.methods
        except TimeoutError:
            raise ConnectTimedOut(
                f"{self.target} did not answer initialize within "
                f"{self._options.initialize_timeout:g} s"
            ) from None
        except ServerError as error:
            raise ConnectFailed(f"{self.target} refused the session: {error.message}") from error
        except ConnectionLost as error:
            raise ConnectFailed(str(error)) from error

    # Requests (Caller)

    async def request(self, method: str, params: Any, result: type[ResultT]) -> ResultT:
        """Send a request over the current connection, or the next one, and decode its result.

        Raises ServerError, BadAnswer, and ConnectionLost if the session ends, or if the request
        was in flight on a connection that was lost and cannot be repeated.
        """
        was_repeated = False
        while True:
            connection = self._connection or await self._next_connection()
            try:
                return await connection.request(method, params, result)
            except ConnectionLost as error:
                if error.was_sent and not self._is_repeatable(method):
                    raise ConnectionLost(f"{error}; {method} may have been carried out") from None
                if self.failure is not None:
                    raise self.failure from None
                was_repeated = was_repeated or error.was_sent
            except ServerError as error:
                error.was_repeated = was_repeated
                raise

    def _is_repeatable(self, method: str) -> bool:
        row = self.revision.methods.get(method)
        return row is not None and row.is_repeatable

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        connection = self._connection or await self._next_connection()
        await connection.notify(method, params)

    async def _next_connection(self) -> RpcConnection:
        while self._connection is None:
            if self.failure is not None:
                raise self.failure
            assert self._reconnected is not None
            await asyncio.shield(self._reconnected)
        return self._connection

    def time_limit(self, timeout: float | None) -> float | None:
        """Return the time limit of a call: ``timeout``, or else the default of the client."""
        seconds = self._options.request_timeout if timeout is None else timeout
        return None if seconds == math.inf else seconds

    @contextlib.asynccontextmanager
    async def deadline(self, timeout: float | None, action: str) -> AsyncIterator[None]:
        """Raise RequestTimedOut if the block takes longer than ``timeout`` seconds.

        None stands for the default of the client. ``action`` names the call in the message.
        """
        seconds = self.time_limit(timeout)
        try:
            async with asyncio.timeout(seconds) as scope:
                yield
        except TimeoutError:
            if seconds is None or not scope.expired():
                raise
            raise RequestTimedOut(action, self.target, seconds) from None

    # Notifications (ConnectionOwner)

    def notified(self, method: str, params: msgspec.Raw, content: bytes | None) -> None:
        """Route a notification to the process or the HTTP body it belongs to."""
        revision = self._revision
        if revision is None:
            return
        try:
            found = revision.event(method, params)
            piece = revision.body_piece(method, params) if found is None else None
        except (msgspec.DecodeError, RecursionError) as error:
            # The sequencer will notice the missing number and read the state of the process.
            log.warning(
                "ignoring an unreadable %s: %s", printable(method, 80), printable(str(error))
            )
            return
        if found is not None:
            process_id, event = found
            if content is not None and type(event) is Output:
                event = Output(event.seq, event.stream, content)
            self.processes.route(process_id, event)
        elif piece is not None:
            if content is not None:
                piece = msgspec.structs.replace(piece, data=content)
            receiver = self._bodies.get(piece.request_id)
            if receiver is not None:
                receiver.take(piece)
        else:
            log.debug("ignoring a notification: %s", printable(method, 80))

    def report_violation(self, reason: str) -> None:
        """End the connection because of what the server sent."""
        if self._connection is not None:
            self._connection.close_violated(reason)

    @contextlib.contextmanager
    def receiving_body(self, request_id: str, receiver: BodyReceiver) -> Iterator[None]:
        """Route the pieces of an HTTP body to ``receiver`` during the block."""
        self._bodies[request_id] = receiver
        try:
            yield
        finally:
            del self._bodies[request_id]

    # Backpressure

    def pause_reading(self, holder: object) -> None:
        """Stop reading from the server until every holder has resumed."""
        self._reading_holders.add(holder)
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_reading(self, holder: object) -> None:
        """Read again, unless another holder has paused reading."""
        self._reading_holders.discard(holder)
        if not self._reading_holders and self._connection is not None:
            self._connection.resume_reading()

    # Resuming

    def ended(self, connection: RpcConnection, reason: str) -> None:
        """Resume the session on a new connection if possible; see ConnectionOwner."""
        if connection is not self._connection:
            return
        self._connection = None
        closing = self._loop.create_task(connection.aclose())
        self._closing_connections.add(closing)
        closing.add_done_callback(self._closing_connections.discard)
        for body in list(self._bodies.values()):
            body.fail(ConnectionLost(reason))
        # A server that broke the protocol once would do so on every further connection.
        may_resume = self.can_resume and not connection.has_violated
        if may_resume and self._options.resume_timeout > 0:
            self._reconnected = self._loop.create_future()
            self.spawn(self._resume(reason))
        else:
            self._fail(ConnectionLost(reason))

    async def _resume(self, reason: str) -> None:
        log.info("%s; resuming the session", printable(reason))
        give_up_at = self._loop.time() + self._options.resume_timeout
        seconds = ATTEMPT_SECONDS
        while True:
            connection = RpcConnection(self, self._options.max_message_bytes)
            try:
                async with asyncio.timeout_at(min(give_up_at, self._loop.time() + seconds)):
                    await self._reattach(connection)
            except TimeoutError:
                obstacle = "the server does not answer"
                seconds *= 2
            except ServerError as error:
                obstacle = error.message
                if error.code != ALREADY_ATTACHED and "already attached" not in obstacle:
                    give_up_at = 0
            except ClientError as error:
                obstacle = str(error)
            else:
                self._resumed(connection)
                return
            finally:
                if connection is not self._connection:
                    connection.abort()
            if self._loop.time() >= give_up_at:
                self._fail(SessionLost(f"{reason}; it could not be resumed: {obstacle}"))
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _reattach(self, connection: RpcConnection) -> None:
        connection.attach(await self._dialer.dial(connection))
        connection.methods = self.revision.methods
        result = await handshake.initialize(connection, self._options, self.session_id)
        if result.session_id != self.session_id:
            raise ServerError("initialize", 0, "the server opened another session")
        await handshake.confirm(connection)

    def _resumed(self, connection: RpcConnection) -> None:
        self._connection = connection
        self.generation += 1
        if self._reading_holders:
            connection.pause_reading()
        self.processes.resynchronize_all()
        reconnected, self._reconnected = self._reconnected, None
        assert reconnected is not None
        reconnected.set_result(None)

    # Ending

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in the background; it is cancelled when the session ends."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, error: ConnectionLost) -> None:
        """End the session: fail its processes, its bodies and every request that waits."""
        if self.failure is not None:
            return
        self.failure = error
        self.processes.fail(error)
        for body in list(self._bodies.values()):
            body.fail(error)
        reconnected, self._reconnected = self._reconnected, None
        if reconnected is not None:
            reconnected.set_result(None)

    async def aclose(self, *, detach: bool) -> None:
        """End the session and kill its processes, or with ``detach`` leave it to be resumed.

        Returns when its connections are closed and its background tasks have ended.
        """
        connection = self._connection
        if connection is not None and not detach and self._dialer.can_resume:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await asyncio.gather(
                        *(self.revision.terminate(name, None) for name in self.processes.ids),
                        return_exceptions=True,
                    )
        self._connection = None
        self._fail(ConnectionLost("the client was closed", was_sent=False))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if connection is not None:
            await connection.aclose()
        if self._closing_connections:
            await asyncio.wait(self._closing_connections)
