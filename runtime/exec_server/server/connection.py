"""One connection: handshake, requests in, answers and notifications out. No I/O of its own.

States, and what ends them::

    new           initialize succeeded       -> initialized
    initializing  notification initialized   -> ready
    ready         every method is served
    ended         by the peer, the transport, or a violation

A request is checked in this order, whatever the state: is the method known (-32601), do its params
decode (-32602), does the state allow it (-32600); then the method itself speaks. Unknown
notifications, ``initialized`` before ``initialize``, and responses nobody asked for are violations:
they end the connection without an answer.

Requests run at once and answer as soon as they are done, so one that waits delays no other. What
depends on order keeps it: file system calls and process starts pass through one lane, writes to a
process queue in the process itself.

A server may speak several revisions of the protocol at once. A message is served by the revision
that the peer spoke last if its params decode there, else by the newest one where they do; what
concerns a process is served by the revision that started it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import pybase64

from exec_server import jsonrpc
from exec_server.engine.memory_budget import VALUE_BYTES
from exec_server.errors import (
    EngineError,
    InvalidArgument,
    InvalidRequest,
    MalformedMessage,
    NotFound,
    ProtocolViolation,
    SessionAttached,
    system_text,
)
from exec_server.message_scan import shortened, without_middle
from exec_server.serial_queue import Lane
from exec_server.server.base64_fields import Base64Message, StreamedBytes
from exec_server.server.long_input import LongInput, LongParams
from exec_server.tasks import run_until_blocked
from exec_server.transports.stream import HIGH_WATER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence

    from exec_server.server.session import Session, SessionRegistry
    from exec_server.settings import Settings
    from exec_server.transports.channel import Channel

log = logging.getLogger("exec_server")

DRAIN_SECONDS: Final = 2.0
"""How long requests under way may still take when the peer has ended its side in an orderly way and
reads nothing; while it reads, they have time."""

_DRAIN_POLL_SECONDS: Final = 0.02
"""Polling interval for answers to leave after the peer has ended its side."""

LARGE_BYTES: Final = 32 * 1024
"""Base64 members above this are spliced into the message instead of passing the JSON encoder."""

_LONG_BYTES: Final = 2048
"""What base64 members of a list must have on average to be spliced in, too."""

_REQUEST_COST: Final = 1024
"""Bytes that a request which waits counts on top of its message, so that tiny ones count too."""

_LANE_SHARE: Final = 4
"""Part of the memory budget that requests waiting in the lane take before no more are read: they
are not refused, so there must be enough left for everything else."""

_WIDE_CHARACTER_BYTES: Final = 4
"""What each character of a text takes in memory if one of them is beyond the basic plane."""

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
"""JSON-RPC's own codes; a revision adds its own in ErrorCodes."""


class BoundMethod(msgspec.Struct, frozen=True):
    """A method of one revision, bound to the handlers of one connection."""

    revision: str
    """Name of the revision."""
    method: str
    family: str
    """How state errors call the group: ``exec``, ``filesystem``, …"""
    decode: Callable[[msgspec.Raw], Any]
    call: Callable[[Any], Coroutine[Any, Any, Any]]
    members: Mapping[str, str]
    """Attributes of the params by wire name."""
    base64_params: tuple[str, ...] = ()
    """Wire names of params that are base64 text."""
    base64_texts: tuple[str, ...] = ()
    """Wire names of params that are such text and are decoded by the method itself."""
    id_params: tuple[str, ...] = ()
    """Wire names of params that are ids of at most jsonrpc.MAX_ID_BYTES."""
    is_newer: Callable[[msgspec.Raw, Any], bool] | None = None
    """Whether params that decode are meant for a newer revision all the same."""
    in_lane: bool = False
    """Whether its effects must keep the order of arrival among the others in the lane."""
    before_handshake: bool = False
    starts_process: bool = False
    about_process: bool = False
    """Whether it is about a process that was started before."""
    may_wait: bool = True
    """Whether its answer may take a while."""
    not_found_code: int = INTERNAL_ERROR
    """The revision's code for NotFound and, in the ``filesystem`` family, ENOENT."""
    large_member: tuple[str, str] | None = None
    """The one big base64 member of the result: attribute and wire name. Where the attribute is a
    list of models, it is these that have the member, and its name is the same on the wire."""


