"""From what passed between a client and a server to a scenario: what the client did, in steps.

A scenario is played one step after the other, so the order on the wire becomes what is waited for:

* an answer that came before the client went on belongs to its call, a later one is a step;
* a process whose events are all there, the end of a streamed body and any other notification are
  steps where they came;
* before the client goes on, what a process has said until then is waited for.

What depends on time is marked: ``process/read`` of a process that is not over, or from somewhere
within its output, may be answered with more or less another time.
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
from exec_server_conformance.runner.patterns import in_places
from exec_server_conformance.runner.player import MAIN
from exec_server_conformance.runner.process_events import (
    NumberedEvents,
    ProcessEvents,
    UnnumberedEvents,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Message = dict[str, Any]

Happening = Literal["opened", "sent", "received", "closed", "ended"]
"""``closed`` is by the client, ``ended`` by the server; the others are as a session has them."""

_NAMED_BY_CLIENTS = frozenset({"process", "request", "handle", "watch", "write"})
"""What clients choose the ids of, by the members without Id."""

_RANDOM = re.compile(r"(?i)[0-9a-f]{8}|[0-9a-z]{20}")
"""What an id has that was made up at random."""

_AWAITED_CHARACTERS = 120
"""How much of a longer output is waited for: its end."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened on a connection between the client and the server."""

    connection: int
    happening: Happening
    data: bytes = b""
    is_binary: bool = False
    seconds: float = 0.0
    """When, on a clock that only goes forward."""


@dataclass(slots=True)
class Exchange:
    """What the server said after a message of the client, until the next one."""

    identifier: Any = None
    """Id of the client's request; None for another message."""
    brings: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Script:
    """What the server said on one connection."""

    greeting: Exchange = field(default_factory=Exchange)
    """Before the client said anything."""
    exchanges: list[Exchange] = field(default_factory=list)
    is_ended: bool = False
    """Whether the server ended the connection."""

    def hear(self, data: bytes) -> None:
        """Add a message of the server."""
        latest = self.exchanges[-1] if self.exchanges else self.greeting
        latest.brings.append(data)

    def bring_forward(self, data: bytes, exchange: Exchange) -> None:
        """Have the latest message of the server come right after another of the client's."""
        latest = self.exchanges[-1]
        latest.brings.remove(data)
        exchange.brings.append(data)

    def forget(self, exchange: Exchange) -> None:
        """Take a message of the client out; what came after it comes after the one before."""
        at = next(at for at, one in enumerate(self.exchanges) if one is exchange)
        before = self.exchanges[at - 1] if at else self.greeting
        before.brings += exchange.brings
        del self.exchanges[at]


@dataclass(slots=True)
class Scenario:
    """What the client did, and what the server said on each connection, in their order."""

    steps: list[Message]
    scripts: list[Script]
    handshake: bool
    """Whether the first connection shook hands as every session does."""
    places: dict[str, str]
    """Texts that the steps have placeholders for, by the text."""
    timed: frozenset[int]
    """Indices of the steps whose answer depends on time."""
    left_out: list[str]
    """Methods that were called and never answered, which no session can expect anything of."""
    is_portable: bool
    """Whether nothing in it belongs to one transport."""
    seconds: float
    """How long the client waited for the server, in all."""


def scenario(events: Iterable[Event], places: dict[str, str]) -> Scenario:
    """The scenario of what happened on connections that belong together.

    ``places`` maps texts that get a placeholder to it, such as a directory to ``${workspace}``.
    """
    writer = _Writer()
    for event in events:
        writer.add(event)
    return writer.scenario(places)


@dataclass(slots=True, eq=False)
class _Draft:
    """A step in the making."""

    members: Message
    is_timed: bool = False


@dataclass(slots=True)
class _Call:
    """A request that waits for its answer; without a step it was sent as mere text."""

    draft: _Draft | None
    exchange: Exchange


