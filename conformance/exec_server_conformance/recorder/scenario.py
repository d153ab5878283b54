"""Conversion of traffic to a scenario: the actions of the client as steps.

Steps are run one after the other, so the order on the wire determines what is awaited:

* an answer received before the client's next message belongs to its call, a later one is a step;
* a complete process, the end of a streamed body and any other notification are steps at the point
  where they were received;
* output received so far is awaited before the client's next message.

Steps that depend on time are marked: ``process/read`` of a running process, or from the middle of
its output, may return more or less another time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.connection_log import BodyStream, IdKey, id_key
from exec_server_conformance.runner.patterns import substitute
from exec_server_conformance.runner.player import MAIN
from exec_server_conformance.runner.process_events import (
    NumberedEvents,
    ProcessEvents,
    UnnumberedEvents,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Message = dict[str, Any]

EventKind = Literal["opened", "sent", "received", "closed", "ended"]
"""``closed`` by the client, ``ended`` by the server."""

_CLIENT_CHOSEN_IDS = frozenset({"process", "request", "handle", "watch", "write"})
"""Kinds of ids that clients choose: the member names without "Id"."""

_RANDOM = re.compile(r"(?i)[0-9a-f]{8}|[0-9a-z]{20}")
"""Pattern of a randomly generated id."""

_MAX_AWAITED_CHARACTERS = 120
"""Maximum length of the output that is awaited, taken from its end."""


@dataclass(frozen=True, slots=True)
class Event:
    """Event on a connection between client and server."""

    connection: int
    kind: EventKind
    data: bytes = b""
    is_binary: bool = False
    seconds: float = 0.0
    """Time on a monotonic clock, in seconds."""


@dataclass(slots=True)
class Exchange:
    """Messages of the server between two messages of the client."""

    identifier: Any = None
    """Id of the client's request; None for other messages."""
    messages: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Transcript:
    """Messages of the server on one connection."""

    greeting: Exchange = field(default_factory=Exchange)
    """Messages before the first message of the client."""
    exchanges: list[Exchange] = field(default_factory=list)
    is_ended: bool = False
    """True if the server closed the connection."""

    def add(self, data: bytes) -> None:
        """Add a message of the server."""
        latest = self.exchanges[-1] if self.exchanges else self.greeting
        latest.messages.append(data)

    def move_to(self, data: bytes, exchange: Exchange) -> None:
        """Move the latest message of the server to the exchange of another client message."""
        latest = self.exchanges[-1]
        latest.messages.remove(data)
        exchange.messages.append(data)

    def remove(self, exchange: Exchange) -> None:
        """Remove a client message; the messages after it are appended to the previous exchange."""
        at = next(at for at, one in enumerate(self.exchanges) if one is exchange)
        before = self.exchanges[at - 1] if at else self.greeting
        before.messages += exchange.messages
        del self.exchanges[at]


@dataclass(slots=True)
class Scenario:
    """Actions of the client and, per connection, messages of the server, in order."""

    steps: list[Message]
    transcripts: list[Transcript]
    handshake: bool
    """True if the first connection has the default handshake."""
    placeholders: dict[str, str]
    """Texts that are replaced by placeholders."""
    timed: frozenset[int]
    """Indices of the steps whose answer depends on time."""
    left_out: list[str]
    """Methods that were never answered and are therefore omitted."""
    is_portable: bool
    """True if no step is specific to one transport."""
    seconds: float
    """Total time that the client waited for the server, in seconds."""


def scenario(events: Iterable[Event], placeholders: dict[str, str]) -> Scenario:
    """Build the scenario of related connections.

    ``placeholders`` maps texts to the placeholders that replace them, such as ``${workspace}``.
    """
    writer = _Writer()
    for event in events:
        writer.add(event)
    return writer.scenario(placeholders)


@dataclass(slots=True, eq=False)
class _Draft:
    """Step under construction."""

    members: Message
    is_timed: bool = False


@dataclass(slots=True)
class _Call:
    """Request that waits for its answer; ``draft`` is None if it was sent as raw text."""

    draft: _Draft | None
    exchange: Exchange


