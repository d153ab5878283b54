"""One session with a server, over as many connections as it takes.

The handshake tells the revision. Over WebSocket the session outlives a lost connection: it is
resumed as soon as the server can be reached again, and until then requests wait. Requests that
were under way are sent again where that cannot do harm; the others fail, because nobody knows
whether they were done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from exec_server.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    MethodUnknown,
    ServerError,
    SessionLost,
)
from exec_server.client.event_sequencer import SEQ_BEYOND, Feed
from exec_server.client.events import UNPLACED, Closed, Exited, Output
from exec_server.client.limits import EARLY_BYTES, EARLY_EVENTS
from exec_server.client.revisions import make_revision, newest_with
from exec_server.client.rpc import RpcConnection
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from exec_server.client.events import PlacedEvent, Snapshot
    from exec_server.client.revisions.base import BodyPiece, Revision, StartSpec
    from exec_server.client.transports.channel import Dialer

log = logging.getLogger("exec_server.client")

ResultT = TypeVar("ResultT", bound=msgspec.Struct)

RevisionName: TypeAlias = Literal["auto", "v0", "v1", "v2", "draft"]
"""Which revision to speak; ``auto`` is the newest one that the server answers to."""

CONNECT_SECONDS: Final = 10.0
INITIALIZE_SECONDS: Final = 10.0
"""How long a connection, and the handshake after it, may take unless the caller says otherwise."""

RESUME_SECONDS: Final = 30.0
"""How long resuming is tried; the real servers keep a detached session 10 to 80 seconds."""

RETRY_SECONDS: Final = 0.1
"""Pause between two attempts to resume."""

ATTEMPT_SECONDS: Final = 2.0
"""How long the first attempt to resume may take; each further one twice as long as the last. A new
connection may be as dead as the old one, and the server's patience is short."""

GOODBYE_SECONDS: Final = 2.0
"""How long ending the processes of a session may take when the client is closed."""

ALREADY_ATTACHED: Final = -32010
"""The code of an attachment that the server has not noticed the end of (v2)."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect; see ``exec_server.client.connect``."""

    client_name: str
    revision: RevisionName
    session_id: str | None
    connect_timeout: float
    initialize_timeout: float
    resume_timeout: float
    max_message_bytes: int | None = None


class _InitializeParams(msgspec.Struct, rename="camel"):
    """The same in every revision; v0 ignores the second member."""

    client_name: str
    resume_session_id: str | None


class _Greeting(msgspec.Struct, rename="camel"):
    """The answer to initialize, whatever the revision."""

    session_id: str | None = None
    protocol_version: str | None = None
    environment_info: msgspec.Raw = msgspec.Raw(b"null")


class _Nothing(msgspec.Struct):
    """Params, or a result, of which nothing is wanted."""


_LEAST_WALK: Final = {
    "path": "file:///",
    "options": {
        "maxDepth": 0,
        "maxDirectories": 1,
        "maxEntries": 1,
        "followDirectorySymlinks": False,
    },
}
"""A walk that lists one entry at the most: a server of v2 lists it or says why it cannot."""


