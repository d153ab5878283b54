"""Sessions of what passed between a client and a server, made with the recorder's own rules.

The client's part becomes a scenario; the server's part is played back to the suite's player, which
records it as it would a server. So a recorded session is always one that can be played.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure
from exec_server_conformance.recorder.scenario import (
    Event,
    Exchange,
    Scenario,
    Script,
    methods,
    scenario,
    with_plain_ids,
)
from exec_server_conformance.runner.connection_log import MOST_BYTES, id_key
from exec_server_conformance.runner.contract import REVISIONS, contract
from exec_server_conformance.runner.patterns import fill_in
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.session import Lines, Session, of_lines
from exec_server_conformance.runner.target import Server, Servers, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from exec_server_conformance.runner.contract import Contract
    from exec_server_conformance.runner.player import Recorder
    from exec_server_conformance.runner.session import Step, Transport
    from exec_server_conformance.runner.target import Link

SHOWN_VARIABLES = frozenset({"PATH", "LANG", "LC_ALL", "TERM", "TZ"})
"""Variables whose values a session needs to be played, and which hold no secrets."""

_USUAL_SECONDS = 10.0
"""A recording that waited longer for the server gets a bound of its own."""

_PREFERENCE = ("v2", "v1", "v0", "draft")
"""Of several revisions that fit what passed: the newest release."""


@dataclass(frozen=True, slots=True)
class Style:
    """How the sessions of a recording are written."""

    out: Path
    name: str
    """Group and name; the sessions after the first get a number."""
    source: str
    description: str
    revision: str | None = None
    """None: the one that fits what passed."""
    workspace: str | None = None
    """Directory that ``${workspace}`` stands for."""
    shown: frozenset[str] = SHOWN_VARIABLES
    """Environment variables whose values are written."""


@dataclass(slots=True)
class _Tape:
    """What happened on connections of one session of the protocol."""

    name: str
    events: list[Event] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    bytes: int = 0
    path: Path | None = None

    @property
    def has_messages(self) -> bool:
        """Whether the client has said anything."""
        return any(event.happening == "sent" for event in self.events)


class Recordings:
    """Takes in what happens on connections, and writes a session for those that belong together.

    A connection that resumes a session of the protocol belongs to those that had it before.
    """

    def __init__(self, style: Style, transport: Transport, tell: Callable[[str], None]) -> None:
        self._style = style
        self._transport = transport
        self._redactor = Redactor(shown=style.shown)
        self._print = tell
        self._tapes: dict[int, _Tape] = {}
        self._tape_of_session: dict[str, _Tape] = {}
        self._initializing: dict[int, Event] = {}
        self._names = self._free_names()
        self._connections = count()
        self._writing: list[asyncio.Task[None]] = []
        self.failed = 0
        """How many sessions could not be recorded to their end."""

    def tell(self, text: str) -> None:
        """Print a message without secrets."""
        self._print(self._redactor.text(text))

    def opened(self, seconds: float, headers: dict[str, str]) -> int:
        """A client has connected; returns the number of its connection."""
        self._redactor.headers(headers)  # learns the credentials
        number = next(self._connections)
        self._tapes[number] = _Tape("", [Event(number, "opened", seconds=seconds)], {number})
        return number

    def passed(self, event: Event) -> None:
        """A message has passed."""
        tape = self._tapes[event.connection]
        if not tape.name:
            tape = self._place(event, tape)
        before, tape.bytes = tape.bytes, tape.bytes + len(event.data)
        if tape.bytes <= MOST_BYTES:
            tape.events.append(event)
            self._learn_session(event, tape)
        elif before <= MOST_BYTES:
            self.tell(f"{tape.name}: what comes after {MOST_BYTES:,} bytes is not recorded")

    def over(self, event: Event) -> None:
        """A connection has ended; its session is written when it was the last."""
        tape = self._tapes[event.connection]
        tape.events.append(event)
        tape.open.discard(event.connection)
        if not tape.open:
            self._write_soon(tape)

    async def finish(self) -> None:
        """Write the sessions of the connections that are open still, and what is being written."""
        for tape in {id(tape): tape for tape in self._tapes.values() if tape.open}.values():
            tape.open.clear()
            self._write_soon(tape)
        await asyncio.gather(*self._writing)

    def _write_soon(self, tape: _Tape) -> None:
        if tape.has_messages:
            self._writing.append(asyncio.create_task(self._write(tape)))

    def _place(self, event: Event, tape: _Tape) -> _Tape:
        """The tape that the first message on a connection belongs to."""
        resumed = None
        if event.happening == "sent":
            request = methods([event])[:1]
            params = request[0][0].get("params") if request else None
            if isinstance(params, dict):
                resumed = self._tape_of_session.get(str(params.get("resumeSessionId")))
        if resumed is None:
            tape.name = next(self._names)
            return tape
        resumed.events += tape.events
        resumed.open |= tape.open
        self._tapes[event.connection] = resumed
        return resumed

    def _learn_session(self, event: Event, tape: _Tape) -> None:
        """Note which session of the protocol a tape has, once initialize tells it."""
        if event.happening == "sent" and b'"initialize"' in event.data:
            self._initializing[event.connection] = event
        elif event.connection in self._initializing:
            request = self._initializing[event.connection]
            for _, answer in methods([request, event])[:1]:
                if answer is not None:
                    del self._initializing[event.connection]
                    session_id = answer.get("result", {}).get("sessionId")
                    if isinstance(session_id, str):
                        self._tape_of_session.setdefault(session_id, tape)

    def _free_names(self) -> Iterator[str]:
        """The name, and the name with numbers, without those that have been written before."""
        for number in count(1):
            name = self._style.name if number == 1 else f"{self._style.name}_{number}"
            if not any(self._style.out.glob(f"*/{name}.jsonl")):
                yield name

    async def _write(self, tape: _Tape) -> None:
        recorded = await record(tape.events, tape.name, self._style, self._transport)
        session, failure = recorded.session, recorded.failure
        path = session.path
        if tape.path is not None and tape.path != path:
            tape.path.unlink()  # what has come since shows that it is another revision
        tape.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recorded.text(self._redactor), encoding="utf-8")
        for method in recorded.left_out:
            self.tell(f"{session.name}: left out {method}, which was not answered")
        if failure is None:
            self.tell(f"recorded {path}: {len(session.steps)} steps")
        else:
            self.failed += 1
            line = max(failure.line - 1, 1)
            self.tell(f"FAILED {path}: recorded up to line {line}: {failure}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A session, and what went wrong at its end."""

    session: Session
    left_out: list[str]
    failure: Failure | None

    def text(self, redactor: Redactor) -> str:
        """The file, without secrets."""
        members = [step.members for step in self.session.steps]
        for one in members:  # a secret may come before what tells that it is one
            redactor.value(one)
        for step in self.session.steps:
            step.members = redactor.value(step.members)
        return self.session.dump()


