"""Playing a session against a server: what the client does, and whether what comes is right.

The same code records: then expectations are not compared but made.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exec_server_conformance.contract import Contract, contract
from exec_server_conformance.errors import Failure, SessionError
from exec_server_conformance.patterns import generalise, match, show, text_of
from exec_server_conformance.target import Server, Target
from exec_server_conformance.timeline import Timeline, id_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server_conformance.events import ProcessEvents
    from exec_server_conformance.session import Session, Step, Transport

MAIN = "main"


class Player:
    """Plays one session over one transport; with ``recording`` it fills in the expectations.

    ``also_speaks`` are the revisions that the server speaks besides the session's.
    """

    def __init__(
        self,
        session: Session,
        target: Target,
        transport: Transport,
        *,
        also_speaks: tuple[str, ...] = (),
        recording: bool = False,
    ) -> None:
        self._session = session
        self._contract: Contract = contract(session.revision, also_speaks)
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
            failure = await self._failure()
            for timeline in self._timelines.values():
                await timeline.close()
                # What the server did wrong says more than what was missed because of it.
                failure = timeline.failure or failure
            if failure is not None:
                raise Failure(f"{self._where()}: {failure}")
        finally:
            for timeline in self._timelines.values():
                await timeline.close()
            await self._server.stop()
            shutil.rmtree(self._workspace, ignore_errors=True)

    async def _failure(self) -> Failure | None:
        """Play the steps; returns what went wrong."""
        try:
            async with asyncio.timeout(self._session.timeout_seconds):
                await self._play_steps()
        except TimeoutError:
            waits = [one.waiting_for for one in self._timelines.values() if one.waiting_for]
            return Failure(
                f"expected {waits[0] if waits else 'the step to end'} within "
                f"{self._session.timeout_seconds:g} s"
            )
        except Failure as failure:
            return failure
        return None

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
        timeline = Timeline(self._contract, link, name, self.trace)
        for other in self._timelines.values():
            timeline.known |= other.known
        self._timelines[name] = timeline
        if handshake:
            identifier = await self._send_call(timeline, "initialize", {"clientName": "suite"})
            answer = await self._answer(timeline, identifier, "an answer to initialize")
            if "result" not in answer:
                raise Failure(f"initialize failed: {show(answer)}")
            session_id = answer["result"].get("sessionId")
            if session_id is not None:
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
        timeline.pending[id_key(identifier)] = method
        if method == "process/start" and isinstance(params, dict):
            timeline.expect_start(identifier, str(params.get("processId")))
        message = {"id": identifier, "method": method}
        if params is not None:
            message["params"] = params
        await self._send(timeline, message)
        return identifier

    async def _answer(self, timeline: Timeline, identifier: Any, what: str) -> dict[str, Any]:
        key = id_key(identifier)
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
        timeline.pending.setdefault(id_key(-1), None)
        with contextlib.suppress(ValueError):
            message = json.loads(data)
            if isinstance(message, dict) and isinstance(message.get("id"), int | str):
                method = message.get("method")
                timeline.pending[id_key(message["id"])] = (
                    method if isinstance(method, str) else None
                )
        await timeline.link.send(data, binary=binary)

    async def _do_process(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["process"]
        what = f"process {name!r}"

        def outcome() -> dict[str, Any] | None:
            events = timeline.processes.get(name)
            if events is None or not events.is_complete:
                return None
            streams = {key: text_of(data) for key, data in events.output.items()}
            found = {"output": streams, **(events.exit or {})}
            if not events.is_numbered and not self._recording:
                try:
                    match(members.get("expect"), found, what)
                except Failure as failure:
                    timeline.waiting_for = f"the rest of its output ({failure})"
                    return None
            return found

        found = await timeline.wait(outcome, f"{what} to exit and close without a gap")
        self._compare(step, found, what)

    async def _do_until(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["until"]

        def has(condition: Callable[[ProcessEvents], bool]) -> bool | None:
            events = timeline.processes.get(name)
            return True if events is not None and condition(events) else None

        if "event" in members:
            event = members["event"]
            await timeline.wait(lambda: has(lambda one: one.has(event)), f"{event} of {name!r}")
            return
        text = members.get("output", "")
        await timeline.wait(
            lambda: has(lambda one: any(text.encode() in data for data in one.output.values())),
            f"output {text!r} of process {name!r}",
        )

    async def _do_stream(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["stream"]

        def outcome() -> dict[str, Any] | None:
            stream = timeline.streams.get(name)
            return None if stream is None else stream.outcome

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