class MethodTable(Protocol):
    """The requests of a revision, by name."""

    def get(self, name: str, /) -> BoundMethod | None:
        """The request of that name; None if there is none."""
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
    """Code and text of the answer to a method that no revision has."""
    attached_code: int = INVALID_REQUEST
    """Code of the refusal to resume a session that has a connection."""
    survives_malformed: bool = True
    """Whether malformed input is answered, or ends the connection."""
    keeps_session: bool = True
    """Whether a session can be resumed after its connection was lost."""


class Revision(Protocol):
    """A revision that can be bound to a connection; newest first in the server's list."""

    @property
    def name(self) -> str:
        """Name of the revision, such as ``v1``."""
        ...

    def bind(self, connection: Connection) -> BoundRevision:
        """Make the handlers of one connection."""
        ...


class Connection:
    """Serves one peer over one channel, from the first message to the end.

    ``on_ended`` is called once, when nothing of the connection runs any more.
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
        self._ready = False
        self._ended = False
        self._stopping = False
        self._congested = False
        self._uncongested = asyncio.Event()
        self._uncongested.set()
        self._input: LongInput | None = None
        self._input_task: asyncio.Task[None] | None = None
        self._holds: set[str] = set()
        self._message = b""
        self._answering = asyncio.Lock()
        self._decoded_bytes = 0
        self._lane = Lane(self._loop, self._has_room)
        self._lane_bytes = 0
        self._leaves_lane = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._queued_starts: dict[str, int] = {}
        self._to_follow: dict[int, Sequence[bytes]] = {}
        self._closing: asyncio.Task[None] | None = None
        self._revisions = {revision.name: revision for revision in revisions}
        self._bound: dict[str, BoundRevision] = {}
        self._newest = self._bind(revisions[0].name)
        self._spoken = self._newest
        self._order = list(self._revisions)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, and no body on its way to the peer."""
        return self._input is None and not self._tasks and not self._streams and self._lane.is_idle

    def stop(self) -> None:
        """Begin nothing new: serve only what concerns processes that there are."""
        self._stopping = True

    # What handlers use

    def track(self, stream: asyncio.Task[None]) -> None:
        """Something goes on being sent to the peer after the answer, as long as the task runs."""
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)

    @property
    def revisions(self) -> Collection[str]:
        """Names of the revisions that this connection serves."""
        return self._revisions.keys()

    @property
    def session(self) -> Session:
        """The session of this connection; handlers run only when there is one."""
        assert self._session is not None
        return self._session

    def open_session(self, resume_session_id: str | None) -> Session:
        """Create or resume the session of this connection.

        Raises InvalidRequest if the connection has one already, or if it cannot be resumed; the
        connection may then try again.
        """
        if self._session is not None:
            raise InvalidRequest("initialize may only be sent once per connection")
        if resume_session_id is None:
            self._session = self._sessions.create(self, self._spoken.name)
        else:
            self._session = self._sessions.resume(resume_session_id, self)
            if self._session.speaks in self._revisions:
                self._speak(self._session.speaks)
        return self._session

    def notify(self, pieces: Sequence[bytes]) -> None:
        """Send a notification, in pieces, to the peer."""
        if not self._ended:
            self._channel.send_notification(pieces)

    def notify_after(self, outcome: object, pieces: Sequence[bytes]) -> None:
        """Send a notification right after an answer.

        ``outcome`` is the very result that the handler returns, or the exception that it raises,
        with nothing to wait for in between.
        """
        self._to_follow[id(outcome)] = pieces

    async def wait_uncongested(self) -> None:
        """Return when the peer has taken most of what was sent to it."""
        await self._uncongested.wait()

    async def wait_for_room(self) -> None:
        """Return when the peer has taken enough of its answers for one more to be made.

        Of many that wait for the same, each is admitted when the one before has been queued.
        """
        await self._answering.acquire()
        try:
            while not (self._has_room() or self._ended):
                if self._closing is None:
                    await self._uncongested.wait()
                else:
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        finally:
            # Two turns on the answer is made and queued, so that it counts for the next one.
            self._loop.call_soon(self._loop.call_soon, self._answering.release)

    def _has_room(self) -> bool:
        return self._channel.unsent_bytes <= max(self.settings.max_unsent_bytes, HIGH_WATER)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of memory that wait to be sent to the peer."""
        return self._channel.unsent_bytes

    def leave_lane(self) -> None:
        """The request that is running will wait, and nothing behind it depends on it."""
        self._leaves_lane = True

    # Receiver: what the transport brings

    def receive(self, data: bytes) -> None:
        """Take one short message; see Receiver."""
        if self._ended:
            return
        try:
            message = jsonrpc.parse(
                data, self.settings.max_json_depth, self.settings.max_json_values
            )
            self._take(data, message)
        except MalformedMessage as error:
            self._refuse(str(error))
        except ProtocolViolation as error:
            self._end_for(error)

    def receive_part(self, part: bytes, *, is_last: bool) -> None:
        """Take a part of a long message; see Receiver."""
        if self._ended:
            return
        if self._input is None:
            self._input = LongInput(self.settings, self._hold_for_input)
            self._input_task = self._loop.create_task(self._take_long(self._input))
        self._input.add(part, is_last=is_last)

    def _held_bytes(self) -> int:
        """Memory that the message being taken needs while its request waits."""
        data = self._message
        values = min(data.count(b","), self.settings.max_json_values)
        size = len(data) * (_WIDE_CHARACTER_BYTES if _is_wide(data) else 1)
        return _REQUEST_COST + size + self._decoded_bytes + VALUE_BYTES * values

    def refuse(self, detail: str) -> None:
        """Answer unreadable input, or end the connection; see Receiver."""
        if self._input is not None and not self._input.is_whole:
            self._input.abandon(detail)
        else:
            self._refuse(detail)

    async def _take_long(self, long_input: LongInput) -> None:
        """Take a message that arrives in parts. Messages behind it are read when it is done."""
        try:
            message, params = await long_input.read()
            self._decoded_bytes = params.size
            self._take(params.outline, message, params)
        except MalformedMessage as error:
            self._refuse(str(error))
        except ProtocolViolation as error:
            self._end_for(error)
        finally:
            self._message = b""
            self._decoded_bytes = 0
            self._input = None
            self._hold_for_input(False)

    def _hold_for_input(self, is_held: bool) -> None:
        self._hold("input", is_held)

    def _hold(self, reason: str, is_held: bool) -> None:
        """Have the peer wait for as long as there is a reason."""
        was_held = bool(self._holds)
        if is_held:
            self._holds.add(reason)
        else:
            self._holds.discard(reason)
        if bool(self._holds) != was_held:
            self._channel.hold_input(is_held)

    def _take(self, data: bytes, message: jsonrpc.Message, long: LongParams | None = None) -> None:
        self._message = data
        if message.id is msgspec.UNSET:
            self._take_notification(message)
        else:
            self._take_request(message.id, message, long)
        self._message = b""

    def _end_for(self, error: ProtocolViolation) -> None:
        log.info("%s: %s", self._channel.peer, error)
        self._channel.close(str(error), violation=True)

    def _refuse(self, detail: str) -> None:
        kind = "websocket JSON-RPC" if "websocket" in self._channel.peer else "JSON-RPC"
        text = f"failed to parse {kind} message from {self._channel.peer}: {detail}"
        if self._spoken.survives_malformed:
            self._send_error(jsonrpc.MALFORMED_ID, INVALID_REQUEST, text)
        else:
            log.info("%s: %s", self._channel.peer, text)
            self._channel.close(text, violation=True)

    def congested(self, is_congested: bool) -> None:
        """Hold or release the output of the session's processes; see Receiver."""
        self._congested = is_congested
        if is_congested:
            self._uncongested.clear()
        else:
            self._uncongested.set()
            self._lane.advance()
        if self._session is not None:
            if is_congested:
                self._session.processes.pause_reading()
            else:
                self._session.processes.resume_reading()

    def ended(self, *, orderly: bool) -> None:
        """No more messages; see Receiver."""
        if self._closing is not None:
            return
        self._ended = not orderly
        session = self._session
        if session is not None:
            if self._keeps_session and self._spoken.keeps_session:
                self._sessions.detach(session)
            else:
                # Its processes die now, which also answers the long polls that wait for them.
                self._sessions.end(session)
        if not orderly:
            self._clear_lane()
            if self._input_task is not None:
                self._input_task.cancel()
            for task in self._tasks:
                task.cancel()
        self._uncongested.set()
        self._closing = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        """Let what is under way come to its end, then release what the connection holds."""
        deadline = self._loop.time() + DRAIN_SECONDS
        sent_bytes = self._channel.sent_bytes
        while self._tasks or self._input is not None or not self._lane.is_idle:
            if self._channel.sent_bytes != sent_bytes:
                sent_bytes = self._channel.sent_bytes
                deadline = self._loop.time() + DRAIN_SECONDS
            left = deadline - self._loop.time()
            if left <= 0:
                break
            self._lane.advance()
            # The lane may be held by a reply that is being sent, which is no task.
            pause = min(left, _DRAIN_POLL_SECONDS)
            waiting = self._tasks or {self._loop.create_task(asyncio.sleep(pause))}
            await asyncio.wait(
                waiting, timeout=min(left, DRAIN_SECONDS / 4), return_when=asyncio.FIRST_COMPLETED
            )
        self._clear_lane()
        if self._input_task is not None:
            self._input_task.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for bound in self._bound.values():
            await bound.aclose()
        self._channel.close("the client ended the connection")
        self._ended = True
        self._on_ended(self)

    # Messages

    def _take_notification(self, message: jsonrpc.Message) -> None:
        if message.method != "initialized":
            raise ProtocolViolation(f"unexpected notification method: {shortened(message.method)}")
        if self._session is None:
            raise ProtocolViolation("received `initialized` notification before `initialize`")
        self._ready = True

    def _take_request(
        self, identifier: jsonrpc.RequestId, message: jsonrpc.Message, long: LongParams | None
    ) -> None:
        try:
            served = self._decode(message.method, message.params, long)
            if served is not None and len(self._message) > jsonrpc.MAX_ID_BYTES:
                _check_ids(*served)
        except msgspec.ValidationError as error:
            self._send_error(identifier, INVALID_PARAMS, str(error))
            return
        except msgspec.DecodeError as error:
            # What only a full decode finds, such as a lone surrogate escape.
            raise MalformedMessage(str(error)) from None
        if served is None:
            code, text = self._spoken.unknown_method
            self._send_error(identifier, code, text.format(shortened(message.method)))
            return
        bound, params = served
        if bound.revision != self._spoken.name:
            self._speak(bound.revision)
        if not self._ready and not bound.before_handshake:
            self._send_error(identifier, INVALID_REQUEST, self._state_error(bound.family))
            return
        refusal = self._refusal_to_begin(bound)
        if refusal is not None:
            self._send_error(identifier, INVALID_REQUEST, refusal)
            return
        self._begin(identifier, bound, params)

    def _decode(
        self, method: str, raw: msgspec.Raw, long: LongParams | None
    ) -> tuple[BoundMethod, Any] | None:
        """The method of the revision that is to serve a request, and its decoded params.

        None if no revision has such a method. Raises msgspec.ValidationError if none takes the
        params: the refusal that tells most.
        """
        refusal: msgspec.ValidationError | None = None
        for revision in self._order:
            bound = self._bind(revision).methods.get(method)
            if bound is None:
                continue
            if bound.before_handshake:
                # The newest handshake holds what the others need.
                newest = self._newest.methods.get(method)
                assert newest is not None
                return newest, _decode_params(newest, raw, long)
            try:
                params = _decode_params(bound, raw, long)
            except msgspec.ValidationError as error:
                if refusal is None or _is_of_form(refusal):
                    refusal = error
                continue
            if bound.is_newer is not None and bound.is_newer(raw, params):
                continue
            if not bound.starts_process:
                starter = self._starter_of(getattr(params, "process_id", None))
                if starter is not None and starter != revision:
                    other = self._bind(starter).methods.get(method)
                    if other is not None:
                        return other, _decode_params(other, raw, long)
            return bound, params
        if refusal is None:
            return None
        raise refusal

    def _bind(self, revision: str) -> BoundRevision:
        """Bind a revision to the connection, once a message may be for it."""
        bound = self._bound.get(revision)
        if bound is None:
            bound = self._bound[revision] = self._revisions[revision].bind(self)
        return bound

    def _speak(self, revision: str) -> None:
        """Note what the peer speaks: its messages go to that revision first, then to the newest."""
        self._spoken = self._bind(revision)
        self._order = [revision, *(name for name in self._revisions if name != revision)]
        if self._session is not None:
            self._session.speaks = revision

    def _starter_of(self, process_id: str | None) -> str | None:
        """The revision that started a process of the session, if there is such a process."""
        if process_id is None or self._session is None:
            return None
        process = self._session.processes.get(process_id)
        return None if process is None else process.context.revision

    def _state_error(self, family: str) -> str:
        step = "call initialize" if self._session is None else "send initialized"
        return f"client must {step} before using {family} methods"

    def _refusal_to_begin(self, bound: BoundMethod) -> str | None:
        if self._stopping and not bound.about_process:
            return "the server is shutting down"
        if not bound.may_wait:
            return None
        settings = self.settings
        if len(self._tasks) + len(self._streams) >= settings.max_requests:
            return f"at most {settings.max_requests} requests of a connection may wait at a time"
        # A single one is bounded by the limit of a message; those in the lane have to wait.
        if not bound.in_lane and self.session.memory.held_bytes:
            try:
                self.session.memory.check_room(self._held_bytes())
            except InvalidRequest as error:
                return str(error)
        return None

    def _begin(self, identifier: jsonrpc.RequestId, bound: BoundMethod, params: Any) -> None:
        """Start a request now, or when everything it must not overtake is done."""
        if bound.in_lane:
            if self._lane.is_idle:
                self._lane.submit(lambda: self._run(identifier, bound, params, holds_lane=True))
                return
            started_id = _started_process_id(bound, params)
            if started_id is not None:
                self._queued_starts[started_id] = self._queued_starts.get(started_id, 0) + 1

            def work(size: int) -> bool:
                if started_id is not None:
                    self._queued_starts[started_id] -= 1
                    if not self._queued_starts[started_id]:
                        del self._queued_starts[started_id]
                return self._run(identifier, bound, params, size, holds_lane=True)

            self._queue_in_lane(work)
        elif self._queued_starts and getattr(params, "process_id", None) in self._queued_starts:
            # It names a process whose start still waits in the lane.
            self._queue_in_lane(
                lambda size: self._run(identifier, bound, params, size, holds_lane=False)
            )
        else:
            self._run(identifier, bound, params, holds_lane=False)

    def _queue_in_lane(self, work: Callable[[int], bool]) -> None:
        """Have work wait for its turn; it is given the memory that its request takes.

        If too much waits, the peer has to wait as well. It is not refused: a client that sends
        many files at once has done nothing wrong, and the lane moves on by itself.
        """
        limit = self.settings.max_held_bytes // _LANE_SHARE
        size = self._held_bytes()
        memory = self.session.memory

        def run() -> bool:
            was_full = self._lane_bytes > limit
            self._lane_bytes -= size
            memory.release(size)
            if was_full and self._lane_bytes <= limit:
                self._hold("lane", False)
            return work(size)

        self._lane_bytes += size
        memory.add(size)
        if self._lane_bytes > limit >= self._lane_bytes - size:
            self._hold("lane", True)
        self._lane.submit(run)

    def _clear_lane(self) -> None:
        self._lane.clear()
        if self._session is not None:
            self._session.memory.release(self._lane_bytes)
        self._lane_bytes = 0

    def _run(
        self,
        identifier: jsonrpc.RequestId,
        bound: BoundMethod,
        params: Any,
        size: int | None = None,
        *,
        holds_lane: bool,
    ) -> bool:
        """Run a request; True if it holds the lane beyond this call.

        ``size`` is the memory that it takes; None for that of the message being taken.
        """
        self._leaves_lane = False
        try:
            outcome = run_until_blocked(bound.call(params))
        except Exception as error:  # every failure is an answer
            self._send_failure(identifier, bound, error)
            return False
        if not isinstance(outcome, asyncio.Task):
            return self._send_result(identifier, bound, outcome, holds_lane=holds_lane)
        task = outcome
        self._tasks.add(task)
        held_bytes = self._held_bytes() if size is None else size
        memory = self.session.memory
        memory.add(held_bytes)
        holds_lane = holds_lane and not self._leaves_lane

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            memory.release(held_bytes)
            held_on = False
            if not task.cancelled():
                failure = task.exception()
                if failure is None:
                    result = task.result()
                    held_on = self._send_result(identifier, bound, result, holds_lane=holds_lane)
                else:
                    self._send_failure(identifier, bound, failure)
            if holds_lane and not held_on:
                self._lane.release()

        task.add_done_callback(done)
        return holds_lane

    # Answers

    def _send_result(
        self,
        identifier: jsonrpc.RequestId,
        bound: BoundMethod,
        result: msgspec.Struct,
        *,
        holds_lane: bool,
    ) -> bool:
        """Answer; True if the answer holds the lane until it is sent."""
        if self._ended:
            return False
        if bound.large_member is not None:
            attribute, member = bound.large_member
            content: Any = getattr(result, attribute)
            if isinstance(content, list):
                self._channel.send_reply(_response_in_pieces(identifier, result, attribute, member))
                self._follow(result)
                return False
            streamed = isinstance(content, StreamedBytes)
            if streamed or len(content) > LARGE_BYTES:
                empty = msgspec.structs.replace(result, **{attribute: b""})
                head, tail = jsonrpc.split_at_empty(jsonrpc.response(identifier, empty), member)
                if not isinstance(content, StreamedBytes):
                    content = StreamedBytes.over(content)
                on_finish = self._lane.release if holds_lane else _nothing
                self._channel.send_long_reply(Base64Message(head, tail, content, on_finish))
                return holds_lane
        self._channel.send_reply((jsonrpc.response(identifier, result),))
        self._follow(result)
        return False

    def _send_failure(
        self, identifier: jsonrpc.RequestId, bound: BoundMethod, error: BaseException
    ) -> None:
        code, text = describe_failure(error, bound.family, bound.not_found_code)
        if isinstance(error, SessionAttached):
            code = self._bind(error.speaks).attached_code
        if code is None:
            log.error("%s failed: %r", bound.method, error)
            code = INTERNAL_ERROR
        self._send_error(identifier, code, text)
        self._follow(error)

    def _follow(self, outcome: object) -> None:
        """Send what is to follow an answer."""
        pieces = self._to_follow.pop(id(outcome), None)
        if pieces is not None:
            self.notify(pieces)

    def _send_error(self, identifier: jsonrpc.RequestId, code: int, text: str) -> None:
        if not self._ended:
            text = without_middle(text)
            self._channel.send_reply((jsonrpc.error_response(identifier, code, text),))


