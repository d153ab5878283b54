"""JSON-RPC messages as this protocol frames them: bytes in, messages out, and back. No I/O.

The envelope differs from JSON-RPC 2.0 in that no ``jsonrpc`` member is written (and any is
ignored when read). A client message is one of

* a **request**: ``method`` and a usable ``id`` (a string or a signed 64-bit integer);
* a **notification**: ``method`` and no ``id``;
* **malformed** input: not JSON, a member twice in one object, or JSON of another form; answered
  with id -1, the connection stays open;
* a **violation**: a response or error object; the server never asked, so the connection ends.

The common case is decoded in one pass, ``params`` left as raw bytes for the method's own decoder.
Everything else is classified by a slow path.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import pybase64

from exec_server.errors import ExecServerError, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Sequence

RequestId = int | str

MALFORMED_ID: Final = -1
"""The id of the answer to input from which no id could be read."""

_ID_MIN: Final = -(2**63)
_ID_MAX: Final = 2**63 - 1

_NULL: Final = msgspec.Raw(b"null")

_LONG_MESSAGE_BYTES: Final = 16 * 1024
"""A shorter one is looked through before its texts are measured."""

_LONG_TEXT_BYTES: Final = 4096
"""A longer one costs more to look through than to leave out."""

_FIRST_TEXTS: Final = 32
"""How many are measured: bulk data comes after few others, and not in a long list."""

_find_member_names: Final = re.compile(rb'"([^"]*+)"\s*+:').findall


class MalformedMessage(ExecServerError):
    """Input that is no JSON-RPC message; ``str(error)`` says what was found."""


class Message(msgspec.Struct, gc=False):
    """A request, or with ``id`` unset a notification, whose params are still undecoded JSON."""

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


class _ErrorResponse(msgspec.Struct, gc=False):
    error: _ErrorObject
    id: int | str


_decode_message = msgspec.json.Decoder(Message).decode
_encode = msgspec.json.Encoder().encode


def parse(data: bytes, max_depth: int, max_values: int) -> Message:
    """Decode one message of so many nested levels and values at most; see Settings.

    Raises MalformedMessage for input to be answered with id -1, and ProtocolViolation for a
    response or error object, which ends the connection.
    """
    try:
        if not data.isascii():
            data.decode()
        outline = _outline(data)
        if outline.count(b"{") + outline.count(b"[") > max_depth:
            _check_depth(outline, max_depth)
        if _may_repeat_members(outline) or _may_exceed_values(outline, max_values):
            _check_values(data, max_values)
        message = _decode_message(data)
    except msgspec.ValidationError:
        _classify(data)
    except msgspec.DecodeError as error:
        raise MalformedMessage(_json_error(error)) from None
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"invalid UTF-8 at byte {error.start}") from None
    identifier = message.id
    if (type(identifier) is int and not _ID_MIN <= identifier <= _ID_MAX) or (
        message.trace is not _NULL and bytes(message.trace)[:1] not in (b"{", b"n")
    ):
        _classify(data)
    return message


def _outline(data: bytes) -> bytes:
    """The message with its long texts left empty: they are most of it, and have no structure.

    Only the first texts are looked at, and with escapes none: there is no telling then where one
    ends. Of a name that is emptied the test for repeated ones says at worst that it may be.
    """
    if len(data) < _LONG_MESSAGE_BYTES or b"\\" in data:
        return data
    pieces: list[bytes] = []
    taken = end = 0
    for _ in range(_FIRST_TEXTS):
        begin = data.find(b'"', end)
        behind = data.find(b'"', begin + 1)
        if begin < 0 or behind < 0:
            break
        if behind - begin > _LONG_TEXT_BYTES:
            pieces.append(data[taken : begin + 1])
            taken = behind
        end = behind + 1
    pieces.append(data[taken:])
    return b"".join(pieces)


def _may_repeat_members(data: bytes) -> bool:
    """Whether an object may name a member twice; a cheap test that errs on the side of yes.

    Without escapes, every member name is a text between two quotes before a colon. If those texts
    all differ, in whatever object they are, none is repeated.
    """
    if b"\\" in data:
        return True
    names = _find_member_names(data)
    return len(set(names)) != len(names)


def _may_exceed_values(data: bytes, allowed: int) -> bool:
    """Whether there may be more values than allowed: each but the first follows one of ``,:[``."""
    return len(data) > allowed and 1 + sum(map(data.count, (b",", b":", b"["))) > allowed


def _check_values(data: bytes, allowed: int) -> None:
    """Refuse repeated members, and more values than a message may hold."""
    try:
        root = json.loads(data, object_pairs_hook=_unique_members)
    except ValueError:
        return  # the decoder proper says what is wrong
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
    """The values of an object. Raises MalformedMessage if two have the same name."""
    if len(dict(members)) != len(members):
        names = [name for name, _ in members]
        repeated = next(name for name in names if names.count(name) > 1)
        raise MalformedMessage(f"duplicate JSON object key `{repeated}`")
    return tuple(value for _, value in members)


def _json_error(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return f"invalid JSON: {text}"


def _check_depth(data: bytes, allowed: int) -> None:
    """Refuse a message nested deeper than allowed, strings not counted."""
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


def _usable_id(value: object) -> bool:
    return type(value) is str or (type(value) is int and _ID_MIN <= value <= _ID_MAX)


def _classify(data: bytes) -> NoReturn:
    """Say what an unusual message is: malformed, or a violation."""
    try:
        value = json.loads(data)
    except ValueError as error:
        # An integer of thousands of digits, which only this parser refuses.
        raise MalformedMessage(f"invalid JSON: {error}") from None
    if type(value) is not dict:
        raise MalformedMessage(f"expected a JSON object, got {_kind(value)}")
    if "method" in value and type(value["method"]) is not str:
        raise MalformedMessage(f"expected `method` to be a string, got {_kind(value['method'])}")
    if "id" in value and not _usable_id(value["id"]):
        raise MalformedMessage(
            f"expected `id` to be a string or a signed 64-bit integer, got {_kind(value['id'])}"
        )
    if "method" in value:
        raise MalformedMessage(f"expected `trace` to be an object, got {_kind(value['trace'])}")
    if "id" in value:
        if "result" in value:
            raise ProtocolViolation(f"unexpected client response for request id {value['id']!r}")
        failure = value.get("error")
        if (
            type(failure) is dict
            and type(failure.get("code")) is int
            and type(failure.get("message")) is str
        ):
            raise ProtocolViolation(f"unexpected client error for request id {value['id']!r}")
    raise MalformedMessage("expected a request or notification with a `method` member")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    for kind, name in (
        (bool, "a boolean"),
        (int, "a number"),
        (float, "a number"),
        (str, "a string"),
        (dict, "an object"),
    ):
        if isinstance(value, kind):
            return name
    return "an array"


def response(identifier: RequestId, result: object) -> bytes:
    """The answer to a request; ``result`` is a model of the revision's generated package."""
    return _encode(_Response(identifier, result))


def error_response(identifier: RequestId, code: int, message: str) -> bytes:
    """The error answer to a request, or with MALFORMED_ID to unreadable input."""
    return _encode(_ErrorResponse(_ErrorObject(code, message), identifier))


def notification(method: str, params: object) -> bytes:
    """A server notification; ``params`` is a model of the revision's generated package."""
    return _encode(_Notification(method, params))


def split_at_empty(message: bytes, member: str) -> tuple[bytes, bytes]:
    """Cut an encoded message inside the empty string value of ``member``.

    A large base64 value is spliced in between the two parts without ever passing through the
    JSON encoder. The cut is unambiguous: inside a JSON string a quote is always escaped, so
    ``"member":""`` can only be the member itself; the last one is meant.
    """
    marker = b'"%b":""' % member.encode()
    cut = message.rindex(marker) + len(marker) - 1
    return message[:cut], message[cut:]


def split_at_all_empty(message: bytes, member: str) -> list[bytes]:
    """Cut an encoded message inside every empty string value of ``member``; see above."""
    return message.replace(b'"%b":""' % member.encode(), b'"%b":"\0"' % member.encode()).split(
        b"\0"  # which JSON text never has
    )


def has_canonical_base64(params: msgspec.Raw, member: str, value: bytes) -> bool:
    """Whether the base64 text of a decoded params member has zero trailing bits.

    The decoder checks alphabet and padding; RFC 4648 section 3.5 also wants the unused bits of
    the last symbol to be zero, which needs a look at the text itself.
    """
    rest = len(value) % 3
    if rest == 0:
        return True
    text: str = msgspec.json.decode(
        msgspec.json.decode(params, type=dict[str, msgspec.Raw])[member], type=str
    )
    return text.endswith(pybase64.b64encode_as_string(value[-rest:]))


def join_pieces(pieces: Sequence[bytes]) -> bytes:
    """The whole message from its pieces, for transports and tests that want one object."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