class _Connection:
    """State of one connection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opening: _Draft | None = None
        self.transcript = Transcript()
        self.sent: list[_Draft] = []
        self.pending: dict[IdKey, _Call] = {}
        self.session_id: str | None = None
        self.late_initialize_answer: _Draft | None = None
        self.processes: dict[str, ProcessEvents] = {}
        self.ends: dict[str, _Draft] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self.streams: dict[str, BodyStream] = {}

    def step(self, **members: Any) -> Message:
        """Build a step on this connection."""
        return members if self.name == MAIN else {**members, "on": self.name}

    def track_start(self, process_id: str) -> None:
        """Prepare for the start of a process, whose id may be that of a closed one."""
        events = self.processes.get(process_id)
        if events is not None and events.is_over:
            del self.processes[process_id]
            self.ends.pop(process_id, None)
            self._seen = {one: size for one, size in self._seen.items() if one[0] != process_id}

    def new_output_steps(self) -> list[Message]:
        """Return steps that await the output received since the last call."""
        steps = []
        for process_id, events in self.processes.items():
            for stream, data in events.output.items():
                seen = self._seen.get((process_id, stream), 0)
                self._seen[process_id, stream] = len(data)
                text = _text(data[seen:])
                if text and not events.is_over:
                    steps.append(
                        self.step(until=process_id, output=text[-_MAX_AWAITED_CHARACTERS:])
                    )
        return steps

    @property
    def has_default_handshake(self) -> bool:
        """True if the connection began with a handshake without special params."""
        if len(self.sent) < 2 or self.session_id is None:
            return False
        first, second = (draft.members for draft in self.sent[:2])
        params = first.get("params")
        return (
            first.get("call") == "initialize"
            and isinstance(params, dict)
            and all(value is None for name, value in params.items() if name != "clientName")
            and second.get("notify") == "initialized"
            and not second.get("params")
        )


class _Writer:
    """Builds steps from events."""

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._connections: dict[int, _Connection] = {}
        self._latest: _Draft | None = None
        self._calls = 0
        self._is_portable = True
        self._before: float | None = None
        self._seconds = 0.0

    def add(self, event: Event) -> None:
        """Add the next event."""
        if event.kind == "received" and self._before is not None:
            self._seconds += event.seconds - self._before
        self._before = event.seconds
        if event.kind == "opened":
            self._open(event.connection)
            return
        connection = self._connections[event.connection]
        if event.kind == "sent":
            self._send(connection, event)
        elif event.kind == "received":
            connection.transcript.add(event.data)
            # Violations are detected when the scenario is replayed.
            with contextlib.suppress(Failure, LookupError, TypeError, ValueError):
                self._receive(connection, event.data, json.loads(event.data))
        else:
            self._end(connection, event.kind)

    def scenario(self, placeholders: dict[str, str]) -> Scenario:
        """Return the completed scenario."""
        left_out = []
        placeholders = dict(placeholders)
        for connection in self._connections.values():
            for call in connection.pending.values():
                if call.draft is not None:
                    left_out.append(call.draft.members["call"])
                    self._drafts.remove(call.draft)
                    connection.sent.remove(call.draft)
                    connection.transcript.remove(call.exchange)
            if connection.has_default_handshake:
                for draft in (*connection.sent[:2], connection.late_initialize_answer):
                    if draft is not None:
                        self._drafts.remove(draft)
                name = connection.name
                assert connection.session_id is not None
                if connection.session_id:
                    placeholders.setdefault(
                        connection.session_id,
                        "${session}" if name == MAIN else f"${{session:{name}}}",
                    )
            elif connection.opening is not None:
                connection.opening.members["handshake"] = False
        while self._drafts and "disconnect" in self._drafts[-1].members:
            del self._drafts[-1]
        texts = {place: text for text, place in placeholders.items()}
        connections = list(self._connections.values())
        return Scenario(
            steps=[substitute(draft.members, texts) for draft in self._drafts],
            transcripts=[connection.transcript for connection in connections],
            handshake=connections[0].has_default_handshake,
            placeholders=placeholders,
            timed=frozenset(at for at, draft in enumerate(self._drafts) if draft.is_timed),
            left_out=left_out,
            is_portable=self._is_portable and len(connections) == 1,
            seconds=self._seconds,
        )

    def _open(self, number: int) -> None:
        count = len(self._connections) + 1
        connection = _Connection(MAIN if count == 1 else f"connection{count}")
        if count > 1:
            connection.opening = self._write({"connect": connection.name})
        self._latest = None
        self._connections[number] = connection

    def _end(self, connection: _Connection, kind: EventKind) -> None:
        for step in connection.new_output_steps():
            self._write(step)
        if kind == "ended":
            connection.transcript.is_ended = True
            self._is_portable = False
        self._write({"disconnect" if kind == "closed" else "ended": connection.name})
        self._latest = None

    def _write(self, members: Message) -> _Draft:
        draft = _Draft(members)
        self._drafts.append(draft)
        return draft

    def _send(self, connection: _Connection, event: Event) -> None:
        message = _message(event.data)
        method = message.get("method")
        identifier = message.get("id")
        if method != "process/read":
            for step in connection.new_output_steps():
                self._write(step)
        exchange = Exchange(identifier)
        connection.transcript.exchanges.append(exchange)
        params = {"params": message["params"]} if "params" in message else {}
        if (
            not isinstance(method, str)
            or event.is_binary
            or not _is_id(identifier, message)
            or id_key(identifier) in connection.pending
        ):
            self._latest = self._write(connection.step(**_raw(event)))
            self._is_portable = False
            key = id_key(-1 if identifier is None else identifier)
            with contextlib.suppress(TypeError):  # The id may be unhashable.
                connection.pending.setdefault(key, _Call(None, exchange))
        elif "id" not in message:
            self._latest = self._write(connection.step(notify=method, **params))
        else:
            self._latest = self._write(connection.step(call=method, **params))
            connection.pending[id_key(identifier)] = _Call(self._latest, exchange)
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                self._track_call(connection, self._latest, method, message["params"])
        connection.sent.append(self._latest)

    def _track_call(
        self, connection: _Connection, draft: _Draft, method: str, params: Message
    ) -> None:
        if method == "process/start":
            connection.track_start(params["processId"])
        elif method == "process/read":
            events = connection.processes.get(params["processId"])
            is_over = events is not None and events.is_complete
            draft.is_timed = not is_over or bool(params.get("afterSeq"))
        elif method == "http/request":
            stream = connection.streams.get(params["requestId"])
            if stream is not None and stream.outcome is not None:
                del connection.streams[params["requestId"]]

    def _receive(self, connection: _Connection, data: bytes, message: Message) -> None:
        method = message.get("method")
        if method is None:
            self._receive_answer(connection, data, message)
        elif method == "http/request/bodyDelta":
            name = message["params"]["requestId"]
            stream = connection.streams.setdefault(name, BodyStream(name))
            stream.add(message["params"])
            if stream.outcome is not None:
                self._write(connection.step(stream=name))
        elif method.startswith("command/exec/"):
            process_id = message["params"]["sessionId"]
            self._take_event(connection, process_id, UnnumberedEvents(process_id), message)
        elif method.startswith("process/") and "seq" in message["params"]:
            process_id = message["params"]["processId"]
            self._take_event(connection, process_id, NumberedEvents(process_id), message)
        else:
            self._write(connection.step(notification=method))

    def _take_event(
        self, connection: _Connection, process_id: str, fresh: ProcessEvents, message: Message
    ) -> None:
        events = connection.processes.setdefault(process_id, fresh)
        events.add(message["method"], message["params"])
        if events.is_complete:
            # Without numbers, output may follow the exit.
            earlier = connection.ends.pop(process_id, None)
            if earlier is not None:
                self._drafts.remove(earlier)
            connection.ends[process_id] = self._write(connection.step(process=process_id))
        elif message["method"] == "process/closed":
            # The first events are missing on a resumed connection.
            self._write(connection.step(until=process_id, event="process/closed"))

    def _receive_answer(self, connection: _Connection, data: bytes, message: Message) -> None:
        call = connection.pending.pop(id_key(message.get("id")))
        if call.draft is None:
            self._write(connection.step(answer=message["id"]))
            return
        members = call.draft.members
        if members["call"] == "initialize" and "result" in message:
            connection.session_id = message["result"].get("sessionId", "")
            # The default handshake awaits the answer, even if this client did not.
            connection.transcript.move_to(data, call.exchange)
        if call.draft is self._latest:
            return
        # Renumbered so that the same traffic results in the same session.
        self._calls += 1
        members["id"] = f"call{self._calls}"
        members["wait"] = False
        answer = self._write(connection.step(answer=members["id"]))
        answer.is_timed, call.draft.is_timed = call.draft.is_timed, False
        if members["call"] == "initialize":
            connection.late_initialize_answer = answer


def with_plain_ids(events: Iterable[Event]) -> list[Event]:
    """Replace randomly generated ids by numbered names, so that recordings are reproducible."""
    events = list(events)
    names: dict[bytes, bytes] = {}
    for event in events:
        params = _message(event.data).get("params") if event.kind == "sent" else None
        for member, value in params.items() if isinstance(params, dict) else ():
            kind = member.removesuffix("Id")
            if kind in _CLIENT_CHOSEN_IDS and isinstance(value, str) and _RANDOM.search(value):
                number = sum(name.startswith(kind.encode()) for name in names.values()) + 1
                names.setdefault(value.encode(), f"{kind}{number}".encode())
    if not names:
        return events
    # Longest first, since one id may be the prefix of another.
    pattern = re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    return [
        replace(event, data=pattern.sub(lambda found: names[found[0]], event.data))
        for event in events
    ]


def methods(events: Sequence[Event]) -> list[tuple[Message, Message | None]]:
    """Return every request with its answer and every notification of both sides, in order."""
    waiting: dict[tuple[int, IdKey], int] = {}
    found: list[tuple[Message, Message | None]] = []
    for event in events:
        if event.kind not in ("sent", "received"):
            continue
        message = _message(event.data)
        with contextlib.suppress(TypeError):  # The id may be unhashable.
            key = (event.connection, id_key(message.get("id")))
            if "method" in message:
                if event.kind == "sent" and "id" in message:
                    waiting[key] = len(found)
                found.append((message, None))
            elif key in waiting:
                at = waiting.pop(key)
                found[at] = (found[at][0], message)
    return found


def _message(data: bytes) -> Message:
    """Parse a message; return an empty object if it is invalid."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _is_id(identifier: Any, message: Message) -> bool:
    """Return True if the message has no id, or one that a step can have."""
    is_usable = isinstance(identifier, int | str) and not isinstance(identifier, bool)
    return is_usable or "id" not in message


def _raw(event: Event) -> Message:
    if not event.is_binary:
        with contextlib.suppress(UnicodeDecodeError):
            return {"text": event.data.decode()}
    return {"binary": base64.b64encode(event.data).decode()}


def _text(data: bytes) -> str:
    """Return output as text; empty if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