def _response_in_pieces(
    identifier: jsonrpc.RequestId, result: msgspec.Struct, attribute: str, member: str
) -> Sequence[bytes]:
    """An answer with a list of models that have a base64 member each.

    Long ones are spliced in: the JSON encoder takes ten times as long for them.
    """
    parts: list[Any] = getattr(result, attribute)
    contents: list[bytes] = [getattr(part, member) for part in parts]
    size = sum(map(len, contents))
    if size <= LARGE_BYTES or size < _LONG_BYTES * len(parts):
        return (jsonrpc.response(identifier, result),)
    bare = [msgspec.structs.replace(part, **{member: b""}) for part in parts]
    message = jsonrpc.response(identifier, msgspec.structs.replace(result, **{attribute: bare}))
    head, *tails = jsonrpc.split_at_all_empty(message, member)
    pieces = [head]
    for content, tail in zip(contents, tails, strict=True):
        pieces += (pybase64.b64encode(content), tail)
    return pieces


def _is_wide(data: bytes) -> bool:
    """Return True if texts of a message may hold characters that take several bytes in memory."""
    return not data.isascii() or b"\\u" in data


def _nothing() -> None:
    """The lane has nothing to release."""


def _started_process_id(bound: BoundMethod, params: Any) -> str | None:
    """The process id that a start in the lane will bring to life."""
    if not bound.starts_process:
        return None
    process_id: str = params.process_id
    return process_id


