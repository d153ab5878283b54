"""Messages received over one connection, checked and sorted as they arrive.

These rules hold in every session without being stated there:

* every message of the server validates against the schema, except for unknown additions;
* every answer belongs to a pending request and arrives once;
* the events of each process follow the rules of ``exec_server_conformance.runner.process_events``;
* no unexpected message arrives.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure, NoResponse, SchemaViolation
from exec_server_conformance.runner.findings import Addition
from exec_server_conformance.runner.patterns import show, text_of
from exec_server_conformance.runner.process_events import (
    NumberedEvents,
    ProcessEvents,
    Sequence,
    UnnumberedEvents,
)

if TYPE_CHECKING:
    from exec_server_conformance.runner.contract import Contract
    from exec_server_conformance.runner.findings import Findings
    from exec_server_conformance.runner.target import Link
    from exec_server_conformance.runner.trace import Trace

Message = dict[str, Any]

IdKey = tuple[type, Any]
"""Request id together with its type, since 1, true and "1" are distinct ids."""

CLOSE_SECONDS = 2.0
"""Time limit for the server to close a connection after the client has."""

MAX_BYTES = 1 << 28
"""Maximum number of bytes received over one connection: beyond any session's need, below memory."""


def id_key(identifier: Any) -> IdKey:
    """Return the dictionary key of a request id."""
    return type(identifier), identifier


class BodyStream:
    """Streamed HTTP response body received so far."""

    def __init__(self, request_id: str) -> None:
        self._sequence = Sequence(request_id)

    def add(self, params: Message) -> None:
        """Add a piece."""
        self._sequence.add(params)

    @property
    def outcome(self) -> Message | None:
        """Body and terminating error; None until the end and all pieces have been received."""
        pieces = self._sequence.in_order()
        if not pieces or not self._sequence.is_complete or not pieces[-1]["done"]:
            return None
        body = b"".join(base64.b64decode(piece["deltaBase64"]) for piece in pieces)
        return {"body": text_of(body), "error": pieces[-1]["error"]}