async def record(
    events: Sequence[Event], name: str, style: Style, transport: Transport
) -> Recorded:
    """The session of what happened, as far as the server kept the contract."""
    revision = style.revision or fitting_revision(events)
    places = {style.workspace: "${workspace}"} if style.workspace else {}
    written = scenario(with_plain_ids(events), places)
    path = style.out / revision / f"{name}.jsonl"
    lines: Lines = [(1, _header(f"{revision}/{name}", written, style, transport))]
    lines += [(number, step) for number, step in enumerate(written.steps, 2)]
    session = of_lines(path, lines)
    player = Player(
        session,
        Target(),
        transport,
        servers=_Playback(written.scripts, transport),
        also_speaks=_besides(revision),
        recorder=_recorder(written, contract(revision)),
        places=written.places,
    )
    failure = None
    try:
        await player.play()
    except Failure as problem:
        failure = problem
        session.steps = [step for step in session.steps if step.line < problem.line]
    return Recorded(session, written.left_out, failure)


def _header(name: str, written: Scenario, style: Style, transport: Transport) -> dict[str, Any]:
    header: dict[str, Any] = {
        "session": name,
        "description": style.description,
        "transports": ["ws", "stdio"] if written.is_portable else [transport],
        "source": style.source,
    }
    if not written.handshake:
        header["handshake"] = False
    called = {step["call"] for step in written.steps if "call" in step}
    if called - contract(name.partition("/")[0]).methods.keys():
        header["strict"] = True  # another revision may have the method
    if written.seconds > _USUAL_SECONDS:
        header["timeoutSeconds"] = math.ceil(2 * written.seconds)
    return header