class BodyReceiver:
    """Whoever waits for the pieces of an HTTP body."""

    def take(self, piece: BodyPiece) -> None:
        """The next piece."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """No more pieces will come."""
        raise NotImplementedError


class Session:
    """A session, from its first handshake to its end.

    It is the Caller of the generated stubs, the Owner of its connections and the Source of its
    processes' feeds.
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
        """Counts the connections; what belongs to one is gone with it."""
        self.failure: ConnectionLost | None = None
        """Why the session is over, once it is."""
        self._reconnected: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._feeds: dict[str, Feed] = {}
        self._reordering: set[Feed] = set()
        self._early_events: dict[str, list[PlacedEvent]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        """Connections that have ended, until nothing of them is left."""
        self._early_count = self._early_bytes = 0
        self._unnamed_starts = 0
        self._bodies: dict[str, BodyReceiver] = {}
        self._holders: set[object] = set()

    @property
    def target(self) -> str:
        """What the session is with, as errors name it."""
        return self._dialer.target

    @property
    def can_resume(self) -> bool:
        """Whether the session outlives a connection."""
        return (
            self.session_id is not None and self._dialer.can_resume and self.revision.has_sessions
        )

    @property
    def revision(self) -> Revision:
        """The revision in use; there is one after ``open``."""
        assert self._revision is not None
        return self._revision

    @property
    def can_read(self) -> bool:
        """See Source."""
        return self.revision.numbers_events

    # Opening

    async def open(self) -> None:
        """Connect and shake hands. Raises ConnectFailed."""
        connection = RpcConnection(self, self._options.max_message_bytes)
        try:
            await self._dial(connection)
            await self._shake_hands(connection)
        except BaseException:
            await connection.aclose()
            raise
        self._connection = connection
        if not connection.is_alive:
            raise ConnectFailed(f"{self.target} ended the connection after the handshake")

    async def _dial(self, connection: RpcConnection) -> None:
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                connection.attach(await self._dialer.dial(connection))
        except TimeoutError:
            raise ConnectTimedOut(
                f"no connection to {self.target} within {self._options.connect_timeout:g} s"
            ) from None

    async def _shake_hands(self, connection: RpcConnection) -> None:
        try:
            async with asyncio.timeout(self._options.initialize_timeout):
                greeting = await self._initialize(connection, self.session_id)
                self.session_id = greeting.session_id
                await connection.notify("initialized", _Nothing())
                self._revision = await self._choose(connection, greeting)
        except TimeoutError:
            raise ConnectTimedOut(
                f"{self.target} did not answer initialize within "
                f"{self._options.initialize_timeout:g} s"
            ) from None
        except ServerError as error:
            raise ConnectFailed(f"{self.target} refused the session: {error.message}") from error
        except ConnectionLost as error:
            raise ConnectFailed(str(error)) from error

    async def _initialize(self, connection: RpcConnection, session_id: str | None) -> _Greeting:
        params = _InitializeParams(self._options.client_name, session_id)
        return await connection.request("initialize", params, _Greeting)

    async def _choose(self, connection: RpcConnection, greeting: _Greeting) -> Revision:
        """The revision to speak, by what the answer to initialize holds.

        Only v0 names a protocol without a session. An environment is v2's, from codex 0.150 on,
        and its capabilities tell the draft.
        Otherwise a method that came with v2 tells, asked for next to nothing.
        """
        name: str = self._options.revision
        has_environment = bytes(greeting.environment_info) != b"null"
        if name in ("v2", "draft"):
            newest = newest_with(greeting.environment_info) if has_environment else "v2"
            if (name == "draft" and newest != name) or not (
                has_environment or await self._knows(connection, "fs/walk", _LEAST_WALK)
            ):
                raise ConnectFailed(f"{self.target} does not speak revision {name}")
        if name == "auto":
            if has_environment:
                name = newest_with(greeting.environment_info)
            elif greeting.session_id is None:
                if greeting.protocol_version is None:
                    raise ConnectFailed(f"{self.target} is no exec-server")
                name = "v0"
            else:
                name = "v2" if await self._knows(connection, "fs/walk", _LEAST_WALK) else "v1"
        return make_revision(name, self, greeting.environment_info)

    async def _knows(self, connection: RpcConnection, method: str, params: Any) -> bool:
        try:
            await connection.request(method, params, _Nothing)
        except MethodUnknown:
            return False
        except ServerError:
            return True
        return True

    # Caller

    async def request(self, method: str, params: Any, result: type[ResultT]) -> ResultT:
        """Send a request over whatever connection there is, and decode its result.

        Raises ServerError, BadAnswer, and ConnectionLost if the session ends, or if the request
        was under way on a connection that was lost and cannot be sent again.
        """
        was_repeated = False
        while True:
            connection = self._connection or await self._next_connection()
            try:
                return await connection.request(method, params, result)
            except ConnectionLost as error:
                if error.was_sent and method not in self.revision.repeatable:
                    raise ConnectionLost(f"{error}; {method} may have been done") from None
                if self.failure is not None:
                    raise self.failure from None
                was_repeated = was_repeated or error.was_sent
            except ServerError as error:
                error.was_repeated = was_repeated
                raise

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

    # Owner

    def notified(self, method: str, params: msgspec.Raw, content: bytes | None) -> None:
        """Pass on what a notification tells; see Owner."""
        revision = self._revision
        if revision is None:
            return
        try:
            told = revision.event(method, params)
            piece = revision.body_piece(method, params) if told is None else None
        except (msgspec.DecodeError, RecursionError) as error:
            # Its sequence number will be missed, and the process asked for.
            log.warning(
                "ignoring an unreadable %s: %s", printable(method, 80), printable(str(error))
            )
            return
        if told is not None:
            process_id, event = told
            if content is not None and type(event) is Output:
                event = Output(event.seq, event.stream, content)
            feed = self._feeds.get(process_id)
            if feed is None:
                if self._unnamed_starts:
                    self._keep_early(process_id, event)
                return
            if revision.numbers_events:
                feed.take(event)
            else:
                self._take_unnumbered(feed, event)
            if feed.closed is not None:
                self._feeds.pop(process_id, None)
        elif piece is not None:
            if content is not None:
                piece = msgspec.structs.replace(piece, data=content)
            receiver = self._bodies.get(piece.request_id)
            if receiver is not None:
                receiver.take(piece)
        else:
            log.debug("ignoring a notification: %s", printable(method, 80))

    def _keep_early(self, process_id: str, event: PlacedEvent) -> None:
        """Keep an event for a process that the server may be about to name."""
        self._early_count += 1
        self._early_bytes += len(process_id)
        if type(event) is Output:
            self._early_bytes += len(event.data)
        if self._early_count <= EARLY_EVENTS and self._early_bytes <= EARLY_BYTES:
            self._early_events.setdefault(process_id, []).append(event)
        elif self._connection is not None:
            self._connection.give_up("the server sent too much about processes it has not named")

    def _take_unnumbered(self, feed: Feed, event: PlacedEvent) -> None:
        feed.take_unnumbered(event)
        if isinstance(event, Exited):
            self.spawn(self._close(feed))

    async def _close(self, feed: Feed) -> None:
        """Tell that the output of an exited process has ended, where the server does not."""
        try:
            await self.revision.settle(feed.process_id)
        except ClientError:
            return  # the feed has been told that the connection is lost
        feed.take_unnumbered(Closed(UNPLACED))
        self.unregister(feed)

    def ended(self, connection: RpcConnection, reason: str) -> None:
        """Resume the session on a new connection, if that is possible; see Owner."""
        if connection is not self._connection:
            return
        self._connection = None
        leaving = self._loop.create_task(connection.aclose())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        for body in list(self._bodies.values()):
            body.fail(ConnectionLost(reason))
        # What broke the protocol once would do so again, for as long as it is resumed.
        may_resume = self.can_resume and not connection.has_violated
        if may_resume and self._options.resume_timeout > 0:
            self._reconnected = self._loop.create_future()
            self.spawn(self._resume(reason))
        else:
            self._fail(ConnectionLost(reason))

    # Resuming

    async def _resume(self, reason: str) -> None:
        log.info("%s; resuming the session", printable(reason))
        give_up_at = self._loop.time() + self._options.resume_timeout
        seconds = ATTEMPT_SECONDS
        while True:
            connection = RpcConnection(self, self._options.max_message_bytes)
            try:
                async with asyncio.timeout_at(min(give_up_at, self._loop.time() + seconds)):
                    await self._attach(connection)
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

    async def _attach(self, connection: RpcConnection) -> None:
        connection.attach(await self._dialer.dial(connection))
        greeting = await self._initialize(connection, self.session_id)
        if greeting.session_id != self.session_id:
            raise ServerError("initialize", 0, "the server opened another session")
        await connection.notify("initialized", _Nothing())

    def _resumed(self, connection: RpcConnection) -> None:
        self._connection = connection
        self.generation += 1
        if self._holders:
            connection.pause()
        for feed in list(self._feeds.values()):
            if feed.is_started:
                self.reorder(feed)
        reconnected, self._reconnected = self._reconnected, None
        assert reconnected is not None
        reconnected.set_result(None)

    # Source

    async def read(self, process_id: str, after_seq: int, max_bytes: int | None) -> Snapshot:
        """Retained output; see Source."""
        return await self.revision.read(process_id, after_seq, max_bytes, 0)

    def hold(self, holder: object) -> None:
        """See Source."""
        self._holders.add(holder)
        if self._connection is not None:
            self._connection.pause()

    def release(self, holder: object) -> None:
        """See Source."""
        self._holders.discard(holder)
        if not self._holders and self._connection is not None:
            self._connection.resume()

    def reorder(self, feed: Feed) -> None:
        """See Source."""
        if self.revision.numbers_events and feed not in self._reordering:
            self._reordering.add(feed)
            self.spawn(self._resynchronise(feed))

    async def _resynchronise(self, feed: Feed) -> None:
        try:
            is_behind = True
            while is_behind:
                state = await self.read(feed.process_id, SEQ_BEYOND, None)
                is_behind = feed.resynchronise(state)
        except ServerError as error:
            feed.fail(
                ConnectionLost(f"events of process {feed.process_id} were missed: {error.message}")
            )
        except ClientError:
            return  # the session is over, which the feed has been told
        finally:
            self._reordering.discard(feed)
        if feed.is_over:
            self._feeds.pop(feed.process_id, None)

    # Processes and bodies

    async def start(self, feed: Feed, spec: StartSpec) -> None:
        """Start the process of a feed, whose events may come before the answer."""
        revision, generation = self.revision, self.generation
        if revision.names_processes:
            self.register(feed)
        else:
            self._unnamed_starts += 1
        try:
            process_id = await revision.start(spec)
        except BaseException:
            self.unregister(feed)
            raise
        finally:
            if not revision.names_processes:
                self._unnamed_starts -= 1
        if not revision.names_processes:
            feed.process_id = process_id
            self.register(feed)
            for event in self._early_events.pop(process_id, ()):
                self._take_unnumbered(feed, event)
            if not self._unnamed_starts:
                self._early_events.clear()
                self._early_count = self._early_bytes = 0
        feed.is_started = True
        if self.generation != generation:
            self.reorder(feed)

    async def adopt(self, feed: Feed) -> None:
        """Pass on the events of a process that runs already.

        Raises ServerError if the session has none of that id.
        """
        self.register(feed)
        try:
            feed.resynchronise(await self.read(feed.process_id, SEQ_BEYOND, None))
        except BaseException:
            self.unregister(feed)
            raise
        feed.is_started = True

    def register(self, feed: Feed) -> None:
        """Pass on the events of a process."""
        if self.failure is not None:
            raise self.failure
        self._feeds[feed.process_id] = feed

    def unregister(self, feed: Feed) -> None:
        """Pass on nothing more."""
        if self._feeds.get(feed.process_id) is feed:
            del self._feeds[feed.process_id]

    @contextlib.contextmanager
    def receiving_body(self, request_id: str, receiver: BodyReceiver) -> Iterator[None]:
        """Pass on the pieces of a body meanwhile."""
        self._bodies[request_id] = receiver
        try:
            yield
        finally:
            del self._bodies[request_id]

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run something whose outcome nobody waits for; it ends with the session."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Ending

    def _fail(self, error: ConnectionLost) -> None:
        """The session is over: tell everybody who waits for something."""
        if self.failure is not None:
            return
        self.failure = error
        for feed in self._feeds.values():
            feed.fail(error)
        self._feeds.clear()
        for body in list(self._bodies.values()):
            body.fail(error)
        reconnected, self._reconnected = self._reconnected, None
        if reconnected is not None:
            reconnected.set_result(None)

    async def aclose(self, *, detach: bool) -> None:
        """End the session, or with ``detach`` leave it to be resumed by somebody else.

        Its processes are killed, unless it is left. Returns when nothing of it is left here.
        """
        connection = self._connection
        if connection is not None and not detach and self._dialer.can_resume:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await asyncio.gather(
                        *(self.revision.terminate(name, None) for name in list(self._feeds)),
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
        if self._leaving:
            await asyncio.wait(self._leaving)
