"""Protocol rules for the messages of a client, independent of the case.

* A message is one JSON object: a request, a notification, or the answer to a request.
* The request ``initialize`` comes first and is answered before anything else is sent, followed by
  exactly one notification ``initialized``.
* An id is a string or a 64-bit integer and is unique among the open requests.
* The params of a method of the revision validate against the schema. Unknown methods are answered
  with -32601 and are no violation, since clients detect features that way.
* Only requests are answered.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.connection_log import id_key
from exec_server_conformance.runner.patterns import show, text_of

if TYPE_CHECKING:
    from exec_server_conformance.runner.connection_log import IdKey
    from exec_server_conformance.runner.contract import Contract

Message = dict[str, Any]

UNREADABLE_ID = -1
"""Id of the answer to unreadable input."""


class _State(Enum):
    NEW = auto()
    INITIALIZING = auto()
    """initialize has not been answered yet."""
    GREETED = auto()
    """initialize has been answered, initialized has not been received."""
    READY = auto()


class ClientValidator:
    """Validates the messages that a client sends over one connection."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._state = _State.NEW
        self._open: dict[IdKey, str] = {}
        """Methods of the requests that have not been answered, by id."""
        self.asked: set[IdKey] = set()
        """Ids of the server's requests that have not been answered."""

    @property
    def is_ready(self) -> bool:
        """True once the handshake is complete."""
        return self._state is _State.READY

    def answered(self, request: Message, *, is_success: bool) -> None:
        """Note that the server is answering a request."""
        del self._open[id_key(request["id"])]
        if request["method"] == "initialize":
            self._state = _State.GREETED if is_success else _State.NEW

    def take(self, data: bytes) -> Message:
        """Parse and check a message; raise Failure if it violates a rule."""
        message = _parsed(data)
        if "method" in message:
            self._check_call(message)
        else:
            self._check_answer(message)
        return message

    def _check_call(self, message: Message) -> None:
        method = message["method"]
        if not isinstance(method, str):
            raise Failure(f"method must be a string: {show(message)}")
        is_request = "id" in message
        if is_request:
            self._check_id(message)
        self._check_state(method, is_request=is_request)
        entry = self._contract.methods.get(method)
        if is_request:
            self._open[id_key(message["id"])] = method
        elif entry is None or "notification" not in entry or entry["direction"] != _OURS:
            known = (
                "it is a request and needs an id"
                if entry and "request" in entry
                else "there is no such notification"
            )
            raise Failure(
                f"the notification {method}, which ends the connection: {known}; the only "
                f"notification of a client is initialized: {show(message)}"
            )
        if entry is not None and entry["direction"] == _OURS:
            self._contract.check(
                entry["request" if is_request else "notification"], message, method
            )

    def _check_id(self, message: Message) -> None:
        identifier, method = message["id"], message["method"]
        if isinstance(identifier, bool) or not isinstance(identifier, int | str):
            raise Failure(
                f"the id of {method} must be a string or an integer, got {show(identifier)}"
            )
        if identifier == UNREADABLE_ID:
            raise Failure(
                f"the id of {method} is -1, which is the id of the answer to unreadable input: use "
                "another"
            )
        other = self._open.get(id_key(identifier))
        if other is not None:
            raise Failure(
                f"the id {show(identifier)} of {method} is that of {other}, which has not been "
                "answered yet: give every request an id of its own"
            )

    def _check_state(self, method: str, *, is_request: bool) -> None:
        if method == "initialize" and not is_request:
            raise Failure("initialize was sent without an id: it is a request")
        if method == "initialized" and is_request:
            raise Failure("initialized was sent with an id: it is a notification")
        if self._state is _State.NEW and method != "initialize":
            raise Failure(
                f"{method} came before initialize: the first message of a connection is the "
                "request initialize, and a client waits for its answer"
            )
        if self._state is _State.INITIALIZING:
            raise Failure(
                f"{method} came before initialize was answered: wait for the answer, which may be "
                "an error"
            )
        if self._state is _State.GREETED and method != "initialized":
            raise Failure(
                f"{method} came before initialized: send the notification initialized once "
                "initialize has been answered, before anything else"
            )
        if self._state is _State.READY and method in ("initialize", "initialized"):
            raise Failure(f"{method} came a second time: a connection has one handshake")
        if method == "initialize":
            self._state = _State.INITIALIZING
        elif method == "initialized":
            self._state = _State.READY

    def _check_answer(self, message: Message) -> None:
        if "result" not in message and "error" not in message:
            raise Failure(
                f"expected a method, a result or an error in every message, got {show(message)}"
            )
        key = id_key(message.get("id"))
        if key not in self.asked:
            raise Failure(
                "an answer to what is no request, which ends the connection: answer nothing but "
                f"requests, which have an id and a method: {show(message)}"
            )
        self.asked.remove(key)
        if "error" in message:
            self._contract.check("#/$defs/ErrorResponse", message, "the answer")


_OURS = "clientToServer"


def _parsed(data: bytes) -> Message:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Failure(
            f"expected one JSON object as a message, got {text_of(data)[:300]!r}"
        ) from None
    if not isinstance(message, dict):
        raise Failure(f"expected one JSON object as a message, got {show(message)}")
    return message