def _recorder(written: Scenario, rules: Contract) -> Recorder:
    method_of = {step.get("id"): step["call"] for step in written.steps if "call" in step}

    def record_step(step: Step, actual: Any, places: dict[str, str]) -> None:
        method = step.members.get("call") or method_of.get(step.members.get("answer"))
        if method in rules.methods and "result" in actual:
            # A server may say what belongs to other revisions that it speaks.
            actual = rules.described(rules.methods[method]["response"], actual)
        fill_in(step, actual, places)
        if step.line - 2 in written.timed:
            step.members["expect"] = _of_any_time(step.members["expect"])

    return record_step


def _of_any_time(expected: Any) -> Any:
    """An expectation of an answer that says more or less at another time."""
    result = expected.get("result")
    if not isinstance(result, dict):
        return expected
    kinds = {name: _kind(name, one) for name, one in result.items()}
    return {"result": {name: one for name, one in kinds.items() if one is not None}}


def _kind(name: str, value: Any) -> Any:
    """The pattern of a member of such an answer; None for one that may hold anything."""
    if name == "chunks":
        return {"$type": "array"}
    if isinstance(value, bool):
        return {"$type": "boolean"}
    return value if isinstance(value, dict) else None


def fitting_revision(events: Sequence[Event]) -> str:
    """The revision whose schema what passed breaks the least often, of several the newest."""
    exchanges = methods(events)
    return min(_PREFERENCE, key=lambda revision: _offences(revision, exchanges))


def _offences(revision: str, exchanges: list[tuple[Any, Any]]) -> int:
    """How often what passed is not of a revision; requests that were refused do not count."""
    rules = contract(revision, _besides(revision))
    count = 0
    for message, answer in exchanges:
        if "id" in message and (answer is None or "result" not in answer):
            continue
        try:
            method = rules.methods[message["method"]]
            rules.check(method["request" if answer else "notification"], message, "it")
            if answer is not None:
                rules.check(method["response"], answer, "it")
        except (Failure, LookupError, TypeError):
            count += 1
    return count


def _besides(revision: str) -> tuple[str, ...]:
    return tuple(one for one in REVISIONS if one != revision)


class _Playback(Servers):
    """Servers that say what was recorded, on one connection after the other."""

    def __init__(self, scripts: list[Script], transport: Transport) -> None:
        super().__init__(Target())
        self._server = _PlaybackServer(scripts, transport)

    async def take(
        self, transport: Transport, arguments: list[str], environment: dict[str, str]
    ) -> Server:
        """The one that there is."""
        return self._server


class _PlaybackServer(Server):
    def __init__(self, scripts: list[Script], transport: Transport) -> None:
        super().__init__(Target(), transport)
        self._scripts = iter(scripts)

    async def connect(self, headers: dict[str, str]) -> Link:
        """The next connection."""
        return _PlaybackLink(next(self._scripts))


class _PlaybackLink:
    """A connection that answers each message with what was said after the recorded one."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._exchanges = iter(script.exchanges)
        self._ids: dict[Any, Any] = {}
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left = len(script.exchanges)
        self._say(script.greeting)

    def _say(self, exchange: Exchange) -> None:
        for data in exchange.brings:
            self._said.put_nowait(self._with_new_id(data))
        if self._left == 0 and self._script.is_ended:
            self._said.put_nowait(None)

    def _with_new_id(self, data: bytes) -> bytes:
        """An answer with the id of the player's request in place of the recorded one."""
        try:
            message = json.loads(data)
            new = self._ids[id_key(message["id"])]
        except (ValueError, LookupError, TypeError):
            return data
        if "method" in message:
            return data
        return json.dumps({**message, "id": new}, ensure_ascii=False).encode()

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Say what came next."""
        exchange = next(self._exchanges, None)
        if exchange is None:
            return
        if isinstance(exchange.identifier, int | str):
            self._ids[id_key(exchange.identifier)] = _id_of(data, exchange.identifier)
        self._left -= 1
        self._say(exchange)

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Say what came next."""
        await self.send(b"".join(parts))

    async def ping(self, data: bytes) -> bool:
        """Nothing: pings are not recorded."""
        return False

    async def receive(self) -> bytes | None:
        """What is said next."""
        return await self._said.get()

    async def close(self) -> None:
        """End it."""
        self._said.put_nowait(None)

    def cut(self) -> None:
        """End it."""
        self._said.put_nowait(None)


def _id_of(data: bytes, otherwise: Any) -> Any:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return otherwise
    return message.get("id", otherwise) if isinstance(message, dict) else otherwise
