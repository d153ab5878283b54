"""What one connection has brought, sorted, and checked as it comes.

What holds for every session without being written in it:

* every message of the server validates against the protocol's schema;
* every answer belongs to a request that waits for one, and comes once;
* the events of each process keep the rules of ``exec_server_conformance.runner.process_events``;
* nothing comes that nobody expected.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure, Silence
from exec_server_conformance.runner.patterns import show, text_of
from exec_server_conformance.runner.process_events import (
    NumberedEvents,
    ProcessEvents,
    Sequence,
    UnnumberedEvents,
)

if TYPE_CHECKING:
    from exec_server_conformance.runner.contract import Contract
    from exec_server_conformance.runner.target import Link
    from exec_server_conformance.runner.trace import Trace

Message = dict[str, Any]

IdKey = tuple[type, Any]
"""An id with its type, since 1, true and "1" are three ids."""

CLOSE_SECONDS = 2.0
"""How long a server may take to end a connection after the client has."""

MOST_BYTES = 1 << 28
"""What one connection may bring: far more than any session asks for, less than fills a machine."""


def id_key(identifier: Any) -> IdKey:
    """The key under which what belongs to an id is kept."""
    return type(identifier), identifier


class BodyStream:
    """A streamed http body, as far as it has come."""

    def __init__(self, request_id: str) -> None:
        self._sequence = Sequence(request_id)

    def add(self, params: Message) -> None:
        """Take a piece in."""
        self._sequence.add(params)

    @property
    def outcome(self) -> Message | None:
        """The body and the error that ended it, once its end has come and nothing is missing."""
        pieces = self._sequence.in_order()
        if not pieces or not self._sequence.is_complete or not pieces[-1]["done"]:
            return None
        body = b"".join(base64.b64decode(piece["deltaBase64"]) for piece in pieces)
        return {"body": text_of(body), "error": pieces[-1]["error"]}


class Timeline:
    """What one connection has brought."""

    def __init__(self, contract: Contract, link: Link, name: str, trace: Trace) -> None:
        self._contract = contract
        self.link = link
        self._name = name
        self._trace = trace
        self._received = 0
        self.pending: dict[IdKey, str | None] = {}
        self.answers: dict[IdKey, Message] = {}
        self.entry_of: dict[IdKey, int] = {}
        self.processes: dict[str, ProcessEvents] = {}
        self.streams: dict[str, BodyStream] = {}
        self.notifications: dict[str, list[Message]] = {}
        self.known: set[str] = set()
        self._restarts: dict[IdKey, tuple[str, ProcessEvents]] = {}
        self.ended = False
        self.failure: Failure | None = None
        self.waiting_for: str | None = None
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    def note(self, data: bytes) -> None:
        """Add a message that is sent to the trace."""
        self._trace.add(self._name, "sent", data)

    async def _read(self) -> None:
        try:
            while self._received <= MOST_BYTES:
                data = await self.link.receive()
                if data is None:
                    break
                self._receive(data)
                await self._notify()
                # Messages that are there already do not suspend; others want their turn, too.
                await asyncio.sleep(0)
        except Failure as failure:
            self.failure = self.failure or failure
        self.ended = True
        await self._notify()

    def _receive(self, data: bytes) -> None:
        entry = self._trace.add(self._name, "received", data)
        try:
            self._take(data, entry)
        except Failure as failure:
            if self.failure is None:
                failure.entry = entry
                self.failure = failure

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _take(self, data: bytes, entry: int) -> None:
        self._received += len(data)
        if self._received > MOST_BYTES:
            raise Failure(f"more than {MOST_BYTES:,} bytes came over one connection")
        try:
            message = json.loads(data)
        except ValueError:
            raise Failure(f"expected a JSON message, got {text_of(data)[:300]!r}") from None
        if not isinstance(message, dict):
            raise Failure(f"expected a JSON object, got {show(message)}")
        if "method" in message:
            self._take_notification(message)
        else:
            self._take_answer(message, entry)

    def _take_answer(self, message: Message, entry: int) -> None:
        key = id_key(message.get("id"))
        if key not in self.pending:
            waiting = ", ".join(json.dumps(one) for _, one in self.pending) or "none"
            raise Failure(
                f"nobody waits for an answer with id {json.dumps(message.get('id'))} (ids that "
                f"wait: {waiting}): {show(message)}"
            )
        method = self.pending.pop(key)
        pointer = "#/$defs/ErrorResponse"
        if "error" not in message and method in self._contract.methods:
            pointer = self._contract.methods[method]["response"]
        self._contract.check(pointer, message, f"the answer to {method or 'bad input'}")
        self.answers[key] = message
        self.entry_of[key] = entry
        if method == "command/exec" and "result" in message:
            self.known.add(message["result"]["sessionId"])
        process_id, events = self._restarts.pop(key, (None, None))
        if process_id is not None and events is not None and "error" in message:
            self.processes[process_id] = events

    def expect_start(self, identifier: Any, process_id: str) -> None:
        """A process/start is about to be sent, perhaps with the id of a closed process.

        Its events begin anew; if the start is refused, those of the closed process stand.
        """
        self.known.add(process_id)
        events = self.processes.get(process_id)
        if events is not None and events.is_over:
            self._restarts[id_key(identifier)] = (process_id, self.processes.pop(process_id))

    def expect_stream(self, request_id: str) -> None:
        """A streamed response is about to be asked for, perhaps with the id of a finished one."""
        stream = self.streams.get(request_id)
        if stream is not None and stream.outcome is not None:
            del self.streams[request_id]

    def _take_notification(self, message: Message) -> None:
        method = message["method"]
        entry = self._contract.methods.get(method) if isinstance(method, str) else None
        if entry is None or "notification" not in entry:
            raise Failure(f"unknown notification: {show(message)}")
        self._contract.check(entry["notification"], message, f"{method}")
        params = message["params"]
        if method == "http/request/bodyDelta":
            name = params["requestId"]
            self.streams.setdefault(name, BodyStream(name)).add(params)
        elif method.startswith("command/exec/"):
            # The server chooses the id: an event may overtake the answer that tells it.
            may_be_starting = "command/exec" in self.pending.values()
            self._events_of(params["sessionId"], message, may_be_starting).add(method, params)
        elif method.startswith("process/") and "seq" in params:
            self._events_of(params["processId"], message).add(method, params)
        else:
            if method == "process/started" and params["processId"] in self.processes:
                raise Failure(f"what the process did came before this: {show(message)}")
            self.notifications.setdefault(method, []).append(params)

    def _events_of(
        self, process_id: str, message: Message, may_be_starting: bool = False
    ) -> ProcessEvents:
        if process_id not in self.known and not may_be_starting:
            raise Failure(f"event of a process that nobody started: {show(message)}")
        if process_id not in self.processes:
            is_numbered = "processId" in message["params"]
            self.processes[process_id] = (
                NumberedEvents(process_id) if is_numbered else UnnumberedEvents(process_id)
            )
        return self.processes[process_id]

    async def wait(self, condition: Any, what: str) -> Any:
        """Wait until the condition holds; raises Failure when it cannot any more."""
        self.waiting_for = what
        async with self._changed:
            while True:
                if self.failure is not None:
                    raise self.failure
                found = condition()
                if found is not None:
                    self.waiting_for = None
                    return found
                if self.ended:
                    raise Silence(
                        f"expected {self.waiting_for}, but the server ended the connection"
                    )
                await self._changed.wait()

    async def close(self) -> None:
        """End the connection and stop reading."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.link.close()
                await asyncio.wait([self._reader])
        self._reader.cancel()
        await asyncio.wait([self._reader])
