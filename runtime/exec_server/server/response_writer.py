"""Responses and notifications of one connection: models and exceptions in, messages out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from exec_server import jsonrpc
from exec_server.errors import EngineError, SessionAttached
from exec_server.message_scan import without_middle
from exec_server.revisions.failures import describe_failure
from exec_server.revisions.streamed_bytes import StreamedBytes
from exec_server.server.base64_message import Base64Message
from exec_server.server.connection_state import Lifetime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exec_server.server.connection_state import ConnectionState
    from exec_server.server.request import Request
    from exec_server.transports.channel import Channel

log = logging.getLogger("exec_server")

STREAM_BYTES: Final = 32 * 1024
"""Base64 members above this are encoded piece by piece while they are sent."""

_SPLICE_BYTES: Final = 2048
"""Average size from which base64 members of a list are spliced into the response."""

_CLOSED: Final = Lifetime.CLOSED


class ResponseWriter:
    """Sends what concerns the requests of one connection, until the connection is closed."""

    def __init__(
        self,
        channel: Channel,
        state: ConnectionState,
        attached_code: Callable[[str], int],
        on_streamed: Callable[[], None],
    ) -> None:
        """``attached_code`` returns a revision's code for a session that has a connection.

        ``on_streamed`` is called when a streamed response that holds the slot was sent.
        """
        self._channel = channel
        self._state = state
        self._attached_code = attached_code
        self._on_streamed = on_streamed

    def notify(self, pieces: Sequence[bytes]) -> None:
        """Send an encoded notification, in pieces."""
        if self._state.lifetime is not _CLOSED:
            self._channel.send_notification(pieces)

    def send_result(self, request: Request, result: msgspec.Struct, *, holds_slot: bool) -> bool:
        """Send a result; True if the response holds the slot until it is sent."""
        if self._state.lifetime is _CLOSED:
            return False
        method = request.method
        if method.large_member is not None:
            attribute, member = method.large_member
            content: Any = getattr(result, attribute)
            if isinstance(content, list):
                self._send(request, result, _response(request.id, result, attribute, member))
                return False
            if isinstance(content, StreamedBytes) or len(content) > STREAM_BYTES:
                if not isinstance(content, StreamedBytes):
                    content = StreamedBytes.over(content)
                empty = msgspec.structs.replace(result, **{attribute: b""})
                message = jsonrpc.response(request.id, empty)
                head, _, tail = jsonrpc.splice_base64(message, member, (b"",))
                on_finish = self._on_streamed if holds_slot else _do_nothing
                self._channel.send_streamed_reply(Base64Message(head, tail, content, on_finish))
                return holds_slot
        self._send(request, result, (jsonrpc.response(request.id, result),))
        return False

    def _send(self, request: Request, outcome: object, pieces: Sequence[bytes]) -> None:
        self._channel.send_reply(pieces)
        if request.method.follow_up is not None:
            self._follow_up(request, outcome)

    def send_failure(self, request: Request, error: BaseException) -> None:
        """Send the error response to a request whose handler raised ``error``."""
        method = request.method
        code, text = describe_failure(error, method.family, method.not_found_code)
        if isinstance(error, SessionAttached):
            code = self._attached_code(error.revision)
        if code is None:
            log.error("%s failed: %r", method.method, error)
            code = jsonrpc.INTERNAL_ERROR
        self.send_error(
            request.id, code, text, error.kind if isinstance(error, EngineError) else None
        )
        if method.follow_up is not None:
            self._follow_up(request, error)

    def _follow_up(self, request: Request, outcome: object) -> None:
        assert request.method.follow_up is not None
        message = request.method.follow_up(request.params, outcome)
        if message is not None:
            self.notify((message,))

    def send_error(
        self, identifier: jsonrpc.RequestId, code: int, text: str, kind: str | None = None
    ) -> None:
        """Send an error response; ``kind`` becomes ``error.data.kind``."""
        if self._state.lifetime is not _CLOSED:
            message = jsonrpc.error_response(identifier, code, without_middle(text), kind)
            self._channel.send_reply((message,))


def _response(
    identifier: jsonrpc.RequestId, result: msgspec.Struct, attribute: str, member: str
) -> Sequence[bytes]:
    """Encode a response, in pieces, with a list of models that have a base64 member each."""
    parts: list[Any] = getattr(result, attribute)
    contents: list[bytes] = [getattr(part, member) for part in parts]
    size = sum(map(len, contents))
    if size <= STREAM_BYTES or size < _SPLICE_BYTES * len(parts):
        return (jsonrpc.response(identifier, result),)
    bare = [msgspec.structs.replace(part, **{member: b""}) for part in parts]
    message = jsonrpc.response(identifier, msgspec.structs.replace(result, **{attribute: bare}))
    return jsonrpc.splice_base64(message, member, contents)


def _do_nothing() -> None:
    """Release nothing: the response does not hold the slot."""
