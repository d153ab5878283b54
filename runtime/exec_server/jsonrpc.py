"""Parsing and encoding of JSON-RPC messages in the dialect of this protocol. No I/O.

The envelope differs from JSON-RPC 2.0 in that no ``jsonrpc`` member is written (and any is
ignored when read). A client message is one of

* a **request**: ``method`` and a usable ``id`` (a string or a signed 64-bit integer);
* a **notification**: ``method`` and no ``id``;
* **malformed** input: not JSON, a member twice in one object, or JSON of another form; answered
  with id -1, the connection stays open;
* a **violation**: a response or error object; the server sends no requests, so the connection ends.

The common case is decoded in one pass, which leaves ``params`` as raw bytes for the decoder of the
method. Everything else is classified by a slower path.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import pybase64

from exec_server.errors import MalformedMessage, ProtocolViolation
from exec_server.message_scan import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable

RequestId = int | str

MALFORMED_ID: Final = -1
"""Id of the error response to input from which no id could be read."""

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
"""Error codes of JSON-RPC itself; a revision adds its own in ErrorCodes."""

MAX_ID_BYTES: Final = 256
"""Maximum length of an id. Ids are kept, compared and repeated in responses; those of real clients
are UUIDs and short names."""

_ID_MIN: Final = -(2**63)
_ID_MAX: Final = 2**63 - 1

_NULL: Final = msgspec.Raw(b"null")

_find_member_names: Final = re.compile(rb'"([^"]*+)"\s*+:').findall


class Message(msgspec.Struct, gc=False):
    """A request, or a notification if ``id`` is unset, with undecoded params."""

    method: str
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = _NULL
    trace: msgspec.Raw = _NULL


class _Response(msgspec.Struct, gc=False):
    id: int | str
    result: Any


class _Notification(msgspec.Struct, gc=False):
    method: str
    params: Any


class _ErrorObject(msgspec.Struct, gc=False):
    code: int
    message: str


class _ErrorReply(msgspec.Struct, gc=False, kw_only=True):
    code: int
    data: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    message: str


class _ErrorResponse(msgspec.Struct, gc=False):
    error: _ErrorReply
    id: int | str


_decode_message = msgspec.json.Decoder(Message).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse(data: bytes, max_depth: int, max_values: int) -> Message:
    """Decode one message with at most ``max_depth`` nested levels and ``max_values`` values.

    It is meant for short messages: parsing is not interrupted and takes some microseconds per
    kilobyte. Raises MalformedMessage for input that is answered with id -1, and ProtocolViolation
    for a response or error object, which ends the connection.
    """
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise MalformedMessage(f"invalid UTF-8 at byte {error.start}") from None
    if data.count(b"{") + data.count(b"[") > max_depth:
        _check_depth(data, max_depth)
    if _may_repeat_members(data) or _may_exceed_values(data, max_values):
        _check_values(data, max_values)
    return decode(data)


def decode(data: bytes) -> Message:
    """Decode a message that is within the limits and repeats no member; raises like ``parse``."""
    try:
        message = _decode_message(data)
    except msgspec.ValidationError:
        _classify(data)
    except msgspec.DecodeError as error:
        raise MalformedMessage(_json_error(error)) from None
    identifier = message.id
    if (
        (type(identifier) is int and not _ID_MIN <= identifier <= _ID_MAX)
        or (type(identifier) is str and is_too_long(identifier, MAX_ID_BYTES))
        or (message.trace is not _NULL and bytes(message.trace)[:1] not in (b"{", b"n"))
    ):
        _classify(data)
    return message


def is_too_long(text: str, max_bytes: int) -> bool:
    """Return True if a text takes more than ``max_bytes`` as UTF-8."""
    # A character takes at most four bytes.
    return len(text) * 4 > max_bytes and len(text.encode(errors="surrogatepass")) > max_bytes


def _may_repeat_members(data: bytes) -> bool:
    """Return False if certainly no object names a member twice; a cheap test.

    Without escapes, every member name is a text between two quotes before a colon. If all those
    texts of the message differ, none is repeated.
    """
    if b"\\" in data:
        return True
    names = _find_member_names(data)
    return len(set(names)) != len(names)


def _may_exceed_values(data: bytes, allowed: int) -> bool:
    """Return False if there are certainly not too many values: all but one follow ``,:[``."""
    return len(data) > allowed and 1 + sum(map(data.count, (b",", b":", b"["))) > allowed


def _check_values(data: bytes, allowed: int) -> None:
    """Refuse repeated members, and more values than a message may hold."""
    try:
        root = json.loads(data, object_pairs_hook=_unique_members)
    except ValueError:
        return  # the decoder reports the error
    if not _may_exceed_values(data, allowed):
        return
    values, containers = 1, [root] if isinstance(root, (list, tuple)) else []
    while containers:
        container = containers.pop()
        values += len(container)
        if values > allowed:
            raise MalformedMessage(f"the message exceeds the limit of {allowed} JSON values")
        containers.extend(value for value in container if isinstance(value, (list, tuple)))


def _unique_members(members: list[tuple[str, Any]]) -> tuple[Any, ...]:
    """Return the values of an object. Raises MalformedMessage for a repeated name."""
    if len(dict(members)) != len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise MalformedMessage(f"duplicate JSON object key `{shortened(name)}`")
            seen.add(name)
    return tuple(value for _, value in members)


def _json_error(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return f"invalid JSON: {text}"


def _check_depth(data: bytes, allowed: int) -> None:
    """Refuse a message nested deeper than allowed; brackets in strings do not count."""
    depth = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x7B, 0x5B):
            depth += 1
            if depth > allowed:
                raise MalformedMessage(f"nesting is deeper than {allowed} levels")
        elif byte in (0x7D, 0x5D):
            depth -= 1


def _classify(data: bytes) -> NoReturn:
    """Raise MalformedMessage or ProtocolViolation for a message that is not a request."""
    try:
        members = _decode_members(data)
    except msgspec.ValidationError:
        raise MalformedMessage(f"expected a JSON object, got {_kind(data)}") from None
    except msgspec.DecodeError as error:
        raise MalformedMessage(_json_error(error)) from None
    method, identifier = members.get("method"), members.get("id")
    if method is not None and _kind(method) != "a string":
        raise MalformedMessage(f"expected `method` to be a string, got {_kind(method)}")
    value = None if identifier is None else _read_id(identifier)
    if method is not None:
        if type(value) is str and is_too_long(value, MAX_ID_BYTES):
            raise MalformedMessage(f"expected `id` to be at most {MAX_ID_BYTES} bytes long")
        raise MalformedMessage(f"expected `trace` to be an object, got {_kind(members['trace'])}")
    if value is not None:
        shown = repr(shortened(value) if type(value) is str else value)
        if "result" in members:
            raise ProtocolViolation(f"unexpected client response for request id {shown}")
        if "error" in members and _is_error_object(members["error"]):
            raise ProtocolViolation(f"unexpected client error for request id {shown}")
    raise MalformedMessage("expected a request or notification with a `method` member")


def _read_id(raw: msgspec.Raw) -> RequestId:
    """Return an id. Raises MalformedMessage if a request cannot have it."""
    value: RequestId | None
    try:
        value = msgspec.json.decode(raw, type=RequestId)
    except msgspec.DecodeError:
        value = None
    if value is None or (type(value) is int and not _ID_MIN <= value <= _ID_MAX):
        raise MalformedMessage(
            f"expected `id` to be a string or a signed 64-bit integer, got {_kind(raw)}"
        )
    return value


def _is_error_object(raw: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(raw, type=_ErrorObject)
    except msgspec.DecodeError:
        return False
    return True


_KINDS: Final = {
    ord("n"): "null",
    ord("t"): "a boolean",
    ord("f"): "a boolean",
    ord('"'): "a string",
    ord("{"): "an object",
    ord("["): "an array",
}


def _kind(raw: msgspec.Raw | bytes) -> str:
    """Return the kind of a JSON value, judging by its first character."""
    return _KINDS.get(bytes(raw).lstrip()[0], "a number")


def response(identifier: RequestId, result: object) -> bytes:
    """Encode a response; ``result`` is a model of the revision's generated package."""
    return _encode(_Response(identifier, result))


def error_response(
    identifier: RequestId, code: int, message: str, kind: str | None = None
) -> bytes:
    """Encode an error response, with MALFORMED_ID as the response to unreadable input.

    ``kind`` is the member ``kind`` of the error's data; None omits the data.
    """
    data = msgspec.UNSET if kind is None else {"kind": kind}
    error = _ErrorReply(code=code, data=data, message=message)
    return _encode(_ErrorResponse(error, identifier))


def notification(method: str, params: object) -> bytes:
    """Encode a notification; ``params`` is a model of the revision's generated package."""
    return _encode(_Notification(method, params))


def splice_base64(message: bytes, member: str, contents: Iterable[bytes]) -> list[bytes]:
    """Return a message in pieces, with base64 text in place of each empty value of ``member``.

    Every second piece is such a text. It never passes through the JSON encoder, whose own base64
    takes eight times as long and which would copy the text once more. The place is unambiguous:
    inside a JSON string a quote is always escaped, so ``"member":""`` can only be the member.
    """
    empty = b'"%b":""' % member.encode()
    pieces: list[bytes] = []
    position = 0
    for content in contents:
        cut = message.index(empty, position) + len(empty) - 1
        pieces += (message[position:cut], pybase64.b64encode(content))
        position = cut
    pieces.append(message[position:])
    return pieces


def has_canonical_base64(params: msgspec.Raw, member: str, value: bytes) -> bool:
    """Return True if the unused bits of the base64 text of a params member are zero.

    The decoder checks alphabet and padding, but not the unused bits of the last symbol, which
    RFC 4648, section 3.5, requires to be zero.
    """
    rest = len(value) % 3
    if rest == 0:
        return True
    text: str = msgspec.json.decode(
        msgspec.json.decode(params, type=dict[str, msgspec.Raw])[member], type=str
    )
    return text.endswith(pybase64.b64encode_as_string(value[-rest:]))
