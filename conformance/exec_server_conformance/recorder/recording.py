"""Conversion of recorded traffic to sessions.

The client's messages become a scenario, and the server's messages are replayed to the suite's
player, which records them like those of a real server. Every recorded session can therefore be run.
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
    Transcript,
    methods,
    scenario,
    with_plain_ids,
)
from exec_server_conformance.runner.connection_log import MAX_BYTES, id_key
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
"""Variables whose values are needed to run a session and are not secret."""

_USUAL_SECONDS = 10.0
"""Recordings that waited longer for the server get a time limit of their own."""

_PREFERENCE = ("v2", "v1", "v0", "draft")
"""Preferred revision among those that fit the traffic: the newest release."""


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """Settings for writing recorded sessions."""

    out: Path
    name: str
    """Group and name; later sessions get a numeric suffix."""
    source: str
    description: str
    revision: str | None = None
    """Revision of the sessions; None for the best fit."""
    workspace: str | None = None
    """Directory that is replaced by ``${workspace}``."""
    shown: frozenset[str] = SHOWN_VARIABLES
    """Environment variables whose values are written."""


@dataclass(slots=True)
class _Recording:
    """Traffic of one protocol session over all its connections."""

    name: str
    events: list[Event] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    bytes: int = 0
    path: Path | None = None

    @property
    def has_messages(self) -> bool:
        """True if the client has sent a message."""
        return any(event.kind == "sent" for event in self.events)


class Recordings:
    """Collects traffic and writes one session file per protocol session.

    A connection that resumes a session is added to the recording of that session.
    """

    def __init__(
        self, options: RecordingOptions, transport: Transport, report: Callable[[str], None]
    ) -> None:
        self._options = options
        self._transport = transport
        self._redactor = Redactor(shown=options.shown)
        self._print = report
        self._recordings: dict[int, _Recording] = {}
        self._recording_by_session: dict[str, _Recording] = {}
        self._initializing: dict[int, Event] = {}
        self._names = self._unused_names()
        self._connections = count()
        self._writing: list[asyncio.Task[None]] = []
        self.failed = 0
        """Number of sessions that could not be recorded completely."""

    def report(self, text: str) -> None:
        """Print a message without secrets."""
        self._print(self._redactor.text(text))

    def connection_opened(self, seconds: float, headers: dict[str, str]) -> int:
        """Register a new connection and return its number."""
        self._redactor.headers(headers)  # Remembers the credentials in the headers.
        number = next(self._connections)
        self._recordings[number] = _Recording(
            "", [Event(number, "opened", seconds=seconds)], {number}
        )
        return number

    def message_relayed(self, event: Event) -> None:
        """Record a message."""
        recording = self._recordings[event.connection]
        if not recording.name:
            recording = self._recording_for(event, recording)
        before, recording.bytes = recording.bytes, recording.bytes + len(event.data)
        if recording.bytes <= MAX_BYTES:
            recording.events.append(event)
            self._track_session(event, recording)
        elif before <= MAX_BYTES:
            self.report(f"{recording.name}: data beyond {MAX_BYTES:,} bytes is not recorded")

    def connection_closed(self, event: Event) -> None:
        """Record the end of a connection; the last one completes the session."""
        recording = self._recordings[event.connection]
        recording.events.append(event)
        recording.open.discard(event.connection)
        if not recording.open:
            self._write_soon(recording)

    async def finish(self) -> None:
        """Write the sessions of open connections and wait for pending writes."""
        for recording in {
            id(recording): recording for recording in self._recordings.values() if recording.open
        }.values():
            recording.open.clear()
            self._write_soon(recording)
        await asyncio.gather(*self._writing)

    def _write_soon(self, recording: _Recording) -> None:
        if recording.has_messages:
            self._writing.append(asyncio.create_task(self._write(recording)))

    def _recording_for(self, event: Event, recording: _Recording) -> _Recording:
        """Return the recording that the first message of a connection belongs to."""
        resumed = None
        if event.kind == "sent":
            request = methods([event])[:1]
            params = request[0][0].get("params") if request else None
            if isinstance(params, dict):
                resumed = self._recording_by_session.get(str(params.get("resumeSessionId")))
        if resumed is None:
            recording.name = next(self._names)
            return recording
        resumed.events += recording.events
        resumed.open |= recording.open
        self._recordings[event.connection] = resumed
        return resumed

    def _track_session(self, event: Event, recording: _Recording) -> None:
        """Associate a recording with the session id in the answer to initialize."""
        if event.kind == "sent" and b'"initialize"' in event.data:
            self._initializing[event.connection] = event
        elif event.connection in self._initializing:
            request = self._initializing[event.connection]
            for _, answer in methods([request, event])[:1]:
                if answer is not None:
                    del self._initializing[event.connection]
                    session_id = answer.get("result", {}).get("sessionId")
                    if isinstance(session_id, str):
                        self._recording_by_session.setdefault(session_id, recording)

    def _unused_names(self) -> Iterator[str]:
        """Yield the name and numbered variants of it that are not in use."""
        for number in count(1):
            name = self._options.name if number == 1 else f"{self._options.name}_{number}"
            if not any(self._options.out.glob(f"*/{name}.jsonl")):
                yield name

    async def _write(self, recording: _Recording) -> None:
        recorded = await record(recording.events, recording.name, self._options, self._transport)
        session, failure = recorded.session, recorded.failure
        path = session.path
        if recording.path is not None and recording.path != path:
            recording.path.unlink()  # Later traffic showed that the session is of another revision.
        recording.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recorded.text(self._redactor), encoding="utf-8")
        for method in recorded.left_out:
            self.report(f"{session.name}: omitted {method}, which was not answered")
        if failure is None:
            self.report(f"recorded {path}: {len(session.steps)} steps")
        else:
            self.failed += 1
            line = max(failure.line - 1, 1)
            self.report(f"FAILED {path}: recorded up to line {line}: {failure}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recorded session and the failure that ended it, if any."""

    session: Session
    left_out: list[str]
    failure: Failure | None

    def text(self, redactor: Redactor) -> str:
        """Return the file's contents without secrets."""
        members = [step.members for step in self.session.steps]
        for one in members:  # A secret may occur before the value that identifies it.
            redactor.value(one)
        for step in self.session.steps:
            step.members = redactor.value(step.members)
        return self.session.dump()


