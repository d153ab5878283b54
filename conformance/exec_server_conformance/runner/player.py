"""Playing a session against a server: what the client does, and whether what comes is right.

The same code records: then expectations are not compared, and what comes goes to a recorder.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exec_server_conformance.errors import (
    Death,
    Failure,
    Mismatch,
    Muteness,
    SessionError,
    Silence,
    TargetError,
)
from exec_server_conformance.runner.connection_log import Timeline, id_key
from exec_server_conformance.runner.contract import Contract, contract
from exec_server_conformance.runner.http_origin import Origin
from exec_server_conformance.runner.patterns import (
    in_places,
    match,
    match_streams,
    show,
    text_of,
)
from exec_server_conformance.runner.target import Server, Servers, Target
from exec_server_conformance.runner.trace import Trace

if TYPE_CHECKING:
    from exec_server_conformance.runner.process_events import ProcessEvents
    from exec_server_conformance.runner.session import Session, Step, Transport

MAIN = "main"

_POLL_SECONDS = 0.02

_DEATH_SECONDS = 2.0
"""How long a server that stopped talking may take to show that it lives, or how it died."""

_ALIVE = "still-alive"
"""Id of the question for that."""


Recorder = Callable[["Step", Any, dict[str, str]], None]
"""Told of what came for a step, and of the places: what stands for what varies, to its name."""


class Player:
    """Plays one session over one transport; with a ``recorder`` nothing is compared.

    ``servers`` may have one that has served other sessions; without it a server is started.
    ``also_speaks`` are the revisions that the server speaks besides the session's; ``timeout``
    bounds it in seconds, in place of what the session itself says. ``places`` maps texts that
    stand for what varies to their names, besides those that the player knows itself.
    """

    def __init__(
        self,
        session: Session,
        target: Target,
        transport: Transport,
        *,
        servers: Servers | None = None,
        also_speaks: tuple[str, ...] = (),
        recorder: Recorder | None = None,
        places: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._timeout = timeout or session.timeout_seconds
        self._session = session
        self._contract: Contract = contract(session.revision, also_speaks)
        self._recorder = recorder
        self._server = Server(target, transport)
        self._servers = servers or Servers(target)
        self._shares_servers = servers is not None and transport == "ws"
        self._keeps_server = False
        self._transport = transport
        self._timelines: dict[str, Timeline] = {}
        self._next_id = 1000
        self.trace = Trace()
        self._workspace = Path(tempfile.mkdtemp(prefix="exec-server-conformance-")).resolve()
        self._places = {str(self._workspace): "${workspace}", **(places or {})}
        self._line = 1
        self._has_signalled = False
        self._entry: int | None = None
        self._waiting_for: str | None = None

    async def play(self) -> None:
        """Play it; raises Failure, or TargetError when there is no server to play with."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self._workspace, ignore_errors=True)
            for name, text in self._session.files.items():
                path = self._workspace / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if self._session.makes_requests:
                self._places[stack.enter_context(Origin()).url] = "${http}"
            await self._start_server()
            stack.push_async_callback(self._release_server)
            stack.push_async_callback(self._close_timelines)
            failure = await self._failure()
            if isinstance(failure, Silence):
                failure = await self._breakdown(failure) or failure
            for timeline in await self._close_timelines():
                # What the server did wrong says more than what was missed because of it.
                failure = timeline.failure or failure
            self._keeps_server = failure is None and self._leaves_server_as_new()
        if failure is not None:
            failure.line = self._line
            raise failure

    @property
    def was_first(self) -> bool:
        """Whether the server was started for this session."""
        return not self._server.has_served

    def _leaves_server_as_new(self) -> bool:
        """Whether nothing of this session goes on in the server."""
        return (
            self._shares_servers
            and not self._session.needs_own_server
            and all(
                one.is_over for line in self._timelines.values() for one in line.processes.values()
            )
        )

    async def _release_server(self) -> None:
        if self._keeps_server:
            self._servers.keep(self._server)
        else:
            await self._server.stop()

    async def _start_server(self) -> None:
        session = self._session
        try:
            self._server = await self._servers.take(
                self._transport, self._fill(session.arguments), self._fill(session.environment)
            )
        except TargetError as error:
            if not session.arguments:
                raise
            # The session asks for what this server does not have, or does not call so.
            raise Silence(str(error)) from None

    async def _breakdown(self, failure: Silence) -> Silence | None:
        """What is worse than the silence: the server has died, or answers nothing any more."""
        if any(timeline.ended for timeline in self._timelines.values()):
            if not self._has_signalled and await self._server.exit_status(_DEATH_SECONDS):
                return Death(f"{failure}; the server {await self._server.end()}")
        elif not await self._is_alive():
            return Muteness(f"{failure}; the server does not answer anything any more")
        return None

    async def _is_alive(self) -> bool:
        """Whether the server still answers: anyone over WebSocket, this client over stdio."""
        question = {"id": _ALIVE, "method": "initialize", "params": {"clientName": "suite"}}
        with contextlib.suppress(TimeoutError, TargetError, Failure):
            async with asyncio.timeout(_DEATH_SECONDS):
                if self._transport == "ws":
                    link = await self._server.connect({})
                    try:
                        await link.send(json.dumps(question).encode())
                        return await link.receive() is not None
                    finally:
                        await link.close()
                timeline = next(iter(self._timelines.values()))
                timeline.pending[id_key(_ALIVE)] = "initialize"
                await self._send(timeline, question)
                await self._answer(timeline, _ALIVE, "any answer")
                return True
        return False

    async def _close_timelines(self) -> list[Timeline]:
        timelines = list(self._timelines.values())
        for timeline in timelines:
            await timeline.close()
        return timelines

    async def _failure(self) -> Failure | None:
        """Play the steps; returns what went wrong."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._play_steps()
        except TimeoutError:
            waits = [one.waiting_for for one in self._timelines.values()]
            missed = next(filter(None, [self._waiting_for, *waits]), "the step to end")
            text = f"expected {missed} within {self._timeout:g} s"
            others = (one for line in self._timelines.values() for one in line.answers.values())
            other = next(others, None)
            return Silence(text if other is None else f"{text}; what came instead: {show(other)}")
        except Failure as failure:
            return failure
        return None

    def _where(self) -> str:
        return f"{self._session.path.name}:{self._line}"

    async def _play_steps(self) -> None:
        if not self._session.steps or self._session.steps[0].kind not in ("connect", "http"):
            await self._connect(MAIN, handshake=self._session.handshake)
        for step in self._session.steps:
            self._line = step.line
            self._entry = None
            self._waiting_for = None
            await getattr(self, f"_do_{step.kind}")(step, self._fill(step.members))
        for timeline in self._timelines.values():
            if timeline.failure is not None:
                raise timeline.failure
            if timeline.answers and self._recorder is None:
                key, left = next(iter(timeline.answers.items()))
                failure = Failure(f"an answer that nothing expected: {show(left)}")
                failure.entry = timeline.entry_of[key]
                raise failure
            for method, params in timeline.notifications.items():
                if params:
                    raise Failure(f"{method} that nothing expected: {show(params[0])}")

    def _fill(self, value: Any) -> Any:
        return in_places(value, self._places)

    def _timeline(self, members: dict[str, Any]) -> Timeline:
        name = members.get("on", MAIN)
        if name not in self._timelines:
            raise SessionError(f"{self._where()}: there is no connection {name!r}")
        return self._timelines[name]

    async def _connect(
        self, name: str, *, handshake: bool, headers: dict[str, str] | None = None
    ) -> None:
        try:
            link = await self._server.connect(headers or {})
        except TargetError as error:
            if not self._timelines:
                raise
            raise Silence(str(error)) from None
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
        timeline.note(data)
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
        if method == "http/request" and isinstance(params, dict):
            timeline.expect_stream(str(params.get("requestId")))
        message = {"id": identifier, "method": method}
        if params is not None:
            message["params"] = params
        await self._send(timeline, message)
        return identifier

    async def _answer(self, timeline: Timeline, identifier: Any, what: str) -> dict[str, Any]:
        key = id_key(identifier)
        await timeline.wait(lambda: timeline.answers.get(key), what)
        self._entry = timeline.entry_of.pop(key)
        return timeline.answers.pop(key)

    def _compare(self, step: Step, actual: Any, what: str) -> None:
        if self._recorder is not None:
            self._recorder(step, actual, self._places)
        elif "expect" in step.members:
            self._match(match, self._fill(step.members["expect"]), actual, what)
        else:
            raise SessionError(f"{self._where()}: the step has no expectation; record it first")

    def _match(
        self, compare: Callable[[Any, Any, str], None], expected: Any, actual: Any, what: str
    ) -> None:
        """Compare; a Mismatch names the message that brought the value, or the last before it."""
        try:
            compare(expected, actual, what)
        except Mismatch as mismatch:
            last = self.trace.last_received if self._entry is None else self._entry
            mismatch.entry = last
            raise

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

    async def _do_fragments(self, step: Step, members: dict[str, Any]) -> None:
        parts = [part.encode() for part in members["fragments"]]
        timeline = self._expect_answer_to(members, b"".join(parts))
        await timeline.link.send_fragments(parts)

    async def _do_ping(self, step: Step, members: dict[str, Any]) -> None:
        self._waiting_for = "a pong"
        if not await self._timeline(members).link.ping(members["ping"].encode()):
            raise Silence("expected a pong, but the server ended the connection")

    async def _do_binary(self, step: Step, members: dict[str, Any]) -> None:
        await self._send_raw(members, base64.b64decode(members["binary"]), binary=True)

    async def _send_raw(
        self, members: dict[str, Any], data: bytes, *, binary: bool = False
    ) -> None:
        await self._expect_answer_to(members, data).link.send(data, binary=binary)

    def _expect_answer_to(self, members: dict[str, Any], data: bytes) -> Timeline:
        """Note that text of any kind is sent, which may be answered."""
        timeline = self._timeline(members)
        timeline.note(data)
        timeline.pending.setdefault(id_key(-1), None)
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(data)
            if isinstance(message, dict) and isinstance(message.get("id"), int | str):
                method = message.get("method")
                timeline.pending[id_key(message["id"])] = (
                    method if isinstance(method, str) else None
                )
        return timeline

    async def _do_process(self, step: Step, members: dict[str, Any]) -> None:
        timeline, name = self._timeline(members), members["process"]
        what = f"process {name!r}"

        def outcome() -> dict[str, Any] | None:
            events = timeline.processes.get(name)
            if events is None:
                return None
            if not events.is_complete:
                timeline.waiting_for = f"{events.lacking} of {what}"
                return None
            streams = {key: text_of(data) for key, data in events.output.items()}
            found = {"output": streams, **(events.exit or {})}
            if not events.is_numbered and self._recorder is None:
                # Nothing tells whether more comes, so what is expected must come in time.
                try:
                    compare(found)
                except Failure as failure:
                    timeline.waiting_for = f"{what} to be told of as expected ({failure})"
                    return None
            return found

        def compare(found: dict[str, Any]) -> None:
            self._compare(step, found, what)
            if self._recorder is None:
                expected = self._fill(step.members["expect"])
                streams = expected.get("output", {})
                self._match(match_streams, streams, found["output"], f"{what}.output")

        compare(await timeline.wait(outcome, f"events of {what}"))

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

    async def _do_notification(self, step: Step, members: dict[str, Any]) -> None:
        timeline, method = self._timeline(members), members["notification"]

        def first() -> dict[str, Any] | None:
            waiting = timeline.notifications.get(method)
            return waiting.pop(0) if waiting else None

        self._compare(step, await timeline.wait(first, method), method)

    async def _do_connect(self, step: Step, members: dict[str, Any]) -> None:
        await self._connect(
            members["connect"],
            handshake=members.get("handshake", True),
            headers=members.get("headers"),
        )

    async def _do_disconnect(self, step: Step, members: dict[str, Any]) -> None:
        # What the server still has to say is read until it ends the connection itself.
        await self._timelines[members["disconnect"]].link.close()

    async def _do_ended(self, step: Step, members: dict[str, Any]) -> None:
        timeline = self._timelines[members["ended"]]
        with contextlib.suppress(Failure):
            await timeline.wait(lambda: timeline.ended or None, "the end")
        if timeline.failure is not None:
            raise timeline.failure

    async def _do_pause(self, step: Step, members: dict[str, Any]) -> None:
        await asyncio.sleep(members["pause"])

    async def _do_signal(self, step: Step, members: dict[str, Any]) -> None:
        self._has_signalled = True
        self._server.signal(signal.Signals[f"SIG{members['signal']}"])

    async def _do_exit(self, step: Step, members: dict[str, Any]) -> None:
        self._waiting_for = "the server's process to end"
        self._compare(step, await self._server.wait(), "the exit code of the server")

    async def _do_gone(self, step: Step, members: dict[str, Any]) -> None:
        pid = int(Path(members["gone"]).read_text(encoding="ascii"))
        self._waiting_for = f"process {pid} to be gone"
        while _is_alive(pid):  # noqa: ASYNC110 (the end of another's child can only be polled)
            await asyncio.sleep(_POLL_SECONDS)

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
            raise Silence(f"expected an HTTP answer, got {type(error).__name__}") from None
        finally:
            connection.close()


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