class _Connection:
    """What is known of one connection so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opening: _Draft | None = None
        self.script = Script()
        self.sent: list[_Draft] = []
        self.pending: dict[IdKey, _Call] = {}
        self.session_id: str | None = None
        self.late_greeting: _Draft | None = None
        self.processes: dict[str, ProcessEvents] = {}
        self.ends: dict[str, _Draft] = {}
        self._heard: dict[tuple[str, str], int] = {}
        self.streams: dict[str, BodyStream] = {}

    def step(self, **members: Any) -> Message:
        """A step on this connection."""
        return members if self.name == MAIN else {**members, "on": self.name}

    def restart(self, process_id: str) -> None:
        """A process is about to be started, perhaps with the id of one that is over."""
        events = self.processes.get(process_id)
        if events is not None and events.is_over:
            del self.processes[process_id]
            self.ends.pop(process_id, None)
            self._heard = {one: size for one, size in self._heard.items() if one[0] != process_id}

    def news(self) -> list[Message]:
        """Steps that wait for what processes have said since this was last asked."""
        steps = []
        for process_id, events in self.processes.items():
            for stream, data in events.output.items():
                heard = self._heard.get((process_id, stream), 0)
                self._heard[process_id, stream] = len(data)
                text = _text(data[heard:])
                if text and not events.is_over:
                    steps.append(self.step(until=process_id, output=text[-_AWAITED_CHARACTERS:]))
        return steps

    @property
    def shakes_hands_as_all_do(self) -> bool:
        """Whether it began with a handshake that means nothing of its own."""
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
    """Writes steps while it is told what happened."""

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._connections: dict[int, _Connection] = {}
        self._latest: _Draft | None = None
        self._calls = 0
        self._is_portable = True
        self._before: float | None = None
        self._seconds = 0.0

    def add(self, event: Event) -> None:
        """Take in what happened next."""
        if event.happening == "received" and self._before is not None:
            self._seconds += event.seconds - self._before
        self._before = event.seconds
        if event.happening == "opened":
            self._open(event.connection)
            return
        connection = self._connections[event.connection]
        if event.happening == "sent":
            self._send(connection, event)
        elif event.happening == "received":
            connection.script.hear(event.data)
            # What breaks the rules is found when the scenario is played.
            with contextlib.suppress(Failure, LookupError, TypeError, ValueError):
                self._receive(connection, event.data, json.loads(event.data))
        else:
            self._end(connection, event.happening)

    def scenario(self, places: dict[str, str]) -> Scenario:
        """What has become of it."""
        left_out = []
        places = dict(places)
        for connection in self._connections.values():
            for call in connection.pending.values():
                if call.draft is not None:
                    left_out.append(call.draft.members["call"])
                    self._drafts.remove(call.draft)
                    connection.sent.remove(call.draft)
                    connection.script.forget(call.exchange)
            if connection.shakes_hands_as_all_do:
                for draft in (*connection.sent[:2], connection.late_greeting):
                    if draft is not None:
                        self._drafts.remove(draft)
                name = connection.name
                assert connection.session_id is not None
                if connection.session_id:
                    places.setdefault(
                        connection.session_id,
                        "${session}" if name == MAIN else f"${{session:{name}}}",
                    )
            elif connection.opening is not None:
                connection.opening.members["handshake"] = False
        while self._drafts and "disconnect" in self._drafts[-1].members:
            del self._drafts[-1]
        texts = {place: text for text, place in places.items()}
        connections = list(self._connections.values())
        return Scenario(
            steps=[in_places(draft.members, texts) for draft in self._drafts],
            scripts=[connection.script for connection in connections],
            handshake=connections[0].shakes_hands_as_all_do,
            places=places,
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

    def _end(self, connection: _Connection, happening: Happening) -> None:
        for step in connection.news():
            self._write(step)
        if happening == "ended":
            connection.script.is_ended = True
            self._is_portable = False
        self._write({"disconnect" if happening == "closed" else "ended": connection.name})
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
            for step in connection.news():
                self._write(step)
        exchange = Exchange(identifier)
        connection.script.exchanges.append(exchange)
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
            with contextlib.suppress(TypeError):  # an id may be a list
                connection.pending.setdefault(key, _Call(None, exchange))
        elif "id" not in message:
            self._latest = self._write(connection.step(notify=method, **params))
        else:
            self._latest = self._write(connection.step(call=method, **params))
            connection.pending[id_key(identifier)] = _Call(self._latest, exchange)
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                self._note_call(connection, self._latest, method, message["params"])
        connection.sent.append(self._latest)

    def _note_call(
        self, connection: _Connection, draft: _Draft, method: str, params: Message
    ) -> None:
        if method == "process/start":
            connection.restart(params["processId"])
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
            # Where events have no numbers, output may follow the exit.
            earlier = connection.ends.pop(process_id, None)
            if earlier is not None:
                self._drafts.remove(earlier)
            connection.ends[process_id] = self._write(connection.step(process=process_id))
        elif message["method"] == "process/closed":
            # On a resumed connection the first events are missing.
            self._write(connection.step(until=process_id, event="process/closed"))

    def _receive_answer(self, connection: _Connection, data: bytes, message: Message) -> None:
        call = connection.pending.pop(id_key(message.get("id")))
        if call.draft is None:
            self._write(connection.step(answer=message["id"]))
            return
        members = call.draft.members
        if members["call"] == "initialize" and "result" in message:
            connection.session_id = message["result"].get("sessionId", "")
            # Shaking hands waits for this, even if the client did not.
            connection.script.bring_forward(data, call.exchange)
        if call.draft is self._latest:
            return
        # Numbered anew, so that the same again gives the same session.
        self._calls += 1
        members["id"] = f"call{self._calls}"
        members["wait"] = False
        answer = self._write(connection.step(answer=members["id"]))
        answer.is_timed, call.draft.is_timed = call.draft.is_timed, False
        if members["call"] == "initialize":
            connection.late_greeting = answer


def with_plain_ids(events: Iterable[Event]) -> list[Event]:
    """The same with numbered names in place of ids that the client made up at random.

    So the same again gives the same session.
    """
    events = list(events)
    names: dict[bytes, bytes] = {}
    for event in events:
        params = _message(event.data).get("params") if event.happening == "sent" else None
        for member, value in params.items() if isinstance(params, dict) else ():
            kind = member.removesuffix("Id")
            if kind in _NAMED_BY_CLIENTS and isinstance(value, str) and _RANDOM.search(value):
                number = sum(name.startswith(kind.encode()) for name in names.values()) + 1
                names.setdefault(value.encode(), f"{kind}{number}".encode())
    if not names:
        return events
    # The longest first: an id may begin like another.
    pattern = re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    return [
        replace(event, data=pattern.sub(lambda found: names[found[0]], event.data))
        for event in events
    ]


def methods(events: Sequence[Event]) -> list[tuple[Message, Message | None]]:
    """Every request with its answer and every notification, of both sides, in their order."""
    waiting: dict[tuple[int, IdKey], int] = {}
    found: list[tuple[Message, Message | None]] = []
    for event in events:
        if event.happening not in ("sent", "received"):
            continue
        message = _message(event.data)
        with contextlib.suppress(TypeError):  # an id may be a list
            key = (event.connection, id_key(message.get("id")))
            if "method" in message:
                if event.happening == "sent" and "id" in message:
                    waiting[key] = len(found)
                found.append((message, None))
            elif key in waiting:
                at = waiting.pop(key)
                found[at] = (found[at][0], message)
    return found


def _message(data: bytes) -> Message:
    """A message, without members if it is not readable as one."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _is_id(identifier: Any, message: Message) -> bool:
    """Whether a message has an id that a step can have, or none."""
    is_usable = isinstance(identifier, int | str) and not isinstance(identifier, bool)
    return is_usable or "id" not in message


def _raw(event: Event) -> Message:
    if not event.is_binary:
        with contextlib.suppress(UnicodeDecodeError):
            return {"text": event.data.decode()}
    return {"binary": base64.b64encode(event.data).decode()}


def _text(data: bytes) -> str:
    """The text of some output; empty if it is not text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""