async def record(
    events: Sequence[Event], name: str, options: RecordingOptions, transport: Transport
) -> Recorded:
    """Convert traffic to a session, up to the first contract violation by the server."""
    revision = options.revision or fitting_revision(events)
    placeholders = {options.workspace: "${workspace}"} if options.workspace else {}
    written = scenario(with_plain_ids(events), placeholders)
    path = options.out / revision / f"{name}.jsonl"
    lines: Lines = [(1, _header(f"{revision}/{name}", written, options, transport))]
    lines += [(number, step) for number, step in enumerate(written.steps, 2)]
    session = of_lines(path, lines)
    player = Player(
        session,
        Target(),
        transport,
        servers=_Playback(written.transcripts, transport),
        also_speaks=_other_revisions(revision),
        recorder=_recorder(written, contract(revision)),
        placeholders=written.placeholders,
    )
    failure = None
    try:
        await player.play()
    except Failure as problem:
        failure = problem
        session.steps = [step for step in session.steps if step.line < problem.line]
    return Recorded(session, written.left_out, failure)


def _header(
    name: str, written: Scenario, options: RecordingOptions, transport: Transport
) -> dict[str, Any]:
    header: dict[str, Any] = {
        "session": name,
        "description": options.description,
        "transports": ["ws", "stdio"] if written.is_portable else [transport],
        "source": options.source,
    }
    if not written.handshake:
        header["handshake"] = False
    called = {step["call"] for step in written.steps if "call" in step}
    if called - contract(name.partition("/")[0]).methods.keys():
        header["strict"] = True  # Another revision may define the method.
    if written.seconds > _USUAL_SECONDS:
        header["timeoutSeconds"] = math.ceil(2 * written.seconds)
    return header


def _recorder(written: Scenario, rules: Contract) -> Recorder:
    method_of = {step.get("id"): step["call"] for step in written.steps if "call" in step}

    def record_step(step: Step, actual: Any, placeholders: dict[str, str]) -> None:
        method = step.members.get("call") or method_of.get(step.members.get("answer"))
        if method in rules.methods and "result" in actual:
            # A server may send members of the other revisions that it supports.
            actual = rules.described(rules.methods[method]["response"], actual)
        fill_in(step, actual, placeholders)
        if step.line - 2 in written.timed:
            step.members["expect"] = _time_independent(step.members["expect"])

    return record_step