class ConnectionLog:
    """Messages received over one connection."""

    def __init__(
        self, contract: Contract, link: Link, name: str, trace: Trace, findings: Findings
    ) -> None:
        self._contract = contract
        self.link = link
        self._name = name
        self._trace = trace
        self._findings = findings
        self._received = 0
        self.pending: dict[IdKey, str | None] = {}
        self.answers: dict[IdKey, Message] = {}
        self.trace_index: dict[IdKey, int] = {}
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

    def trace_sent(self, data: bytes) -> None:
        """Add a sent message to the trace."""
        self._trace.add(self._name, "sent", data)

    async def _read(self) -> None:
        try:
            while self._received <= MAX_BYTES:
                data = await self.link.receive()
                if data is None:
                    break
                self._receive(data)
                await self._notify()
                # Receiving buffered messages does not suspend, so yield to other tasks explicitly.
                await asyncio.sleep(0)
        except Failure as failure:
            self.failure = self.failure or failure
        self.ended = True
        await self._notify()

    def _receive(self, data: bytes) -> None:
        entry = self._trace.add(self._name, "received", data)
        try:
            self._process_message(data, entry)
        except Failure as failure:
            if self.failure is None:
                failure.entry = entry
                self.failure = failure

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _process_message(self, data: bytes, entry: int) -> None:
        self._received += len(data)
        if self._received > MAX_BYTES:
            raise Failure(f"more than {MAX_BYTES:,} bytes received over one connection")
        try:
            message = json.loads(data)
        except ValueError:
            raise Failure(f"expected a JSON message, got {text_of(data)[:300]!r}") from None
        if not isinstance(message, dict):
            raise Failure(f"expected a JSON object, got {show(message)}")
        if "method" in message:
            self._process_notification(message)
        else:
            self._process_answer(message, entry)

    def _process_answer(self, message: Message, entry: int) -> None:
        key = id_key(message.get("id"))
        if key not in self.pending:
            waiting = ", ".join(json.dumps(one) for _, one in self.pending) or "none"
            raise Failure(
                f"unexpected answer with id {json.dumps(message.get('id'))} (pending "
                f"ids: {waiting}): {show(message)}"
            )
        method = self.pending.pop(key)
        pointer = "#/$defs/ErrorResponse"
        if "error" not in message and method in self._contract.methods:
            pointer = self._contract.methods[method]["response"]
        what = method or "invalid input"
        self._check(pointer, message, f"the answer to {what}", what)
        self.answers[key] = message
        self.trace_index[key] = entry
        if method == "command/exec" and "result" in message:
            self.known.add(message["result"]["sessionId"])
        process_id, events = self._restarts.pop(key, (None, None))
        if process_id is not None and events is not None and "error" in message:
            self.processes[process_id] = events

    def _check(self, pointer: str, message: Message, what: str, name: str) -> None:
        """Validate a message, unless a known deviation excuses the violation."""
        try:
            self._findings.add(name, self._contract.check(pointer, message, what, name))
        except SchemaViolation as violation:
            if not self._findings.tolerate(violation):
                raise

    def expect_start(self, identifier: Any, process_id: str) -> None:
        """Prepare for the events of a process that is about to be started.

        A process id may be reused after the process has closed. If the start is refused, the events
        of the closed process are restored.
        """
        self.known.add(process_id)
        events = self.processes.get(process_id)
        if events is not None and events.is_over:
            self._restarts[id_key(identifier)] = (process_id, self.processes.pop(process_id))

    def expect_stream(self, request_id: str) -> None:
        """Prepare for a streamed response, whose request id may be that of a finished one."""
        stream = self.streams.get(request_id)
        if stream is not None and stream.outcome is not None:
            del self.streams[request_id]

    def _process_notification(self, message: Message) -> None:
        method = message["method"]
        entry = self._contract.methods.get(method) if isinstance(method, str) else None
        if entry is None or "notification" not in entry:
            if not isinstance(method, str) or "id" in message:
                raise Failure(f"unknown request: {show(message)}")
            self._findings.add(method, [Addition("notification", (), message.get("params"))])
            return
        self._check(entry["notification"], message, method, method)
        params = message["params"]
        if method == "http/request/bodyDelta":
            name = params["requestId"]
            self.streams.setdefault(name, BodyStream(name)).add(params)
        elif method.startswith("command/exec/"):
            # The server chooses the id, and an event may overtake the answer that contains it.
            may_be_starting = "command/exec" in self.pending.values()
            self._events_of(params["sessionId"], message, may_be_starting).add(method, params)
        elif method.startswith("process/") and "seq" in params:
            self._events_of(params["processId"], message).add(method, params)
        else:
            if method == "process/started" and params["processId"] in self.processes:
                raise Failure(f"an event of the process preceded this: {show(message)}")
            self.notifications.setdefault(method, []).append(params)

    def _events_of(
        self, process_id: str, message: Message, may_be_starting: bool = False
    ) -> ProcessEvents:
        if process_id not in self.known and not may_be_starting:
            raise Failure(f"event of an unknown process: {show(message)}")
        if process_id not in self.processes:
            is_numbered = "processId" in message["params"]
            self.processes[process_id] = (
                NumberedEvents(process_id) if is_numbered else UnnumberedEvents(process_id)
            )
        return self.processes[process_id]

    async def wait(self, condition: Any, what: str) -> Any:
        """Wait until ``condition`` returns a value; raise Failure when it no longer can."""
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
                    raise NoResponse(
                        f"expected {self.waiting_for}, but the server closed the connection",
                        what,
                    )
                await self._changed.wait()

    async def close(self) -> None:
        """Close the connection and stop reading."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.link.close()
                await asyncio.wait([self._reader])
        self._reader.cancel()
        await asyncio.wait([self._reader])