def _decode_params(bound: BoundMethod, raw: msgspec.Raw, long: LongParams | None) -> Any:
    """Decode params, with the checks that the decoder does not make."""
    if long is not None:
        long.check(bound)
    params = bound.decode(raw)
    for member in bound.base64_params:
        _check_base64(raw, member, getattr(params, bound.members[member]))
    if long is not None:
        long.fill(bound, params)
    return params


def _check_ids(bound: BoundMethod, params: Any) -> None:
    """Refuse ids that are too long to be kept."""
    for member in bound.id_params:
        value = getattr(params, bound.members[member])
        if value and jsonrpc.is_too_long(value, jsonrpc.MAX_ID_BYTES):
            raise msgspec.ValidationError(
                f"Expected `str` of at most {jsonrpc.MAX_ID_BYTES} bytes - at `$.{member}`"
            )


def _is_of_form(refusal: msgspec.ValidationError) -> bool:
    """Whether a string has the wrong form, such as a path in that of another revision."""
    return "matching regex" in str(refusal)


def _check_base64(raw: msgspec.Raw, member: str, value: bytes | None) -> None:
    """Refuse base64 text whose unused trailing bits are not zero."""
    if value and not jsonrpc.has_canonical_base64(raw, member, value):
        raise msgspec.ValidationError(
            f"Invalid base64 encoded string: non-zero trailing bits - at `$.{member}`"
        )


def describe_failure(
    error: BaseException, family: str, not_found_code: int
) -> tuple[int | None, str]:
    """The code and text that tell a client of a failure; None for a fault of this program."""
    if isinstance(error, InvalidArgument):
        return INVALID_PARAMS, str(error)
    if isinstance(error, InvalidRequest):
        return INVALID_REQUEST, str(error)
    if isinstance(error, NotFound):
        return not_found_code, str(error)
    if isinstance(error, EngineError):
        return INTERNAL_ERROR, str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = system_text(error.errno)
        if family == "filesystem":
            if error.errno == errno.ENOENT:
                return not_found_code, text
            if error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL):
                return INVALID_REQUEST, text
        return INTERNAL_ERROR, text
    return None, "internal error"