def _time_independent(expected: Any) -> Any:
    """Return an expectation for an answer whose contents depend on time."""
    result = expected.get("result")
    if not isinstance(result, dict):
        return expected
    kinds = {name: _kind(name, one) for name, one in result.items()}
    return {"result": {name: one for name, one in kinds.items() if one is not None}}


def _kind(name: str, value: Any) -> Any:
    """Return the pattern of a member of such an answer; None to ignore the member."""
    if name == "chunks":
        return {"$type": "array"}
    if isinstance(value, bool):
        return {"$type": "boolean"}
    return value if isinstance(value, dict) else None


def fitting_revision(events: Sequence[Event]) -> str:
    """Return the revision with the fewest schema violations; the newest release if several fit."""
    exchanges = methods(events)
    return min(_PREFERENCE, key=lambda revision: _violation_count(revision, exchanges))


def _violation_count(revision: str, exchanges: list[tuple[Any, Any]]) -> int:
    """Count the schema violations in the traffic; refused requests do not count."""
    rules = contract(revision, _other_revisions(revision))
    count = 0
    for message, answer in exchanges:
        if "id" in message and (answer is None or "result" not in answer):
            continue
        try:
            method = rules.methods[message["method"]]
            kind = "request" if answer else "notification"
            additions = rules.check(method[kind], message, "it")
            if method["direction"] == "clientToServer":
                additions = []  # what a client sends may be of any revision
            if answer is not None:
                additions += rules.check(method["response"], answer, "it")
            count += bool(additions)
        except (Failure, LookupError, TypeError):
            count += 1
    return count


def _other_revisions(revision: str) -> tuple[str, ...]:
    return tuple(one for one in REVISIONS if one != revision)


class _Playback(Servers):
    """Server pool that replays recorded traffic, connection by connection."""

    def __init__(self, transcripts: list[Transcript], transport: Transport) -> None:
        super().__init__(Target())
        self._server = _PlaybackServer(transcripts, transport)

    async def take(
        self, transport: Transport, arguments: list[str], environment: dict[str, str]
    ) -> Server:
        """Return the replaying server."""
        return self._server


class _PlaybackServer(Server):
    def __init__(self, transcripts: list[Transcript], transport: Transport) -> None:
        super().__init__(Target(), transport)
        self._transcripts = iter(transcripts)

    async def connect(self, headers: dict[str, str]) -> Link:
        """Return the next connection."""
        return _PlaybackLink(next(self._transcripts))


class _PlaybackLink:
    """Connection that answers each message with the messages recorded after it."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._exchanges = iter(transcript.exchanges)
        self._ids: dict[Any, Any] = {}
        self._queued: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left = len(transcript.exchanges)
        self._queue(transcript.greeting)

    def _queue(self, exchange: Exchange) -> None:
        for data in exchange.messages:
            self._queued.put_nowait(self._with_new_id(data))
        if self._left == 0 and self._transcript.is_ended:
            self._queued.put_nowait(None)

    def _with_new_id(self, data: bytes) -> bytes:
        """Replace the recorded id of an answer by the id of the player's request."""
        try:
            message = json.loads(data)
            new = self._ids[id_key(message["id"])]
        except (ValueError, LookupError, TypeError):
            return data
        if "method" in message:
            return data
        return json.dumps({**message, "id": new}, ensure_ascii=False).encode()

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send the messages that were recorded next."""
        exchange = next(self._exchanges, None)
        if exchange is None:
            return
        if isinstance(exchange.identifier, int | str):
            self._ids[id_key(exchange.identifier)] = _id_of(data, exchange.identifier)
        self._left -= 1
        self._queue(exchange)

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send the messages that were recorded next."""
        await self.send(b"".join(parts))

    async def ping(self, data: bytes) -> bool:
        """Return False: pings are not recorded."""
        return False

    async def receive(self) -> bytes | None:
        """Return the next message."""
        return await self._queued.get()

    async def close(self) -> None:
        """Close the connection."""
        self._queued.put_nowait(None)

    def cut(self) -> None:
        """Close the connection."""
        self._queued.put_nowait(None)


def _id_of(data: bytes, otherwise: Any) -> Any:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return otherwise
    return message.get("id", otherwise) if isinstance(message, dict) else otherwise
