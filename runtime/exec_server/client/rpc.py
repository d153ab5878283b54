"""JSON-RPC over one transport: requests out, responses and notifications in.

A connection is ready as soon as its transport is. It ends once, by either side, and every pending
request then fails. Unknown responses and notifications are ignored; input that is no message ends
the connection, because a response may be lost with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from exec_server.client.errors import METHOD_NOT_FOUND, BadAnswer, ConnectionLost, server_error
from exec_server.client.lenient_decode import decoder
from exec_server.client.limits import (
    BULK_MESSAGE_BYTES,
    MESSAGE_BYTES,
    REFUSED_REQUESTS,
)
from exec_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server.client.transports.channel import Transport
    from exec_server_protocol.table import Method

log = logging.getLogger("exec_server.client")

ResultT = TypeVar("ResultT", bound=msgspec.Struct)

LARGE_BYTES: Final = 4096
"""Messages above this may hold a member that is better decoded by itself."""

MAX_UNANSWERED: Final = 96
"""Requests under way at once; further ones wait. The real servers from codex 0.133 stall for good
when some 140 are pipelined while output flows."""

_MALFORMED_ID: Final = -1
_ABSENT: Final = msgspec.Raw(b"")


class _ErrorObject(msgspec.Struct, gc=False):
    code: int
    message: str = ""


class _Incoming(msgspec.Struct, gc=False):
    """Any message of a server."""

    method: str = ""
    id: int | str | None = None
    params: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT
    error: _ErrorObject | None = None


class _Request(msgspec.Struct, gc=False):
    id: int
    method: str
    params: Any


class _Notification(msgspec.Struct, gc=False):
    method: str
    params: Any


class _Refusal(msgspec.Struct, gc=False):
    error: _ErrorObject
    id: int | str


_Answer: TypeAlias = tuple[msgspec.Raw, dict[str, bytes] | None]
"""A result, and the attribute that was cut out of a large one."""

_decode = msgspec.json.Decoder(_Incoming).decode
_encode = msgspec.json.Encoder().encode


def _cut(data: bytes) -> tuple[bytes, str, bytes] | None:
    from exec_server.client.streamed_response import cut  # noqa: PLC0415 (not every client needs it)

    return cut(data)


class ConnectionOwner(Protocol):
    """Receiver of what a connection reports besides answers."""

    def notified(self, method: str, params: msgspec.Raw, content: bytes | None) -> None:
        """The server sent a notification; ``content`` has been cut out of large params."""
        ...

    def ended(self, connection: RpcConnection, reason: str) -> None:
        """The connection ended; its requests fail when this returns."""
        ...


class RpcConnection:
    """The messages of one transport; a Receiver for it, and a Caller for the generated stubs."""

    def __init__(self, owner: ConnectionOwner, max_message_bytes: int | None = None) -> None:
        """``max_message_bytes``: longest message taken; by default as in ``limits``."""
        self.methods: Mapping[str, Method] = {}
        """Method table of the revision; empty until that is known."""
        self._max_bytes = max_message_bytes or MESSAGE_BYTES
        self._max_bulk_bytes = max_message_bytes or BULK_MESSAGE_BYTES
        self._bulk: set[int | str] = set()
        """Pending requests with long responses, abandoned ones included."""
        self._refused = 0
        self._has_violated = False
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._transport: Transport | None = None
        self._next_id = 1
        self._parts: list[bytes] = []
        self._answers: dict[int | str, asyncio.Future[_Answer]] = {}
        self._methods: dict[int | str, str] = {}
        self._counted = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_paused = False
        self._end_reason: str | None = None

    def attach(self, transport: Transport) -> None:
        """Send through this transport from now on."""
        self._transport = transport
        transport.limit_messages(self._max_bytes)

    @property
    def has_violated(self) -> bool:
        """True if the server broke the protocol or a limit, so that it may do so again."""
        return self._has_violated or (self._transport is not None and self._transport.has_violated)

    @property
    def transport(self) -> Transport:
        """The transport; there is one once the connection is made."""
        assert self._transport is not None
        return self._transport

    @property
    def is_alive(self) -> bool:
        """True if requests can be sent."""
        return self._end_reason is None

    # Caller

    async def request(self, method: str, params: Any, result: type[ResultT]) -> ResultT:
        """Send a request and decode its result.

        Raises ServerError for an error answer, BadAnswer for one of the wrong shape, and
        ConnectionLost if the connection ends first.
        """
        row = self.methods.get(method)
        counts = row is None or not row.is_uncounted
        if counts:
            await self._acquire_slot()
        try:
            raw, content = await self._answer(method, params)
        finally:
            if counts:
                self._release_slot()
        try:
            decoded: ResultT = decoder(result)(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadAnswer(f"{method}: {error}") from None
        return decoded if content is None else msgspec.structs.replace(decoded, **content)

    async def _answer(self, method: str, params: Any) -> _Answer:
        if self._end_reason is not None:
            raise ConnectionLost(self._end_reason, was_sent=False)
        identifier = self._next_id
        self._next_id += 1
        try:
            message = _encode(_Request(identifier, method, params))
        except UnicodeEncodeError:
            raise ValueError(
                f"{method}: a path is not UTF-8, which this revision cannot carry"
            ) from None
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._answers[identifier] = answer
        self._methods[identifier] = method
        row = self.methods.get(method)
        if row is not None and row.large_result is not None and not row.large_result.is_bounded:
            self._bulk.add(identifier)
            self.transport.limit_messages(self._max_bulk_bytes)
        is_alone = len(self._answers) == 1
        self.transport.send(message, at_once=is_alone)
        if self._is_paused:
            # The answer is behind what was left unread.
            self.transport.resume_receiving()
        try:
            return await answer
        finally:
            self._answers.pop(identifier, None)
            self._methods.pop(identifier, None)
            if self._is_paused and not self._answers:
                self.transport.pause_receiving()

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        if self._end_reason is not None:
            raise ConnectionLost(self._end_reason, was_sent=False)
        self.transport.send(_encode(_Notification(method, params)))

    async def _acquire_slot(self) -> None:
        if self._counted < MAX_UNANSWERED:
            self._counted += 1
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release_slot()
            raise

    def _release_slot(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._counted -= 1

    # Flow

    def pause_reading(self) -> None:
        """Read nothing from the server, except while a request waits for its response."""
        self._is_paused = True
        if not self._answers and self._end_reason is None:
            self.transport.pause_receiving()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_paused = False
        if self._end_reason is None:
            self.transport.resume_receiving()

    # Receiver

    def receive_part(self, part: bytes, *, is_last: bool) -> None:
        """Take a part of a long message; see Receiver."""
        self._parts.append(part)
        if is_last:
            message = b"".join(self._parts)
            self._parts.clear()
            self.receive(message)

    def receive(self, data: bytes) -> None:
        """Take one message; see Receiver."""
        content = None
        if len(data) > LARGE_BYTES and (parts := _cut(data)) is not None:
            data, attribute, member = parts
            content = {attribute: member}
        try:
            message = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.close_violated(f"the server sent something that is no message: {error}")
            return
        identifier = message.id
        if message.method:
            if identifier is None:
                self._owner.notified(
                    message.method, message.params, None if content is None else member
                )
            else:
                self._refuse(identifier, message.method)
            return
        if identifier == _MALFORMED_ID and message.error is not None:
            # It names no request, so any of them may be the one without an answer.
            self._fail_requests(message.error)
            return
        if self._bulk and identifier in self._bulk:
            self._bulk.discard(identifier)
            if not self._bulk:
                self.transport.limit_messages(self._max_bytes)
        answer = self._answers.get(identifier) if identifier is not None else None
        if answer is None or answer.done():
            log.debug(
                "ignoring a response to no pending request: id %s", printable(str(identifier), 80)
            )
        elif message.error is not None:
            method = self._methods[identifier]  # type: ignore[index]  # None has no answer
            answer.set_exception(server_error(method, message.error.code, message.error.message))
        else:
            answer.set_result((message.result, content))

    def _refuse(self, identifier: int | str, method: str) -> None:
        self._refused += 1
        if self._refused > REFUSED_REQUESTS:
            self.close_violated(f"the server sent more than {REFUSED_REQUESTS} requests")
            return
        name = printable(method, 80)
        log.debug("refusing a request of the server: %s", name)
        text = f"exec-server client does not implement `{name}`"
        self.transport.send(_encode(_Refusal(_ErrorObject(METHOD_NOT_FOUND, text), identifier)))

    def _fail_requests(self, error: _ErrorObject) -> None:
        for identifier, answer in self._answers.items():
            if not answer.done():
                method = self._methods[identifier]
                answer.set_exception(server_error(method, error.code, error.message))

    def refuse(self, detail: str) -> None:
        """The transport met something that is no message; see Receiver."""
        self.close_violated(f"the server sent something that is no message: {detail}")

    def pause_writing(self) -> None:
        """Do nothing: a client that sends much waits for responses; see Receiver."""

    def resume_writing(self) -> None:
        """Do nothing; see Receiver."""

    def ended(self, *, orderly: bool) -> None:
        """The transport is gone; see Receiver."""
        self._end(self.transport.end_reason if self._transport is not None else "it broke")

    # Ending

    async def aclose(self) -> None:
        """End the connection from this side; returns when nothing of it is left."""
        self._end("it was closed here")
        if self._transport is not None:
            self._transport.close()
            await self._transport.wait_closed()

    def abort(self) -> None:
        """End the connection at once, whatever is queued."""
        self._end("it was closed here")
        if self._transport is not None:
            self._transport.abort()

    def close_violated(self, reason: str) -> None:
        """End the connection because of what the server sent."""
        self._has_violated = True
        log.warning("%s: %s", self.transport.peer, printable(reason))
        self._end(reason)
        self.transport.close()

    def _end(self, reason: str) -> None:
        if self._end_reason is not None:
            return
        peer = self._transport.peer if self._transport is not None else "the server"
        self._end_reason = f"the connection to {peer} ended: {reason}"
        self._owner.ended(self, self._end_reason)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(self._end_reason))
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()
