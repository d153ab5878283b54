"""The server that the suite plays to one client, and what a case can make it do.

Left alone it is a right and quick server, on which one program runs. A case decides what the
program does, and may make the server slow, talkative or odd, or cut the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any, Final, Self

from exec_server_conformance.errors import Failure, Mismatch, SessionError, Silence
from exec_server_conformance.fake_server.client_program import Program
from exec_server_conformance.fake_server.client_validator import Judge
from exec_server_conformance.fake_server.endpoints import Door
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
"""What starts a process, where it is not process/start."""

MOST_OPEN: Final = 1000
"""How many requests may wait for their answers."""

LEAVING_SECONDS: Final = 2.0
"""How long what a client has sent may take to be read once it has ended."""

_SHELL: Final = {"name": "sh", "path": "/bin/sh"}


class NotApplicable(Exception):
    """The client does not do what the case is about, and need not."""


class Conversation:
    """One connection of the client."""

    def __init__(self, stage: Stage, link: Link, name: str) -> None:
        self._stage = stage
        self.link = link
        self.name = name
        self.judge = Judge(stage.contract)
        self.session_id: str | None = None
        """The session that it is attached to."""

    async def answer(self, request: Message, answer: Message) -> None:
        """Answer a request with a result or an error."""
        self.judge.answered(request, is_success="result" in answer)
        await self._stage.send(self, {"id": request["id"], **answer}, request["method"])


class Stage:
    """One case being played to one client. A context manager: what it started ends with it."""

    def __init__(
        self, revision: str, command: ClientCommand, text: bytes | None, *, judges_output: bool
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
        """Seconds that answers take, by method."""
        self.handlers: dict[str, Callable[[Conversation, Message], Awaitable[None]]] = {}
        """What is done with requests instead of answering them, by method."""
        self.adds_members = False
        """Whether every message has members that no revision knows."""
        self.chatters = False
        """Whether every message comes after a notification that no revision knows."""
        self.is_oddly_written = False
        """Whether messages have white space, escapes, and members in an unusual order."""
        self.fragments = False
        """Whether messages come in several frames."""

        self._command = command
        self._text = text
        self._judges_output = judges_output
        self._conversations: list[Conversation] = []
        self._attached: Conversation | None = None
        self._starter: Conversation | None = None
        self._resumed = 0
        self._last = "nothing"
        self._failure: BaseException | None = None
        self._has_ended = False
        self._changed = asyncio.Event()
        self._exits = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: set[asyncio.Task[None]] = set()

    @property
    def missed(self) -> str:
        """What is waited for, and what came last."""
        return f"{self.waiting_for}; the last that the client sent is {self._last}"

    @property
    def start_method(self) -> str:
        """What starts a process."""
        return START_METHODS.get(self.revision, "process/start")

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            door = await exits.enter_async_context(Door(self, self.transport))
            self.program = await Program.start(self._command.argv(door.server), self._text)
            exits.push_async_callback(self.program.stop)
            exits.push_async_callback(self._hang_up)
            self._spawn(self._await_end(self.program), self._tasks)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _hang_up(self) -> None:
        tasks = [*self._tasks, *self._readers]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for conversation in self._conversations:
            conversation.link.cut()

    # Connections

    async def serve(self, link: Link) -> None:
        """Serve a connection until it ends; see Host."""
        name = f"connection {len(self._conversations) + 1}"
        conversation = Conversation(self, link, name)
        self._conversations.append(conversation)
        task = self._spawn(self._read(conversation), self._readers)
        await asyncio.wait([task])
        link.cut()

    def refuse(self, failure: Failure) -> None:
        """A client knocked in a way that no server admits; see Host."""
        self._fail(failure)

    async def _read(self, conversation: Conversation) -> None:
        while (data := await conversation.link.receive()) is not None:
            entry = self.trace.add(conversation.name, "received", data)
            try:
                self._take(conversation, data)
            except Failure as failure:
                failure.entry = entry
                raise
            self._notify()

    def _take(self, conversation: Conversation, data: bytes) -> None:
        if len(self._tasks) > MOST_OPEN:
            raise Failure(
                f"more than {MOST_OPEN:,} requests wait for their answers, which the client does "
                "not read"
            )
        message = conversation.judge.take(data)
        self._last = message.get("method", "an answer")
        if "method" in message and "id" in message:
            self._look_at(conversation, message)
            self._spawn(self._respond(conversation, message), self._tasks)

    def _look_at(self, conversation: Conversation, request: Message) -> None:
        """What is to be noted of a request when it comes; raises Failure for what is not to be."""
        method, params = request["method"], request.get("params") or {}
        if method == self.start_method:
            self._start(conversation, params)
        elif method == "initialize" and params.get("resumeSessionId") is not None:
            self._resume(params["resumeSessionId"])
        elif method == "process/write" and self.process is not None:
            self.process.write(params)
        if method.startswith("process/") and method in self.contract.methods:
            name = params["processId"]
            if self.process is None or self.process.name != name:
                raise Failure(f"{method} names a process that was never started: {show(name)}")

    def _start(self, conversation: Conversation, params: Message) -> None:
        name = params.get("processId", "session-1")
        if self.revision == "v1" and params["cwd"].startswith("file:"):
            raise Failure(f"cwd is a URI, {show(params['cwd'])}, and v1 has native paths")
        if self.process is None:
            self.process = Process(name, params, self.revision)
            self._starter = conversation
        elif (
            self.process.name != name
            or self._starter is conversation
            or conversation.session_id != self.session_id
            or self.revision == "v0"
        ):
            raise Failure(
                f"a second {self.start_method}, though the client was asked to run one program "
                f"once: {show(params.get('argv'))}; nobody knows what a program does when it runs "
                "again"
            )

    def _resume(self, session_id: str) -> None:
        if session_id != self.session_id or self._attached is None:
            known = f"it opened {self.session_id}" if self._attached else "it opened none yet"
            raise Failure(
                f"resumeSessionId {show(session_id)} is no session of this server; {known}. The id "
                "is the sessionId of the answer to the first initialize"
            )

    # Answers

    async def _respond(self, conversation: Conversation, request: Message) -> None:
        method = request["method"]
        if method in self.handlers:
            await self.handlers[method](conversation, request)
        else:
            await self.give_answer(conversation, request)
        self._notify()

    async def give_answer(self, conversation: Conversation, request: Message) -> None:
        """Answer a request as a right server does, after the delay of its method."""
        await asyncio.sleep(self.delays.get(request["method"], 0))
        answer = await self._answer_to(request)
        if request["method"] == "initialize" and "result" in answer:
            self._attached = conversation
            conversation.session_id = answer["result"].get("sessionId")
            self._resumed += request["params"].get("resumeSessionId") is not None
        await conversation.answer(request, answer)
        if request["method"] == "process/write" and self.process is not None:
            self.process.answered(request["params"])

    async def _answer_to(self, request: Message) -> Message:
        method, params = request["method"], request.get("params") or {}
        if method not in self.contract.methods:
            return error(METHOD_NOT_FOUND, f"unknown method: {method}")
        if method == "initialize":
            return {"result": self._greeting(params)}
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
        return error(INTERNAL_ERROR, "this server has nothing but one program")

    @property
    def _running(self) -> Process:
        assert self.process is not None
        return self.process

    def _greeting(self, params: Message) -> Message:
        if self.revision == "v0":
            return {"protocolVersion": "exec-server.v0"}
        is_another = self._attached is not None and params.get("resumeSessionId") is None
        greeting: Message = {"sessionId": str(uuid.uuid4()) if is_another else self.session_id}
        if self.revision != "v1":
            greeting["environmentInfo"] = {"shell": _SHELL, "cwd": "file:///"}
        if self.revision == "draft":
            flags = ("processResize", "processCloseStdin", "processTerminateMode")
            greeting["environmentInfo"]["capabilities"] = dict.fromkeys(flags, True)
        return greeting

    async def _await_change(self, params: Message) -> None:
        """Wait as long as process/read may, for what is worth an answer."""
        process, seconds = self._running, (params.get("waitMs") or 0) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not process.changes_after(params.get("afterSeq") or 0):
                    await self._changed.wait()

    # What a case does

    async def send(
        self, conversation: Conversation, message: Message, answered: str | None = None
    ) -> None:
        """Send an event, or the answer to a method, as the contract describes it."""
        self._check_own(message, answered)
        if self.chatters:
            await self.send_unchecked(
                conversation, {"method": "suite/chatter", "params": {"anything": [1, None]}}
            )
        if self.adds_members:
            message = _with_members(message)
        await self.send_unchecked(conversation, message)

    async def send_unchecked(self, conversation: Conversation, message: Message) -> None:
        """Send any message."""
        if self.is_oddly_written:
            turned = dict(reversed(message.items()))
            text = json.dumps(turned, separators=(" ,\t", " : ")).replace("/", "\\/")
        else:
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        data = text.encode()
        self.trace.add(conversation.name, "sent", data)
        if self.fragments:
            third = max(1, len(text) // 3)
            parts = [text[:third], text[third : 2 * third], text[2 * third :]]
            await conversation.link.send_fragments([part.encode() for part in parts])
        else:
            await conversation.link.send(data)

    async def tell(self, *events: Message) -> None:
        """Send events over the connection that the session is attached to."""
        for event in events:
            await self.send(self.attached, event)
        self._notify()

    @property
    def attached(self) -> Conversation:
        """The connection that the session is attached to."""
        assert self._attached is not None
        return self._attached

    def cut(self) -> None:
        """Cut the connection, without a goodbye."""
        self.attached.link.cut()

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition is not None; raises Failure when it cannot be any more."""
        self.waiting_for = what
        while True:
            if self._failure is not None:
                raise self._failure
            found = condition()
            if found is not None:
                return found
            if self._has_ended:
                assert self.program is not None
                raise Silence(f"expected {what}, but the client {self.program.end}")
            await self._changed.wait()

    async def start_requested(self) -> Process:
        """Wait until the client has asked for its program; the answer may still be under way."""
        process: Process = await self.until(
            lambda: self.process, f"{self.start_method} after the handshake"
        )
        return process

    async def resumed(self, times: int = 1, *, may_end: bool = False) -> bool:
        """Wait until the client has taken its session up again, and may be sent events.

        With ``may_end`` it may also end in the middle of it; returns whether it did not. Raises
        NotApplicable when it ends instead, and does not pretend that all is well.
        """

        def outcome() -> bool | None:
            return True if self._resumed >= times or self._has_ended else None

        await self.until(outcome, "the client to resume its session, or to end with an error")
        if self._resumed < times:
            self._check_gave_up("the connection was lost for good")
            raise NotApplicable("the client does not resume a lost session")
        await self.until(
            lambda: self.attached.judge.is_ready or (may_end and self._has_ended) or None,
            "initialized after the session was resumed",
        )
        return not self._has_ended

    async def over(self, output: bytes, code: int) -> None:
        """Wait for the client's end; it must have written the output, and end with the code."""
        await self._ended("the client to end, as its program has ended and its output as well")
        if not self._judges_output:
            return
        assert self.program is not None
        told = "the client's standard output, which is the program's"
        match(text_of(output), text_of(bytes(self.program.output)), told)
        if self.program.status != code:
            raise Mismatch(
                f"expected the client to end with the program's exit code {code}, but it "
                f"{self.program.end}",
                "the client's exit code",
                code,
                self.program.status,
            )

    async def gave_up(self, why: str) -> None:
        """Wait for the client's end; it must tell that the program did not run to its end."""
        await self._ended(f"the client to end with an error, since {why}")
        self._check_gave_up(why)

    async def over_or_gave_up(self, output: bytes, code: int, why: str) -> None:
        """Wait for the client's end; either way is right, as long as it tells the truth."""
        await self._ended("the client to end, with the program or with an error")
        assert self.program is not None
        if self.program.status == code:
            await self.over(output, code)
        else:
            self._check_gave_up(why)

    async def tries_again(self) -> bool:
        """Wait until the client connects once more, or ends; whether it connects."""

        def outcome() -> bool | None:
            return True if len(self._conversations) > 1 or self._has_ended else None

        await self.until(outcome, "the client to connect again, or to end with an error")
        return len(self._conversations) > 1

    async def _ended(self, what: str) -> None:
        await self.until(lambda: self._has_ended or None, what)

    def _check_gave_up(self, why: str) -> None:
        assert self.program is not None
        if self._judges_output and self.program.status == 0:
            raise Mismatch(
                f"expected the client to end with an exit code other than 0, since {why}; it "
                "ended with 0 as if the program had succeeded",
                "the client's exit code",
                {"$type": "integer"},
                0,
            )

    async def ask(self, method: str, params: Message) -> None:
        """Send a request to the client, and wait until it has been answered."""
        identifier = f"server-{method}"
        judge = self.attached.judge
        judge.asked.add(id_key(identifier))
        await self.send_unchecked(
            self.attached, {"id": identifier, "method": method, "params": params}
        )
        await self.until(
            lambda: None if id_key(identifier) in judge.asked else True,
            f"an answer to the server's request {method}, at least the error -32601",
        )

    # The rest

    def _check_own(self, message: Message, answered: str | None) -> None:
        """What is held against clients must not be the suite's own mistake."""
        methods = self.contract.methods
        if "error" in message:
            pointer = "#/$defs/ErrorResponse"
        elif answered is not None:
            pointer = methods[answered]["response"]
        else:
            pointer = methods[message["method"]]["notification"]
        try:
            self.contract.check(pointer, message, "the suite's own message")
        except Failure as failure:
            raise SessionError(str(failure)) from None

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._notify()

    async def _await_end(self, program: Program) -> None:
        await program.wait()
        if self._readers:
            await asyncio.wait(self._readers, timeout=LEAVING_SECONDS)
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
    """An answer that tells of an error."""
    return {"error": {"code": code, "message": text}}


def _with_members(message: Message) -> Message:
    """A message with members that nobody knows, at the top and one level below."""
    extra = {"data": {"of": ["the", "future"]}, "suiteMember": None}
    return {
        name: {**value, **extra} if name in ("params", "result", "error") else value
        for name, value in message.items()
    } | extra
