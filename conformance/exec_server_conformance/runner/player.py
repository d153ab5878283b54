"""Execution of one session: the client side, and the comparison of what the server sends.

The same code records sessions: in that case nothing is compared, and values go to a recorder.
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
    Failure,
    Mismatch,
    NoResponse,
    ServerCrashed,
    SessionError,
    TargetError,
    Unresponsive,
)
from exec_server_conformance.runner.connection_log import ConnectionLog, id_key
from exec_server_conformance.runner.contract import Contract, contract
from exec_server_conformance.runner.findings import Findings
from exec_server_conformance.runner.http_origin import Origin
from exec_server_conformance.runner.patterns import (
    match,
    match_streams,
    show,
    substitute,
    text_of,
)
from exec_server_conformance.runner.target import Server, Servers, Target
from exec_server_conformance.runner.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.runner.known_deviations import ExpectedFailure
    from exec_server_conformance.runner.process_events import ProcessEvents
    from exec_server_conformance.runner.session import Session, Step, Transport

MAIN = "main"

_POLL_SECONDS = 0.02

_LIVENESS_SECONDS = 2.0
"""Time that an unresponsive server has to answer a liveness check or to exit."""

_LIVENESS_ID = "still-alive"
"""Request id of the liveness check."""


Recorder = Callable[["Step", Any, dict[str, str]], None]
"""Callback that receives the value of a step and the placeholders (actual text → name)."""


Compare = Callable[[Any, Any, str, Callable[[Mismatch], None]], None]
"""Comparison of an expected with an actual value that reports each difference."""


class Player:
    """Runs one session over one transport; with a ``recorder`` nothing is compared.

    ``servers`` is a pool from which a running server may be taken; without it a server is started.
    ``also_speaks`` are the revisions that the server supports besides the session's. ``timeout``
    replaces the session's time limit, in seconds. ``placeholders`` maps variable texts to their
    names, in addition to those that the player defines.
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
        placeholders: dict[str, str] | None = None,
        timeout: float | None = None,
        excused: Sequence[ExpectedFailure] = (),
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
        self._connections: dict[str, ConnectionLog] = {}
        self._next_id = 1000
        self.trace = Trace()
        self.findings = Findings(excused)
        self._workspace = Path(tempfile.mkdtemp(prefix="exec-server-conformance-")).resolve()
        self._placeholders = {str(self._workspace): "${workspace}", **(placeholders or {})}
        self._line = 1
        self._has_signalled = False
        self._entry: int | None = None
        self._waiting_for: str | None = None

    async def play(self) -> None:
        """Run the session; raise Failure, or TargetError if the server is unavailable."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self._workspace, ignore_errors=True)
            for name, text in self._session.files.items():
                path = self._workspace / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if self._session.makes_requests:
                self._placeholders[stack.enter_context(Origin()).url] = "${http}"
            await self._start_server()
            stack.push_async_callback(self._release_server)
            stack.push_async_callback(self._close_connections)
            failure = await self._failure()
            if isinstance(failure, NoResponse):
                failure = await self._diagnose_silence(failure) or failure
            for connection in await self._close_connections():
                # A contract violation explains more than the message that is missing because of it.
                failure = connection.failure or failure
            self._keeps_server = failure is None and self._leaves_server_as_new()
        if failure is not None:
            failure.line = self._line
            raise failure

    @property
    def was_first(self) -> bool:
        """True if the server was started for this session."""
        return not self._server.has_served

    def _leaves_server_as_new(self) -> bool:
        """Return True if no process of this session is running in the server any more."""
        return (
            self._shares_servers
            and not self._session.needs_own_server
            and all(
                one.is_over
                for line in self._connections.values()
                for one in line.processes.values()
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
                self._transport,
                self._substitute(session.arguments),
                self._substitute(session.environment),
            )
        except TargetError as error:
            if not session.arguments:
                raise
            # The server does not support the command-line arguments that the session needs.
            raise NoResponse(str(error)) from None

    async def _diagnose_silence(self, failure: NoResponse) -> NoResponse | None:
        """Return the more severe cause of a missing message: a crash or a hang; None if neither."""
        if any(connection.ended for connection in self._connections.values()):
            if not self._has_signalled and await self._server.exit_status(_LIVENESS_SECONDS):
                return ServerCrashed(
                    f"{failure}; the server {await self._server.end()}", failure.where
                )
        elif not await self._is_alive():
            text = f"{failure}; the server no longer answers any request"
            return Unresponsive(text, failure.where)
        return None

    async def _is_alive(self) -> bool:
        """Return True if the server still answers requests."""
        question = {"id": _LIVENESS_ID, "method": "initialize", "params": {"clientName": "suite"}}
        with contextlib.suppress(TimeoutError, TargetError, Failure):
            async with asyncio.timeout(_LIVENESS_SECONDS):
                if self._transport == "ws":
                    link = await self._server.connect({})
                    try:
                        await link.send(json.dumps(question).encode())
                        return await link.receive() is not None
                    finally:
                        await link.close()
                connection = next(iter(self._connections.values()))
                connection.pending[id_key(_LIVENESS_ID)] = "initialize"
                await self._send(connection, question)
                await self._answer(connection, _LIVENESS_ID, "any answer")
                return True
        return False

    async def _close_connections(self) -> list[ConnectionLog]:
        connections = list(self._connections.values())
        for connection in connections:
            await connection.close()
        return connections

    async def _failure(self) -> Failure | None:
        """Run the steps; return the failure, if any."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._play_steps()
        except TimeoutError:
            waits = [one.waiting_for for one in self._connections.values()]
            missed = next(filter(None, [self._waiting_for, *waits]), "the step to end")
            text = f"expected {missed} within {self._timeout:g} s"
            others = (one for line in self._connections.values() for one in line.answers.values())
            other = next(others, None)
            text = text if other is None else f"{text}; received instead: {show(other)}"
            return NoResponse(text, missed)
        except Failure as failure:
            return failure
        return None

    def _location(self) -> str:
        return f"{self._session.path.name}:{self._line}"

    async def _play_steps(self) -> None:
        if not self._session.steps or self._session.steps[0].kind not in ("connect", "http"):
            await self._connect(MAIN, handshake=self._session.handshake)
        for step in self._session.steps:
            self._line = step.line
            self._entry = None
            self._waiting_for = None
            await getattr(self, f"_do_{step.kind}")(step, self._substitute(step.members))
        for connection in self._connections.values():
            if connection.failure is not None:
                raise connection.failure
            if connection.answers and self._recorder is None:
                key, left = next(iter(connection.answers.items()))
                failure = Failure(f"unexpected answer: {show(left)}")
                failure.entry = connection.trace_index[key]
                raise failure
            for method, params in connection.notifications.items():
                if params:
                    raise Failure(f"unexpected notification {method}: {show(params[0])}")

    def _substitute(self, value: Any) -> Any:
        return substitute(value, self._placeholders)

    def _connection(self, members: dict[str, Any]) -> ConnectionLog:
        name = members.get("on", MAIN)
        if name not in self._connections:
            raise SessionError(f"{self._location()}: unknown connection {name!r}")
        return self._connections[name]

    async def _connect(
        self, name: str, *, handshake: bool, headers: dict[str, str] | None = None
    ) -> None:
        try:
            link = await self._server.connect(headers or {})
        except TargetError as error:
            if not self._connections:
                raise
            raise NoResponse(str(error)) from None
        connection = ConnectionLog(self._contract, link, name, self.trace, self.findings)
        for other in self._connections.values():
            connection.known |= other.known
        self._connections[name] = connection
        if handshake:
            identifier = await self._send_call(connection, "initialize", {"clientName": "suite"})
            answer = await self._answer(connection, identifier, "an answer to initialize")
            if "result" not in answer:
                raise Failure(f"initialize failed: {show(answer)}")
            session_id = answer["result"].get("sessionId")
            if session_id is not None:
                self._placeholders[session_id] = (
                    "${session}" if name == MAIN else f"${{session:{name}}}"
                )
            await self._send(connection, {"method": "initialized", "params": {}})

    async def _send(self, connection: ConnectionLog, message: dict[str, Any]) -> None:
        data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        connection.trace_sent(data)
        await connection.link.send(data)

    async def _send_call(
        self, connection: ConnectionLog, method: str, params: Any, identifier: Any = None
    ) -> Any:
        if identifier is None:
            self._next_id += 1
            identifier = self._next_id
        connection.pending[id_key(identifier)] = method
        if method == "process/start" and isinstance(params, dict):
            connection.expect_start(identifier, str(params.get("processId")))
        if method == "http/request" and isinstance(params, dict):
            connection.expect_stream(str(params.get("requestId")))
        message = {"id": identifier, "method": method}
        if params is not None:
            message["params"] = params
        await self._send(connection, message)
        return identifier

    async def _answer(
        self, connection: ConnectionLog, identifier: Any, what: str
    ) -> dict[str, Any]:
        key = id_key(identifier)
        await connection.wait(lambda: connection.answers.get(key), what)
        self._entry = connection.trace_index.pop(key)
        return connection.answers.pop(key)

    def _compare(self, step: Step, actual: Any, what: str) -> None:
        if self._recorder is not None:
            self._recorder(step, actual, self._placeholders)
        elif "expect" in step.members:
            self._match(match, self._substitute(step.members["expect"]), actual, what)
        else:
            raise SessionError(
                f"{self._location()}: the step has no expectation; record the scenario first"
            )

    def _match(self, compare: Compare, expected: Any, actual: Any, what: str) -> None:
        """Compare values; raise a Mismatch that no known deviation excuses."""

        def report(mismatch: Mismatch) -> None:
            # The message that contained the value, or the last one before it.
            mismatch.entry = self.trace.last_received if self._entry is None else self._entry
            mismatch.line = self._line
            if not self.findings.tolerate(mismatch):
                raise mismatch

        compare(expected, actual, what, report)

    # Steps

    async def _do_call(self, step: Step, members: dict[str, Any]) -> None:
        connection = self._connection(members)
        method = members["call"]
        identifier = await self._send_call(
            connection, method, members.get("params"), members.get("id")
        )
        if members.get("wait", True):
            answer = await self._answer(connection, identifier, f"an answer to {method}")
            del answer["id"]
            self._compare(step, answer, method)

    async def _do_answer(self, step: Step, members: dict[str, Any]) -> None:
        connection = self._connection(members)
        identifier = members["answer"]
        answer = await self._answer(connection, identifier, f"an answer with id {identifier!r}")
        del answer["id"]
        self._compare(step, answer, f"answer {identifier!r}")

    async def _do_notify(self, step: Step, members: dict[str, Any]) -> None:
        message = {"method": members["notify"]}
        if "params" in members:
            message["params"] = members["params"]
        await self._send(self._connection(members), message)

    async def _do_text(self, step: Step, members: dict[str, Any]) -> None:
        await self._send_raw(members, members["text"].encode("utf-8", "surrogatepass"))

    async def _do_fragments(self, step: Step, members: dict[str, Any]) -> None:
        parts = [part.encode() for part in members["fragments"]]
        connection = self._expect_answer_to(members, b"".join(parts))
        await connection.link.send_fragments(parts)

    async def _do_ping(self, step: Step, members: dict[str, Any]) -> None:
        self._waiting_for = "a pong"
        if not await self._connection(members).link.ping(members["ping"].encode()):
            raise NoResponse("expected a pong, but the server closed the connection", "a pong")

    async def _do_binary(self, step: Step, members: dict[str, Any]) -> None:
        await self._send_raw(members, base64.b64decode(members["binary"]), binary=True)

    async def _send_raw(
        self, members: dict[str, Any], data: bytes, *, binary: bool = False
    ) -> None:
        await self._expect_answer_to(members, data).link.send(data, binary=binary)

    def _expect_answer_to(self, members: dict[str, Any], data: bytes) -> ConnectionLog:
        """Register the expected answer to a raw message, which may or may not be valid JSON."""
        connection = self._connection(members)
        connection.trace_sent(data)
        connection.pending.setdefault(id_key(-1), None)
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(data)
            if isinstance(message, dict) and isinstance(message.get("id"), int | str):
                method = message.get("method")
                connection.pending[id_key(message["id"])] = (
                    method if isinstance(method, str) else None
                )
        return connection

    async def _do_process(self, step: Step, members: dict[str, Any]) -> None:
        connection, name = self._connection(members), members["process"]
        what = f"process {name!r}"

        def outcome() -> dict[str, Any] | None:
            events = connection.processes.get(name)
            if events is None:
                return None
            if not events.is_complete:
                connection.waiting_for = f"{events.missing_description} of {what}"
                return None
            streams = {key: text_of(data) for key, data in events.output.items()}
            found = {"output": streams, **(events.exit or {})}
            if not events.is_numbered and self._recorder is None:
                # v0 output has no end marker, so the expected output is awaited.
                try:
                    compare(found)
                except Failure as failure:
                    connection.waiting_for = f"{what} to produce the expected events ({failure})"
                    return None
            return found

        def compare(found: dict[str, Any]) -> None:
            self._compare(step, found, what)
            if self._recorder is None:
                expected = self._substitute(step.members["expect"])
                streams = expected.get("output", {})
                self._match(match_streams, streams, found["output"], f"{what}.output")

        compare(await connection.wait(outcome, f"events of {what}"))

    async def _do_until(self, step: Step, members: dict[str, Any]) -> None:
        connection, name = self._connection(members), members["until"]

        def has(condition: Callable[[ProcessEvents], bool]) -> bool | None:
            events = connection.processes.get(name)
            return True if events is not None and condition(events) else None

        if "event" in members:
            event = members["event"]
            await connection.wait(lambda: has(lambda one: one.has(event)), f"{event} of {name!r}")
            return
        text = members.get("output", "")
        await connection.wait(
            lambda: has(lambda one: any(text.encode() in data for data in one.output.values())),
            f"output {text!r} of process {name!r}",
        )

    async def _do_stream(self, step: Step, members: dict[str, Any]) -> None:
        connection, name = self._connection(members), members["stream"]

        def outcome() -> dict[str, Any] | None:
            stream = connection.streams.get(name)
            return None if stream is None else stream.outcome

        found = await connection.wait(outcome, f"the complete body of {name!r}")
        self._compare(step, found, f"stream {name!r}")

    async def _do_notification(self, step: Step, members: dict[str, Any]) -> None:
        connection, method = self._connection(members), members["notification"]

        def first() -> dict[str, Any] | None:
            waiting = connection.notifications.get(method)
            return waiting.pop(0) if waiting else None

        self._compare(step, await connection.wait(first, method), method)

    async def _do_connect(self, step: Step, members: dict[str, Any]) -> None:
        await self._connect(
            members["connect"],
            handshake=members.get("handshake", True),
            headers=members.get("headers"),
        )

    async def _do_disconnect(self, step: Step, members: dict[str, Any]) -> None:
        # Reading continues until the server closes the connection.
        await self._connections[members["disconnect"]].link.close()

    async def _do_ended(self, step: Step, members: dict[str, Any]) -> None:
        connection = self._connections[members["ended"]]
        with contextlib.suppress(Failure):
            await connection.wait(lambda: connection.ended or None, "the end")
        if connection.failure is not None:
            raise connection.failure

    async def _do_pause(self, step: Step, members: dict[str, Any]) -> None:
        await asyncio.sleep(members["pause"])

    async def _do_signal(self, step: Step, members: dict[str, Any]) -> None:
        self._has_signalled = True
        self._server.signal(signal.Signals[f"SIG{members['signal']}"])

    async def _do_exit(self, step: Step, members: dict[str, Any]) -> None:
        self._waiting_for = "the server process to exit"
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
            raise NoResponse(f"expected an HTTP answer, got {type(error).__name__}") from None
        finally:
            connection.close()


def _is_alive(pid: int) -> bool:
    """Return True if a process is running; zombies do not count."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
