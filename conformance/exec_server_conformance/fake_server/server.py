"""Fake server for one client, controlled by a case.

By default it behaves correctly and runs one program. A case decides what the program does, and may
delay or malform messages, send unknown ones, or cut the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

from exec_server_conformance.errors import Failure, Mismatch, NoResponse, SessionError
from exec_server_conformance.fake_server.client_program import Program
from exec_server_conformance.fake_server.client_validator import ClientValidator
from exec_server_conformance.fake_server.endpoints import Endpoint
from exec_server_conformance.fake_server.process import Process
from exec_server_conformance.runner.connection_log import id_key
from exec_server_conformance.runner.contract import contract
from exec_server_conformance.runner.patterns import match, show, text_of
from exec_server_conformance.runner.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exec_server_conformance.fake_server.client_program import ClientCommand
    from exec_server_conformance.runner.target import Link

Message = dict[str, Any]

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
NOT_FOUND: Final = -32004

START_METHODS: Final = {"v0": "command/exec"}
"""Method that starts a process, where it is not process/start."""

MAX_OPEN_REQUESTS: Final = 1000
"""Maximum number of requests that may wait for an answer."""

DRAIN_SECONDS: Final = 2.0
"""Time limit for reading what a client sent before its exit."""

_SHELL: Final = {"name": "sh", "path": "/bin/sh"}


class NotApplicable(Exception):
    """The client does not use the feature that the case is about, and need not."""


class FakeConnection:
    """Connection of the client."""

    def __init__(self, server: FakeServer, link: Link, name: str) -> None:
        self._server = server
        self.link = link
        self.name = name
        self.validator = ClientValidator(server.contract)
        self.session_id: str | None = None
        """Session that the connection is attached to."""

    async def answer(self, request: Message, answer: Message) -> None:
        """Answer a request with a result or an error."""
        self.validator.answered(request, is_success="result" in answer)
        await self._server.send(self, {"id": request["id"], **answer}, request["method"])


class FakeServer:
    """Server for one case and one client; a context manager that cleans up on exit."""

    def __init__(
        self, revision: str, command: ClientCommand, text: bytes | None, *, checks_output: bool
    ) -> None:
        self.revision = revision
        self.contract = contract(revision)
        self.transport = command.transport
        self.trace = Trace()
        self.waiting_for = "the case to end"
        self.process: Process | None = None
        self.session_id = str(uuid.uuid4())
        self.program: Program | None = None

        self.delays: dict[str, float] = {}
        """Delay of answers in seconds, by method."""
        self.handlers: dict[str, Callable[[FakeConnection, Message], Awaitable[None]]] = {}
        """Replacement for the default answer, by method."""
        self.adds_members = False
        """Add unknown members to every message."""
        self.sends_unknown_notifications = False
        """Send an unknown notification before every message."""
        self.writes_unusual_json = False
        """Send messages with white space, escapes and an unusual member order."""
        self.fragments = False
        """Split every message into several frames."""

        self._command = command
        self._text = text
        self._checks_output = checks_output
        self._connections: list[FakeConnection] = []
        self._attached: FakeConnection | None = None
        self._starter: FakeConnection | None = None
        self._resume_count = 0
        self._last = "nothing"
        self._failure: BaseException | None = None
        self._has_ended = False
        self._changed = asyncio.Event()
        self._exits = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: set[asyncio.Task[None]] = set()

    @property
    def missed(self) -> str:
        """The awaited event, and the latest message of the client."""
        return f"{self.waiting_for}; the latest message of the client is {self._last}"

    @property
    def start_method(self) -> str:
        """Method that starts a process."""
        return START_METHODS.get(self.revision, "process/start")

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            endpoint = await exits.enter_async_context(Endpoint(self, self.transport))
            self.program = await Program.start(self._command.argv(endpoint.address), self._text)
            exits.push_async_callback(self.program.stop)
            exits.push_async_callback(self._close_connections)
            self._spawn(self._await_end(self.program), self._tasks)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _close_connections(self) -> None:
        tasks = [*self._tasks, *self._readers]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in self._connections:
            connection.link.cut()

    # Connections

    async def serve(self, link: Link) -> None:
        """Serve a connection until it is closed; see ConnectionHandler."""
        name = f"connection {len(self._connections) + 1}"
        connection = FakeConnection(self, link, name)
        self._connections.append(connection)
        task = self._spawn(self._read(connection), self._readers)
        await asyncio.wait([task])
        link.cut()

    def refuse(self, failure: Failure) -> None:
        """Report a handshake that servers refuse; see ConnectionHandler."""
        self._fail(failure)

    async def _read(self, connection: FakeConnection) -> None:
        while (data := await connection.link.receive()) is not None:
            entry = self.trace.add(connection.name, "received", data)
            try:
                self._process_message(connection, data)
            except Failure as failure:
                failure.entry = entry
                raise
            self._notify()

    def _process_message(self, connection: FakeConnection, data: bytes) -> None:
        if len(self._tasks) > MAX_OPEN_REQUESTS:
            raise Failure(
                f"more than {MAX_OPEN_REQUESTS:,} requests are open, since the client does not read"
            )
        message = connection.validator.take(data)
        self._last = message.get("method", "an answer")
        if "method" in message and "id" in message:
            self._note_request(connection, message)
            self._spawn(self._respond(connection, message), self._tasks)

    def _note_request(self, connection: FakeConnection, request: Message) -> None:
        """Update the state for a received request; raise Failure if it is not allowed."""
        method, params = request["method"], request.get("params") or {}
        if method == self.start_method:
            self._start(connection, params)
        elif method == "initialize" and params.get("resumeSessionId") is not None:
            self._resume(params["resumeSessionId"])
        elif method == "process/write" and self.process is not None:
            self.process.write(params)
        if method.startswith("process/") and method in self.contract.methods:
            name = params["processId"]
            if self.process is None or self.process.name != name:
                raise Failure(f"{method} names a process that was never started: {show(name)}")

    def _start(self, connection: FakeConnection, params: Message) -> None:
        name = params.get("processId", "session-1")
        if self.revision == "v1" and params["cwd"].startswith("file:"):
            raise Failure(f"cwd is a URI, {show(params['cwd'])}, and v1 has native paths")
        if self.process is None:
            self.process = Process(name, params, self.revision)
            self._starter = connection
        elif (
            self.process.name != name
            or self._starter is connection
            or connection.session_id != self.session_id
            or self.revision == "v0"
        ):
            raise Failure(
                f"a second {self.start_method}, though the client was asked to run one program "
                f"once: {show(params.get('argv'))}; the effect of running a program twice "
                "is unknown"
            )

    def _resume(self, session_id: str) -> None:
        if session_id != self.session_id or self._attached is None:
            known = f"it opened {self.session_id}" if self._attached else "it has not opened one "
            "yet"
            raise Failure(
                f"resumeSessionId {show(session_id)} is no session of this server; {known}. The id "
                "is the sessionId of the answer to the first initialize"
            )

    # Answers

    async def _respond(self, connection: FakeConnection, request: Message) -> None:
        method = request["method"]
        if method in self.handlers:
            await self.handlers[method](connection, request)
        else:
            await self.answer_request(connection, request)
        self._notify()

    async def answer_request(self, connection: FakeConnection, request: Message) -> None:
        """Answer a request correctly after the delay of its method."""
        await asyncio.sleep(self.delays.get(request["method"], 0))
        answer = await self._build_answer(request)
        if request["method"] == "initialize" and "result" in answer:
            self._attached = connection
            connection.session_id = answer["result"].get("sessionId")
            self._resume_count += request["params"].get("resumeSessionId") is not None
        await connection.answer(request, answer)
        if request["method"] == "process/write" and self.process is not None:
            self.process.answered(request["params"])

    async def _build_answer(self, request: Message) -> Message:
        method, params = request["method"], request.get("params") or {}
        if method not in self.contract.methods:
            return error(METHOD_NOT_FOUND, f"unknown method: {method}")
        if method == "initialize":
            return {"result": self._initialize_result(params)}
        if method == "command/exec":
            return {"result": {"sessionId": self._running.name}}
        if method == "process/start":
            return {"result": {"processId": self._running.name}}
        if method == "process/read":
            await self._await_change(params)
            return {"result": self._running.read(params)}
        if method == "process/write":
            return {"result": {"status": "accepted"}}
        if method == "command/exec/write":
            return {"result": {"accepted": True}}
        if method in ("process/terminate", "command/exec/terminate"):
            return {"result": {"running": False}}
        if method in ("process/signal", "process/closeStdin", "process/resize"):
            return {"result": {}}
        if method == "environment/info":
            return {"result": {"shell": _SHELL}}
        if method == "environment/status":
            return {"result": {"status": "ready"}}
        if method.startswith("fs/"):
            return error(NOT_FOUND, "No such file or directory (os error 2)")
        return error(INTERNAL_ERROR, "this server provides only one program")

    @property
    def _running(self) -> Process:
        assert self.process is not None
        return self.process

    def _initialize_result(self, params: Message) -> Message:
        if self.revision == "v0":
            return {"protocolVersion": "exec-server.v0"}
        is_another = self._attached is not None and params.get("resumeSessionId") is None
        result: Message = {"sessionId": str(uuid.uuid4()) if is_another else self.session_id}
        if self.revision != "v1":
            result["environmentInfo"] = {"shell": _SHELL, "cwd": "file:///"}
        if self.revision == "draft":
            flags = ("processResize", "processCloseStdin", "processTerminateMode")
            result["environmentInfo"]["capabilities"] = dict.fromkeys(flags, True)
        return result

    async def _await_change(self, params: Message) -> None:
        """Wait for a new event for at most the time that process/read allows."""
        process, seconds = self._running, (params.get("waitMs") or 0) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not process.changes_after(params.get("afterSeq") or 0):
                    await self._changed.wait()

    # Actions of a case

    async def send(
        self, connection: FakeConnection, message: Message, answered: str | None = None
    ) -> None:
        """Send an event, or the answer to the method ``answered``, in the form of the contract."""
        self._check_outgoing(message, answered)
        if self.sends_unknown_notifications:
            await self.send_unchecked(
                connection, {"method": "suite/chatter", "params": {"anything": [1, None]}}
            )
        if self.adds_members:
            message = _with_unknown_members(message)
        await self.send_unchecked(connection, message)

    async def send_unchecked(self, connection: FakeConnection, message: Message) -> None:
        """Send a message without validation."""
        if self.writes_unusual_json:
            turned = dict(reversed(message.items()))
            text = json.dumps(turned, separators=(" ,\t", " : ")).replace("/", "\\/")
        else:
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        data = text.encode()
        self.trace.add(connection.name, "sent", data)
        if self.fragments:
            third = max(1, len(text) // 3)
            parts = [text[:third], text[third : 2 * third], text[2 * third :]]
            await connection.link.send_fragments([part.encode() for part in parts])
        else:
            await connection.link.send(data)

    async def emit(self, *events: Message) -> None:
        """Send events over the connection that the session is attached to."""
        for event in events:
            await self.send(self.attached, event)
        self._notify()

    @property
    def attached(self) -> FakeConnection:
        """Connection that the session is attached to."""
        assert self._attached is not None
        return self._attached

    def cut(self) -> None:
        """Abort the connection without a closing handshake."""
        self.attached.link.cut()

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until ``condition`` returns a value; raise Failure when it no longer can."""
        self.waiting_for = what
        while True:
            if self._failure is not None:
                raise self._failure
            found = condition()
            if found is not None:
                return found
            if self._has_ended:
                assert self.program is not None
                raise NoResponse(f"expected {what}, but the client {self.program.end}", what)
            await self._changed.wait()

    async def start_requested(self) -> Process:
        """Wait until the client has requested its program; the answer may be pending."""
        process: Process = await self.until(
            lambda: self.process, f"{self.start_method} after the handshake"
        )
        return process

    async def expect_resume(self, times: int = 1, *, may_end: bool = False) -> bool:
        """Wait until the client has resumed its session and can receive events.

        With ``may_end`` the client may exit meanwhile; returns False in that case. Raises
        NotApplicable if the client exits with an error instead of resuming.
        """

        def outcome() -> bool | None:
            return True if self._resume_count >= times or self._has_ended else None

        await self.until(outcome, "the client to resume its session or to exit with an error")
        if self._resume_count < times:
            self._check_failure("the connection was lost")
            raise NotApplicable("the client does not resume sessions")
        await self.until(
            lambda: self.attached.validator.is_ready or (may_end and self._has_ended) or None,
            "initialized after the session was resumed",
        )
        return not self._has_ended

    async def expect_exit(self, output: bytes, code: int) -> None:
        """Wait for the client's exit; check its output and exit code."""
        await self._ended("the client to exit after its program has ended")
        if not self._checks_output:
            return
        assert self.program is not None
        output_text = text_of(bytes(self.program.output))
        match(text_of(output), output_text, "the client's standard output")
        if self.program.status != code:
            raise Mismatch(
                f"expected the client to exit with the program's exit code {code}, but it "
                f"{self.program.end}",
                "the client's exit code",
                code,
                self.program.status,
            )

    async def expect_failure(self, why: str) -> None:
        """Wait for the client's exit; its exit code must report a failure."""
        await self._ended(f"the client to exit with an error, since {why}")
        self._check_failure(why)

    async def expect_exit_or_failure(self, output: bytes, code: int, why: str) -> None:
        """Wait for the client's exit; either the program's exit code or a failure is correct."""
        await self._ended("the client to exit")
        assert self.program is not None
        if self.program.status == code:
            await self.expect_exit(output, code)
        else:
            self._check_failure(why)

    async def reconnects(self) -> bool:
        """Wait until the client connects again or exits; return True if it connects."""

        def outcome() -> bool | None:
            return True if len(self._connections) > 1 or self._has_ended else None

        await self.until(outcome, "the client to reconnect or to exit with an error")
        return len(self._connections) > 1

    async def _ended(self, what: str) -> None:
        await self.until(lambda: self._has_ended or None, what)

    def _check_failure(self, why: str) -> None:
        assert self.program is not None
        if self._checks_output and self.program.status == 0:
            raise Mismatch(
                f"expected the client to exit with a code other than 0, since {why}; it "
                "exited with 0 as if the program had succeeded",
                "the client's exit code",
                {"$type": "integer"},
                0,
            )

    async def ask(self, method: str, params: Message) -> None:
        """Send a request to the client and wait for the answer."""
        identifier = f"server-{method}"
        validator = self.attached.validator
        validator.asked.add(id_key(identifier))
        await self.send_unchecked(
            self.attached, {"id": identifier, "method": method, "params": params}
        )
        await self.until(
            lambda: None if id_key(identifier) in validator.asked else True,
            f"an answer to the server's request {method}, at least the error -32601",
        )

    # Internals

    def _check_outgoing(self, message: Message, answered: str | None) -> None:
        """Raise SessionError if a message of the suite itself violates the contract."""
        methods = self.contract.methods
        if "error" in message:
            pointer = "#/$defs/ErrorResponse"
        elif answered is not None:
            pointer = methods[answered]["response"]
        else:
            pointer = methods[message["method"]]["notification"]
        try:
            additions = self.contract.check(pointer, message, "the suite's own message")
        except Failure as failure:
            raise SessionError(str(failure)) from None
        if additions:
            raise SessionError(f"the suite's own message has unknown members: {additions}")

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._notify()

    async def _await_end(self, program: Program) -> None:
        await program.wait()
        if self._readers:
            await asyncio.wait(self._readers, timeout=DRAIN_SECONDS)
        self._has_ended = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Any, tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task.add_done_callback(done)
        return task


def error(code: int, text: str) -> Message:
    """Build an error answer."""
    return {"error": {"code": code, "message": text}}


def _with_unknown_members(message: Message) -> Message:
    """Add unknown members to a message, at the top level and one level below."""
    extra = {"data": {"of": ["the", "future"]}, "suiteMember": None}
    return {
        name: {**value, **extra} if name in ("params", "result", "error") else value
        for name, value in message.items()
    } | extra
