"""Playing a session against a server: what the client does, and whether what comes is right.

The same code records: then expectations are not compared but made.

What holds for every session without being written in it:

* every message of the server validates against the protocol's schema;
* every answer belongs to a request that waits for one, and comes once;
* the events of a process are numbered 1, 2, 3, … without a gap; ``exited`` and ``closed`` come
  once each, ``closed`` with the highest number and nothing after it;
* nothing comes that nobody expected.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jsonschema

import exec_server_protocol
from exec_server_conformance.errors import Failure, SessionError
from exec_server_conformance.patterns import generalise, match, show, text_of
from exec_server_conformance.target import Server, Target

if TYPE_CHECKING:
    from exec_server_conformance.session import Session, Step, Transport
    from exec_server_conformance.target import Link

MAIN = "main"


@cache
def _bundle(revision: str) -> dict[str, Any]:
    path = Path(exec_server_protocol.__file__).with_name(revision) / "schema.json"
    bundle: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return bundle


@cache
def _validator(revision: str, pointer: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$defs": _bundle(revision)["$defs"], "$ref": pointer})


def check_message(revision: str, pointer: str, message: object, what: str) -> None:
    """Raise Failure unless a message validates against a definition of the protocol."""
    error = jsonschema.exceptions.best_match(_validator(revision, pointer).iter_errors(message))
    if error is not None:
        raise Failure(f"{what} breaks the schema at {error.json_path}: {error.message[:300]}")


class Timeline:
    """What one connection has brought, sorted, and checked as it comes."""

    def __init__(self, revision: str, link: Link, name: str, trace: list[str]) -> None:
        self._revision = revision
        self._methods = _bundle(revision)["x-methods"]
        self.link = link
        self._name = name
        self._trace = trace
        self._begin = time.monotonic()
        self.pending: dict[tuple[type, Any], str | None] = {}
        self.answers: dict[tuple[type, Any], dict[str, Any]] = {}
        self.processes: dict[str, dict[int, dict[str, Any]]] = {}
        self.streams: dict[str, dict[int, dict[str, Any]]] = {}
        self.known: set[str] = set()
        self._starts: dict[tuple[type, Any], tuple[str, dict[int, dict[str, Any]]]] = {}
        self.ended = False
        self.failure: Failure | None = None
        self.waiting_for: str | None = None
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    def note(self, arrow: str, data: bytes) -> None:
        """Add to the trace."""
        text = data.decode("utf-8", "replace")
        text = text if len(text) <= 500 else f"{text[:500]}… ({len(text)} characters)"
        self._trace.append(f"{time.monotonic() - self._begin:8.3f} {self._name} {arrow} {text}")

    async def _read(self) -> None:
        while (data := await self.link.receive()) is not None:
            self.note("<-", data)
            try:
                self._take(data)
            except Failure as failure:
                self.failure = self.failure or failure
            async with self._changed:
                self._changed.notify_all()
        self.ended = True
        async with self._changed:
            self._changed.notify_all()

    def _take(self, data: bytes) -> None:
        try:
            message = json.loads(data)
        except ValueError:
            raise Failure(f"expected a JSON message, got {text_of(data)[:300]!r}") from None
        if not isinstance(message, dict):
            raise Failure(f"expected a JSON object, got {show(message)}")
        if "method" in message:
            self._take_notification(message)
            return
        key = (type(message.get("id")), message.get("id"))
        if key not in self.pending:
            raise Failure(f"nobody waits for this answer: {show(message)}")
        method = self.pending.pop(key)
        pointer = "#/$defs/ErrorResponse"
        if "error" not in message and method in self._methods:
            pointer = self._methods[method]["response"]
        check_message(self._revision, pointer, message, f"the answer to {method or 'bad input'}")
        self.answers[key] = message
        started = self._starts.pop(key, None)
        if started is not None and "error" in message:
            self.processes[started[0]] = started[1]

    def expect_start(self, identifier: Any, process_id: str) -> None:
        """A process/start is about to be sent, perhaps with the id of a closed process.

        Its events begin anew; if the start is refused, those of the closed process stand.
        """
        self.known.add(process_id)
        if self.seen(process_id, "process/closed") is not None:
            events = self.processes.pop(process_id)
            self._starts[type(identifier), identifier] = (process_id, events)

    def _take_notification(self, message: dict[str, Any]) -> None:
        method = message["method"]
        entry = self._methods.get(method) if isinstance(method, str) else None
        if entry is None or "notification" not in entry:
            raise Failure(f"unknown notification: {show(message)}")
        check_message(self._revision, entry["notification"], message, f"{method}")
        params = message["params"]
        if method == "http/request/bodyDelta":
            self._insert(self.streams, params["requestId"], params["seq"], message)
            return
        process_id = params["processId"]
        if process_id not in self.known:
            raise Failure(f"event of a process that nobody started: {show(message)}")
        events = self.processes.setdefault(process_id, {})
        for other in events.values():
            if other["method"] == method != "process/output":
                raise Failure(f"second {method} of process {process_id!r}")
        self._insert(self.processes, process_id, params["seq"], message)
        closed = max(
            (seq for seq, event in events.items() if event["method"] == "process/closed"),
            default=None,
        )
        if closed is not None and max(events) > closed:
            raise Failure(
                f"event {max(events)} of process {process_id!r} is numbered after its close"
            )

    def _insert(
        self,
        table: dict[str, dict[int, dict[str, Any]]],
        name: str,
        seq: int,
        message: dict[str, Any],
    ) -> None:
        events = table.setdefault(name, {})
        if seq < 1:
            raise Failure(f"seq {seq} of {name!r}: numbers start from 1")
        if seq in events:
            raise Failure(f"seq {seq} of {name!r} came twice")
        events[seq] = message

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
                    raise Failure(f"expected {what}, but the server ended the connection")
                await self._changed.wait()

    def output(self, process_id: str) -> dict[str, bytes]:
        """The output of a process so far, joined per stream."""
        streams: dict[str, bytes] = {}
        events = self.processes.get(process_id, {})
        for seq in sorted(events):
            params = events[seq]["params"]
            if events[seq]["method"] == "process/output":
                data = base64.b64decode(params["chunk"])
                streams[params["stream"]] = streams.get(params["stream"], b"") + data
        return streams

    def seen(self, process_id: str, method: str) -> dict[str, Any] | None:
        """The params of an event of a process, if it has come."""
        for event in self.processes.get(process_id, {}).values():
            if event["method"] == method:
                params: dict[str, Any] = event["params"]
                return params
        return None

    def complete(self, table: dict[int, dict[str, Any]]) -> bool:
        """Whether the numbers run from 1 without a gap."""
        return sorted(table) == list(range(1, len(table) + 1))

    async def close(self) -> None:
        """End the connection and stop reading."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.link.close()
                await self._reader
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader


