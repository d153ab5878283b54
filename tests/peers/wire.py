"""Messages between a client and an exec-server, and the rules they must keep."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

Sender: TypeAlias = Literal["client", "server"]

METHOD_NOT_FOUND = -32601

_NOTIFICATION_MEMBERS: dict[str, dict[str, type]] = {
    "process/output": {"processId": str, "seq": int, "stream": str, "chunk": str},
    "process/exited": {"processId": str, "seq": int, "exitCode": int},
    "process/closed": {"processId": str, "seq": int},
    "http/request/bodyDelta": {"requestId": str, "seq": int, "deltaBase64": str, "done": bool},
    "fs/missingChanged": {"watchId": int},
}
"""Members that a client requires: it drops the connection if one is missing."""

_STREAMS = {"stdout", "stderr", "pty"}


@dataclass(frozen=True, slots=True)
class Record:
    """One message, on the connection with that number (from 0)."""

    connection: int
    sender: Sender
    message: dict[str, Any]


@dataclass(slots=True)
class Wire:
    """The messages of all connections, in the order in which they passed."""

    records: list[Record] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Data that was not a WebSocket frame, or not a JSON object."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    """Notified after each message."""

    def add(self, record: Record) -> None:
        """Record a message and wake the threads that wait for one."""
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    def requests(self, method: str) -> list[dict[str, Any]]:
        """The params of every request of a method, in order."""
        return [
            record.message["params"]
            for record in list(self.records)
            if record.sender == "client" and record.message.get("method") == method
        ]

    def notifications(self, method: str) -> list[dict[str, Any]]:
        """The params of every notification of a method, in order."""
        return [
            record.message["params"]
            for record in list(self.records)
            if record.sender == "server" and record.message.get("method") == method
        ]

    def output(self, process_id: str) -> bytes:
        """The output of a process that was sent in notifications, by seq."""
        chunks = {
            params["seq"]: base64.b64decode(params["chunk"], validate=True)
            for params in self.notifications("process/output")
            if params["processId"] == process_id
        }
        return b"".join(chunks[seq] for seq in sorted(chunks))

    def faults(self) -> list[str]:
        """Every rule that the server broke, in words; empty when it broke none.

        The rules are what released clients depend on: a known method is never answered with
        "method not found", notifications parse, the server sends no requests, and the
        ``seq`` of a process or a response body has no gap: it starts at 1 on the connection that
        started it, and anywhere on one that took it over.
        """
        faults = list(self.violations)
        methods: dict[tuple[int, Any], str] = {}
        seqs: dict[tuple[int, str], list[int]] = defaultdict(list)
        started: set[tuple[int, str]] = set()
        for record in self.records:
            message = record.message
            method = message.get("method")
            if record.sender == "client":
                if method is not None and "id" in message:
                    methods[record.connection, message["id"]] = method
                if method in ("process/start", "http/request"):
                    started.add((record.connection, _subject(message["params"])))
            elif method is None:
                asked = methods.get((record.connection, message.get("id")))
                if asked is None:
                    faults.append(f"an answer to no request: {message}")
                elif message.get("error", {}).get("code") == METHOD_NOT_FOUND:
                    faults.append(f"{asked} is not implemented: {message['error']['message']}")
            elif "id" in message:
                faults.append(f"a request to the client: {message}")
            else:
                params: Any = message.get("params")
                found = _notification_faults(method, params)
                faults += found
                if not found and "seq" in params:
                    seqs[record.connection, _subject(params)].append(params["seq"])
        for (connection, subject), numbers in seqs.items():
            first = 1 if (connection, subject) in started else min(numbers)
            if sorted(numbers) != list(range(first, first + len(numbers))):
                faults.append(f"seq of {subject} is not contiguous: {numbers}")
        return faults


def _subject(params: dict[str, Any]) -> str:
    """Kind of message that a ``seq`` numbers."""
    if "processId" in params:
        return f"process {params['processId']}"
    return f"request {params['requestId']}"


def _notification_faults(method: str, params: Any) -> list[str]:
    members = _NOTIFICATION_MEMBERS.get(method)
    if members is None:
        return [f"an unknown notification: {method}"]
    if not isinstance(params, dict):
        return [f"{method} without params"]
    faults = [
        f"{method} without a usable {name!r}: {params}"
        for name, kind in members.items()
        if type(params.get(name)) is not kind
    ]
    if method == "process/output" and params.get("stream") not in _STREAMS:
        faults.append(f"{method} of an unknown stream: {params.get('stream')}")
    return faults


class Tap:
    """Parses a copy of one direction of a WebSocket connection into messages."""

    def __init__(self, wire: Wire, connection: int, sender: Sender) -> None:
        self._wire = wire
        self._connection = connection
        self._sender: Sender = sender
        self._reader = StreamReader()
        self._passed: list[dict[str, Any]] = []
        self._parser: Iterator[None] = self._parse()
        next(self._parser)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes that passed; return the messages that they complete."""
        self._reader.feed_data(data)
        try:
            next(self._parser)
        except ProtocolError as error:
            self._wire.violations.append(f"the {self._sender} sent no WebSocket frame: {error}")
            self._parser = itertools.repeat(None)
        passed, self._passed = self._passed, []
        return passed

    def _parse(self) -> Generator[None, None, None]:
        while (yield from self._reader.read_line(65536)) != b"\r\n":
            continue
        data = b""
        while True:
            frame = yield from Frame.parse(
                self._reader.read_exact, mask=self._sender == "client", max_size=None
            )
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            data += bytes(frame.data)
            if frame.fin:
                self._take(data)
                data = b""

    def _take(self, data: bytes) -> None:
        try:
            message = json.loads(data)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._wire.violations.append(f"the {self._sender} sent no JSON object: {data[:200]!r}")
            return
        self._wire.add(Record(self._connection, self._sender, message))
        self._passed.append(message)
