"""One connection: the messages of a peer in, responses and notifications out. No I/O of its own.

The connection itself keeps the state (``connection_state``) and controls the flow in both
directions. The revision router finds the method that a request is for, the dispatcher runs it, and
the response writer sends what comes of it.

A request is checked in this order, whatever the state: is the method known (-32601), do its params
decode (-32602), does the state allow it (-32600), do the limits allow it (-32600). Unknown
notifications, ``initialized`` before ``initialize``, and responses to requests that the server
never sent are violations: they end the connection without a response.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server import jsonrpc
from exec_server.errors import InvalidRequest, MalformedMessage, ProtocolViolation
from exec_server.message_scan import shortened
from exec_server.serial_queue import SerialQueue
from exec_server.server.connection_state import ConnectionState, Event, Handshake, Lifetime
from exec_server.server.long_input import LongInput
from exec_server.server.request import Request
from exec_server.server.request_dispatcher import RequestDispatcher
from exec_server.server.response_writer import ResponseWriter
from exec_server.server.revision_router import RevisionRouter, check_ids
from exec_server.tasks import start_eagerly
from exec_server.transports.stream import HIGH_WATER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from exec_server.revisions.interface import Revision
    from exec_server.server.long_input import LongParams
    from exec_server.server.session import Session, SessionRegistry
    from exec_server.settings import Settings
    from exec_server.transports.channel import Channel

log = logging.getLogger("exec_server")

DRAIN_SECONDS: Final = 2.0
"""Time for pending requests after the peer has ended its side in an orderly way and reads nothing;
while it reads, they have as long as they need."""

_DRAIN_POLL_SECONDS: Final = 0.02
"""Polling interval while responses are sent to a peer that has ended its side."""

_READY: Final = Handshake.READY
_OPEN: Final = Lifetime.OPEN
_CLOSED: Final = Lifetime.CLOSED


class _Pause(enum.Enum):
    """A reason to read nothing more from the peer for now."""

    LONG_MESSAGE = "more of a long message has arrived than was scanned"
    QUEUE = "requests that wait for their turn take too much memory"


class Connection:
    """Serves one peer over one channel, from the first message to the end.

    It is the Receiver of its transport, the ConnectionContext of its handlers and the Attachment of
    its session. ``on_ended`` is called once, when nothing of the connection is running any more.
    """

    def __init__(
        self,
        channel: Channel,
        sessions: SessionRegistry,
        revisions: Sequence[Revision],
        settings: Settings,
        *,
        keeps_session: bool,
        on_ended: Callable[[Connection], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._sessions = sessions
        self.settings = settings
        self._keeps_session = keeps_session
        self._on_ended = on_ended
        self._session: Session | None = None
        self._state = ConnectionState()
        self._writable = asyncio.Event()
        self._writable.set()
        self._room = asyncio.Lock()
        self._input: LongInput | None = None
        self._input_task: asyncio.Task[None] | None = None
        self._pauses: set[_Pause] = set()
        self._finishing: asyncio.Task[None] | None = None
        self._router = RevisionRouter(revisions, self, self._starter_of)
        self._queue = SerialQueue(self._loop, self._has_room)
        self._writer = ResponseWriter(
            channel, self._state, self._attached_code, self._queue.release_slot
        )
        self._dispatcher = RequestDispatcher(
            self._loop,
            settings,
            self._writer,
            self._queue,
            lambda is_full: self._pause_reading(_Pause.QUEUE, is_full),
        )

    @property
    def is_idle(self) -> bool:
        """True if no request is pending and no body is being sent to the peer."""
        return self._input is None and self._dispatcher.is_idle

    def shut_down(self) -> None:
        """Accept only requests about processes that exist already."""
        self._dispatcher.shut_down()

    # ConnectionContext

    def track(self, stream: asyncio.Task[None]) -> None:
        """Count a task that goes on sending after the response; see ConnectionContext."""
        self._dispatcher.track(stream)

    @property
    def revisions(self) -> Collection[str]:
        """Names of the revisions that this connection serves."""
        return self._router.names

    @property
    def session(self) -> Session:
        """The session of this connection; handlers run only when there is one."""
        assert self._session is not None
        return self._session

    def open_session(self, resume_session_id: str | None) -> Session:
        """Create or resume the session of this connection; see ConnectionContext."""
        if not self._state.allows(Event.SESSION_OPENED):
            raise InvalidRequest("initialize may only be sent once per connection")
        if resume_session_id is None:
            session = self._sessions.create(self, self._router.active.name)
        else:
            session = self._sessions.resume(resume_session_id, self)
            if session.revision in self._router.names:
                self._router.switch(session.revision)
        self._session = session
        self._dispatcher.memory = session.memory
        self._state.advance(Event.SESSION_OPENED)
        return session

    def notify(self, pieces: Sequence[bytes]) -> None:
        """Send an encoded notification, in pieces."""
        self._writer.notify(pieces)

    def release_slot(self) -> None:
        """Let serialized requests behind the running one start; see ConnectionContext."""
        self._dispatcher.release_slot()

    async def wait_writable(self) -> None:
        """Return when the peer has read most of what was sent to it."""
        await self._writable.wait()

    async def wait_for_room(self) -> None:
        """Return when there is room for one more response; see ConnectionContext."""
        await self._room.acquire()
        try:
            while not (self._has_room() or self._state.lifetime is _CLOSED):
                if self._state.lifetime is _OPEN:
                    await self._writable.wait()
                else:
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        finally:
            # Two turns later the response is queued, so that it counts for the next waiter.
            self._loop.call_soon(self._loop.call_soon, self._room.release)

    def _has_room(self) -> bool:
        return self._channel.unsent_bytes <= max(self.settings.max_unsent_bytes, HIGH_WATER)

    # Attachment

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent to the peer."""
        return self._channel.unsent_bytes

    # Receiver: messages

    def receive(self, data: bytes) -> None:
        """Take one short message; see Receiver."""
        if self._state.lifetime is _CLOSED:
            return
        try:
            message = jsonrpc.parse(
                data, self.settings.max_json_depth, self.settings.max_json_values
            )
            self._take(message, data, None)
        except MalformedMessage as error:
            self._reject(str(error))
        except ProtocolViolation as error:
            self._close_for(error)

    def receive_part(self, part: bytes, *, is_last: bool) -> None:
        """Take a part of a long message; see Receiver."""
        if self._state.lifetime is _CLOSED:
            return
        if self._input is None:
            self._input = LongInput(
                self.settings,
                lambda is_full: self._pause_reading(_Pause.LONG_MESSAGE, is_full),
            )
        self._input.add(part, is_last=is_last)
        self._scan_input()

    def refuse(self, detail: str) -> None:
        """Answer unreadable input, or end the connection; see Receiver."""
        if self._input is not None and not self._input.is_whole:
            self._input.abandon(detail)
            self._scan_input()
        else:
            self._reject(detail)

    def _scan_input(self) -> None:
        """Scan what has arrived of a long message, continuing in a task if that takes long."""
        if self._input is not None and self._input_task is None:
            self._input_task = start_eagerly(self._take_long(self._input))
        if self._input is not None and self._input.is_whole:
            # Messages behind it are read when it has been handled.
            self._pause_reading(_Pause.LONG_MESSAGE, True)

    async def _take_long(self, long_input: LongInput) -> None:
        """Take a message that arrives in parts, once it is whole."""
        is_complete = True
        try:
            content = await long_input.read()
            if content is None:
                is_complete = False
            else:
                message, params = content
                self._take(message, params.outline, params)
        except MalformedMessage as error:
            self._reject(str(error))
        except ProtocolViolation as error:
            self._close_for(error)
        finally:
            self._input_task = None
            if is_complete:
                self._input = None
                self._pause_reading(_Pause.LONG_MESSAGE, False)

    def _take(self, message: jsonrpc.Message, data: bytes, long: LongParams | None) -> None:
        if message.id is not msgspec.UNSET:
            self._take_request(message.id, message, data, long)
        elif message.method != "initialized":
            raise ProtocolViolation(f"unexpected notification method: {shortened(message.method)}")
        elif not self._state.allows(Event.INITIALIZED):
            raise ProtocolViolation("received `initialized` notification before `initialize`")
        else:
            self._state.advance(Event.INITIALIZED)

    def _take_request(
        self,
        identifier: jsonrpc.RequestId,
        message: jsonrpc.Message,
        data: bytes,
        long: LongParams | None,
    ) -> None:
        try:
            route = self._router.route(message.method, message.params, long)
            if route is not None and len(data) > jsonrpc.MAX_ID_BYTES:
                check_ids(*route)
        except msgspec.ValidationError as error:
            self._writer.send_error(identifier, jsonrpc.INVALID_PARAMS, str(error))
            return
        except msgspec.DecodeError as error:
            # What only a full decode finds, such as a lone surrogate escape.
            raise MalformedMessage(str(error)) from None
        if route is None:
            code, text = self._router.active.unknown_method
            self._writer.send_error(identifier, code, text.format(shortened(message.method)))
            return
        method, params = route
        if method.revision != self._router.active.name:
            self._switch_revision(method.revision)
        if self._state.handshake is not _READY and not method.before_handshake:
            self._writer.send_error(
                identifier, jsonrpc.INVALID_REQUEST, self._handshake_error(method.family)
            )
            return
        request = Request(identifier, method, params, data, 0 if long is None else long.size)
        try:
            self._dispatcher.check_limits(request)
        except InvalidRequest as error:
            self._writer.send_error(identifier, jsonrpc.INVALID_REQUEST, str(error))
            return
        self._dispatcher.dispatch(request)

    def _handshake_error(self, family: str) -> str:
        step = "call initialize" if self._session is None else "send initialized"
        return f"client must {step} before using {family} methods"

    def _reject(self, detail: str) -> None:
        """Answer malformed input, or end the connection where the revision has no answer."""
        peer = self._channel.peer
        text = f"failed to parse {self._channel.message_kind} message from {peer}: {detail}"
        if self._router.active.survives_malformed:
            self._writer.send_error(jsonrpc.MALFORMED_ID, jsonrpc.INVALID_REQUEST, text)
        else:
            log.info("%s: %s", peer, text)
            self._channel.close(text, violation=True)

    def _close_for(self, error: ProtocolViolation) -> None:
        log.info("%s: %s", self._channel.peer, error)
        self._channel.close(str(error), violation=True)

    # Revisions

    def _switch_revision(self, name: str) -> None:
        self._router.switch(name)
        if self._session is not None:
            self._session.revision = name

    def _starter_of(self, process_id: str) -> str | None:
        """Return the revision that started a process of the session, if there is such a process."""
        if self._session is None:
            return None
        process = self._session.processes.get(process_id)
        return None if process is None else process.context.revision

    def _attached_code(self, revision: str) -> int:
        return self._router.bind(revision).attached_code

    # Flow control

    def _pause_reading(self, reason: _Pause, is_paused: bool) -> None:
        """Note that a reason to read nothing applies, or no longer applies."""
        was_paused = bool(self._pauses)
        if is_paused:
            self._pauses.add(reason)
        else:
            self._pauses.discard(reason)
        if bool(self._pauses) == was_paused:
            return
        if is_paused:
            self._channel.pause_reading()
        else:
            self._channel.resume_reading()

    def pause_writing(self) -> None:
        """Pause the output of the session's processes; see Receiver."""
        self._writable.clear()
        if self._session is not None:
            self._session.processes.pause_reading()

    def resume_writing(self) -> None:
        """Resume the output of the session's processes; see Receiver."""
        self._writable.set()
        self._queue.advance()
        if self._session is not None:
            self._session.processes.resume_reading()

    # The end

    def ended(self, *, orderly: bool) -> None:
        """Begin the end of the connection; see Receiver."""
        if self._state.lifetime is not _OPEN:
            return
        self._state.advance(Event.INPUT_ENDED if orderly else Event.CONNECTION_LOST)
        session = self._session
        if session is not None:
            if self._keeps_session and self._router.active.keeps_session:
                self._sessions.detach(session)
            else:
                # Its processes die now, which also answers the long polls that wait for them.
                self._sessions.end(session)
        if not orderly:
            self._cancel_input()
            self._dispatcher.cancel()
        self._writable.set()
        self._finishing = self._loop.create_task(self._finish())

    def _cancel_input(self) -> None:
        if self._input_task is not None:
            self._input_task.cancel()
        else:
            self._input = None

    async def _finish(self) -> None:
        """Complete what is pending, then release what the connection holds."""
        await self._drain()
        self._cancel_input()
        await self._dispatcher.aclose()
        for bound in self._router.bound:
            await bound.aclose()
        self._channel.close("the client ended the connection")
        self._state.advance(Event.DRAINED)
        self._on_ended(self)

    async def _drain(self) -> None:
        """Wait until nothing is pending, or the peer has read nothing for DRAIN_SECONDS."""
        deadline = self._loop.time() + DRAIN_SECONDS
        sent_bytes = self._channel.sent_bytes
        while self._input is not None or self._dispatcher.has_requests:
            if self._channel.sent_bytes != sent_bytes:
                sent_bytes = self._channel.sent_bytes
                deadline = self._loop.time() + DRAIN_SECONDS
            left = deadline - self._loop.time()
            if left <= 0:
                return
            await self._dispatcher.wait_for_progress(
                min(left, _DRAIN_POLL_SECONDS), min(left, DRAIN_SECONDS / 4)
            )