class Player:
    """Plays one session over one transport; with ``recording`` it fills in the expectations."""

    def __init__(
        self, session: Session, target: Target, transport: Transport, *, recording: bool = False
    ) -> None:
        self._session = session
        self._revision = session.name.partition("/")[0]
        self._transport = transport
        self._recording = recording
        self._server = Server(target, transport)
        self._timelines: dict[str, Timeline] = {}
        self._next_id = 1000
        self.trace: list[str] = []
        self._workspace = Path(tempfile.mkdtemp(prefix="exec-server-conformance-")).resolve()
        self._places = {str(self._workspace): "${workspace}"}
        self._line = 1

    async def play(self) -> None:
        """Play it; raises Failure, or TargetError when there is no server to play with."""
        try:
            for name, text in self._session.files.items():
                path = self._workspace / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            await self._server.start({})
            try:
                async with asyncio.timeout(self._session.timeout_seconds):
                    await self._play_steps()
            except TimeoutError:
                waits = [one.waiting_for for one in self._timelines.values() if one.waiting_for]
                raise Failure(
                    f"{self._where()}: expected {waits[0] if waits else 'the step to end'} within "
                    f"{self._session.timeout_seconds:g} s"
                ) from None
            except Failure as failure:
                raise Failure(f"{self._where()}: {failure}") from None
        finally:
            for timeline in self._timelines.values():
                await timeline.close()
            await self._server.stop()
            shutil.rmtree(self._workspace, ignore_errors=True)

    def _where(self) -> str:
        return f"{self._session.path.name}:{self._line}"

    async def _play_steps(self) -> None:
        if not self._session.steps or self._session.steps[0].kind != "connect":
            await self._connect(MAIN, handshake=self._session.handshake)
        for step in self._session.steps:
            self._line = step.line
            await getattr(self, f"_do_{step.kind}")(step, self._fill(step.members))
        for timeline in self._timelines.values():
            if timeline.failure is not None:
                raise timeline.failure
            if timeline.answers and not self._recording:
                left = next(iter(timeline.answers.values()))
                raise Failure(f"an answer that nothing expected: {show(left)}")

    def _fill(self, value: Any) -> Any:
        if isinstance(value, str):
            for text, place in self._places.items():
                value = value.replace(place, text)
            return value
        if isinstance(value, list):
            return [self._fill(one) for one in value]
        if isinstance(value, dict):
            return {self._fill(name): self._fill(one) for name, one in value.items()}
        return value

    def _timeline(self, members: dict[str, Any]) -> Timeline:
        name = members.get("on", MAIN)
        if name not in self._timelines:
            raise SessionError(f"{self._where()}: there is no connection {name!r}")
        return self._timelines[name]

    async def _connect(self, name: str, *, handshake: bool) -> None:
        link = await self._server.connect()
        timeline = Timeline(self._revision, link, name, self.trace)
        for other in self._timelines.values():
            timeline.known |= other.known
        self._timelines[name] = timeline
        if handshake:
            identifier = await self._send_call(timeline, "initialize", {"clientName": "suite"})
            answer = await self._answer(timeline, identifier, "an answer to initialize")
            if "result" not in answer:
                raise Failure(f"initialize failed: {show(answer)}")
            session_id = answer["result"]["sessionId"]
            self._places[session_id] = "${session}" if name == MAIN else f"${{session:{name}}}"
            await self._send(timeline, {"method": "initialized", "params": {}})

    async def _send(self, timeline: Timeline, message: dict[str, Any]) -> None:
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        timeline.note("->", data)
        await timeline.link.send(data)

    async def _send_call(
        self, timeline: Timeline, method: str, params: Any, identifier: Any = None
    ) -> Any:
        if identifier is None:
            self._next_id += 1
            identifier = self._next_id
        timeline.pending[type(identifier), identifier] = method
        if method == "process/start" and isinstance(params, dict):
            timeline.expect_start(identifier, str(params.get("processId")))
        message = {"id": identifier, "method": method}
        if params is not None:
            message["params"] = params
        await self._send(timeline, message)
        return identifier

    async def _answer(self, timeline: Timeline, identifier: Any, what: str) -> dict[str, Any]:
        key = (type(identifier), identifier)
        await timeline.wait(lambda: timeline.answers.get(key), what)
        return timeline.answers.pop(key)

    def _compare(self, step: Step, actual: Any, what: str) -> None:
        if self._recording:
            if "overrides" not in step.members:
                step.members["expect"] = generalise(actual, self._places)
        elif "expect" in step.members:
            match(self._fill(step.members["expect"]), actual, what)
        else:
            raise SessionError(f"{self._where()}: the step has no expectation; record it first")

    # Steps

    async def _do_call(self, step: Step, members: dict[str, Any]) -> None:
        timeline = self._timeline(members)
        method = members["call"]
        identifier = await self._send_call(
            timeline, method, members.get("params"), members.get("id")
        )
        if members.get("wait", True):
            answer = await self._answer(timeline, identifier, f"an answer to {method}")
            del answer["id"]
            self._compare(step, answer, method)

    async def _do_answer(self, step: Step, members: dict[str, Any]) -> None:
        timeline = self._timeline(members)
        identifier = members["answer"]
        answer = await self._answer(timeline, identifier, f"an answer with id {identifier!r}")
        del answer["id"]
        self._compare(step, answer, f"answer {identifier!r}")

    async def _do_notify(self, step: Step, members: dict[str, Any]) -> None:
        message = {"method": members["notify"]}
        if "params" in members:
            message["params"] = members["params"]
        await self._send(self._timeline(members), message)

    async def _do_text(self, step: Step, members: dict[str, Any]) -> None:
        await self._send_raw(members, members["text"].encode("utf-8", "surrogatepass"))

    async def _do_binary(self, step: Step, members: dict[str, Any]) -> None:
        await self._send_raw(members, base64.b64decode(members["binary"]), binary=True)

    async def _send_raw(
        self, members: dict[str, Any], data: bytes, *, binary: bool = False
    ) -> None:
        timeline = self._timeline(members)
        timeline.note("->", data)
        timeline.pending.setdefault((int, -1), None)
        with contextlib.suppress(ValueError):
            message = json.loads(data)
            if isinstance(message, dict) and isinstance(message.get("id"), int | str):
                method = message.get("method")
                key = (type(message["id"]), message["id"])
                timeline.pending[key] = method if isinstance(method, str) else None
        await timeline.link.send(data, binary=binary)

    async def _do_process(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["process"]

        def outcome() -> dict[str, Any] | None:
            events = timeline.processes.get(name, {})
            exited = timeline.seen(name, "process/exited")
            if timeline.seen(name, "process/closed") is None or not timeline.complete(events):
                return None
            if exited is None:
                raise Failure(f"process {name!r} closed without an exit")
            streams = {key: text_of(data) for key, data in timeline.output(name).items()}
            return {"output": streams, "exitCode": exited["exitCode"]}

        found = await timeline.wait(outcome, f"process {name!r} to exit and close without a gap")
        self._compare(step, found, f"process {name!r}")

    async def _do_until(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["until"]
        if "event" in members:
            await timeline.wait(
                lambda: timeline.seen(name, members["event"]), f"{members['event']} of {name!r}"
            )
            return
        wanted = members.get("output", "").encode()
        await timeline.wait(
            lambda: (
                True if any(wanted in data for data in timeline.output(name).values()) else None
            ),
            f"output {members.get('output', '')!r} of process {name!r}",
        )

    async def _do_stream(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["stream"]

        def outcome() -> dict[str, Any] | None:
            deltas = timeline.streams.get(name, {})
            if not deltas or not timeline.complete(deltas):
                return None
            last = deltas[max(deltas)]["params"]
            if not last["done"]:
                return None
            body = b"".join(
                base64.b64decode(deltas[seq]["params"]["deltaBase64"]) for seq in sorted(deltas)
            )
            return {"body": text_of(body), "error": last["error"]}

        found = await timeline.wait(outcome, f"the body of {name!r} to end without a gap")
        self._compare(step, found, f"stream {name!r}")

    async def _do_connect(self, step: Step, members: dict[str, Any]) -> None:
        await self._connect(members["connect"], handshake=members.get("handshake", True))

    async def _do_disconnect(self, step: Step, members: dict[str, Any]) -> None:
        await self._timelines[members["disconnect"]].close()

    async def _do_ended(self, step: Step, members: dict[str, Any]) -> None:
        timeline = self._timelines[members["ended"]]
        with contextlib.suppress(Failure):
            await timeline.wait(lambda: timeline.ended or None, "the end")
        if timeline.failure is not None:
            raise timeline.failure

    async def _do_pause(self, step: Step, members: dict[str, Any]) -> None:
        await asyncio.sleep(members["pause"])

    async def _do_http(self, step: Step, members: dict[str, Any]) -> None:
        status = await asyncio.to_thread(self._http_status, members["http"])
        self._compare(step, {"status": status}, "http")

    def _http_status(self, request: dict[str, Any]) -> int:
        parts = urlsplit(self._server.url or "")
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request(
                request.get("method", "GET"), request["path"], headers=request.get("headers", {})
            )
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"expected an HTTP answer, got {type(error).__name__}") from None
        finally:
            connection.close()
