"""Program that the fake server pretends to run, and its messages in each revision."""

from __future__ import annotations

import base64
from typing import Any

from exec_server_conformance.errors import Failure
from exec_server_conformance.runner.patterns import show

Message = dict[str, Any]


class Process:
    """Process and its events.

    From v1 events are numbered in the order of their creation, and output can be read as soon as it
    has been created, whether or not it has been sent.
    """

    def __init__(self, name: str, params: Message, revision: str) -> None:
        self.name = name
        self.params = params
        """Params of the request that started the process."""
        self._revision = revision
        self._is_numbered = revision != "v0"
        self._names_writes = revision not in ("v0", "v1")
        self._events: list[Message] = []
        self._writes: dict[str, tuple[str, bool]] = {}
        self.input = bytearray()
        """Bytes written to its standard input."""

    def named(self, name: str) -> Process:
        """Return another process with that name."""
        return Process(name, self.params, self._revision)

    # Events

    def output(self, data: bytes, stream: str = "stdout") -> Message:
        """Create an output event; the stream is ``pty`` if the process has a terminal."""
        if self.params.get("tty") and self._is_numbered:
            stream = "pty"
        chunk = base64.b64encode(data).decode()
        return self._event("process/output", "outputDelta", stream=stream, chunk=chunk)

    def end(self, code: int) -> list[Message]:
        """Create the exit event and, from v1, the close event."""
        exited = self.exited(code)
        return [exited, self.closed()] if self._is_numbered else [exited]

    def exited(self, code: int) -> Message:
        """Create the exit event."""
        return self._event("process/exited", "exited", exitCode=code)

    def closed(self) -> Message:
        """Create the close event; not in v0."""
        return self._event("process/closed", "")

    def _event(self, method: str, old_method: str, **members: Any) -> Message:
        if not self._is_numbered:
            params = {"sessionId": self.name, **members}
            return {"method": f"command/exec/{old_method}", "params": params}
        params = {"processId": self.name, "seq": len(self._events) + 1, **members}
        event = {"method": method, "params": params}
        self._events.append(event)
        return event

    # Requests

    def changes_after(self, seq: int) -> bool:
        """Return True if there is an event after ``seq``, or the process is closed."""
        return seq < len(self._events) or self._has("process/closed") is not None

    def read(self, params: Message) -> Message:
        """Build the result of process/read."""
        after, budget = params.get("afterSeq") or 0, params.get("maxBytes")
        chunks: list[Message] = []
        for event in self._events:
            content = event["params"]
            if event["method"] != "process/output" or content["seq"] <= after:
                continue
            if budget is not None:
                budget -= len(base64.b64decode(content["chunk"]))
                if budget < 0 and chunks:
                    break
            chunks.append({name: content[name] for name in ("seq", "stream", "chunk")})
        is_cut = params.get("maxBytes") is not None and bool(chunks)
        exited = self._has("process/exited")
        return {
            "chunks": chunks,
            "nextSeq": chunks[-1]["seq"] + 1 if is_cut else len(self._events) + 1,
            "exited": exited is not None,
            "exitCode": None if exited is None else exited["params"]["exitCode"],
            "closed": self._has("process/closed") is not None,
            "failure": None,
        }

    def _has(self, method: str) -> Message | None:
        return next((event for event in self._events if event["method"] == method), None)

    def write(self, params: Message) -> None:
        """Accept input; raise Failure if its writeId belongs to a different write."""
        if self._names_writes:
            name, chunk = params["writeId"], params["chunk"]
            if name in self._writes:
                self._check_repeated(name, chunk)
                return
            self._writes[name] = chunk, False
        self.input += base64.b64decode(params["chunk"])

    def answered(self, params: Message) -> None:
        """Note that a write is being answered."""
        if self._names_writes:
            self._writes[params["writeId"]] = params["chunk"], True

    def is_answered(self, name: str) -> bool:
        """Return True if the write with this writeId has been answered."""
        return self._writes[name][1]

    def _check_repeated(self, name: str, chunk: str) -> None:
        earlier, was_answered = self._writes[name]
        if chunk != earlier:
            raise Failure(
                f"writeId {show(name)} was given to two writes of different bytes: the server "
                "drops the second; give every write a writeId of its own"
            )
        if was_answered:
            raise Failure(
                f"writeId {show(name)} came again although that write was answered: the server "
                "drops the bytes; give every write a writeId of its own, and repeat one only if "
                "the connection was lost before its answer came"
            )
