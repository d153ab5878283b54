"""Client cases: behaviour of the server, and the expected behaviour of the client.

A case is run in every revision that it names; a v2 case is also run in the draft, which extends v2.
Unless stated otherwise the program that the client was asked to run writes OUTPUT and exits with
CODE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server_conformance.errors import Failure, NoResponse
from exec_server_conformance.fake_server.server import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    FakeConnection,
    FakeServer,
    error,
)
from exec_server_conformance.runner.patterns import match, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exec_server_conformance.fake_server.process import Message, Process
    from exec_server_conformance.runner.session import Level, Transport

    Script = Callable[[FakeServer], Awaitable[None]]

OUTPUT: Final = b"What the program wrote: \xc3\xa4\n"
CODE: Final = 7

INPUT: Final = b"first line\nsecond line\n"
"""Standard input of the client in the cases about input."""

SLOW_SECONDS: Final = 2.0
"""Delay of a slow answer: longer than a polling interval, shorter than a usual timeout."""

PIECES: Final = 2000
LARGE_BYTES: Final = 1 << 20

RELEASED: Final = ("v0", "v1", "v2")
NUMBERED: Final = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Case:
    """One client case in one revision."""

    name: str
    description: str
    script: Script
    methods: tuple[str, ...]
    level: Level
    transports: tuple[Transport, ...]
    needs_input: bool
    """True if the client must forward its standard input to the program."""

    @property
    def revision(self) -> str:
        """Revision of the server."""
        return self.name.partition("/")[0]

    @property
    def tags(self) -> frozenset[str]:
        """Folders of the case's name."""
        return frozenset(self.name.split("/")[1:-1])


CASES: Final[list[Case]] = []
"""All cases."""

BASIC_CASE: Final = "run/simple"
"""Case that determines if a client supports a revision."""

_BOTH: Final[tuple[Transport, ...]] = ("ws", "stdio")


def case(
    name: str,
    description: str,
    *methods: str,
    revisions: tuple[str, ...] = RELEASED,
    transports: tuple[Transport, ...] = _BOTH,
    level: Level = "contract",
    needs_input: bool = False,
) -> Callable[[Script], Script]:
    """Decorator that adds a script to CASES."""

    def register(script: Script) -> Script:
        for revision in (*revisions, *(("draft",) if "v2" in revisions else ())):
            listed_methods = ("initialize", "initialized", *methods)
            full = f"{revision}/{name}"
            CASES.append(
                Case(full, description, script, listed_methods, level, transports, needs_input)
            )
        return script

    return register


async def _run_to_exit(server: FakeServer) -> None:
    """Run the program to its exit."""
    process = await started(server)
    await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


async def started(server: FakeServer) -> Process:
    """Wait until the start of the program has been answered."""
    answered: list[bool] = []
    give = server.handlers.get(server.start_method, server.answer_request)

    async def handler(connection: FakeConnection, request: Message) -> None:
        await give(connection, request)
        answered.append(True)

    server.handlers[server.start_method] = handler
    process = await server.start_requested()
    await server.until(lambda: answered or None, "the start of the program to be answered")
    return process


# Basic task


@case(
    BASIC_CASE, "Run a program: the client returns its output and its exit code.", "process/start"
)
async def _(server: FakeServer) -> None:
    await _run_to_exit(server)


@case("run/success", "The program writes nothing and exits with 0.", "process/start")
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.emit(*process.end(0))
    await server.expect_exit(b"", 0)


async def _refuse(connection: FakeConnection, request: Message) -> None:
    refusal = error(INTERNAL_ERROR, "No such file or directory (os error 2)")
    await connection.answer(request, refusal)


@case(
    "run/refused",
    "The program cannot be started: the client reports a failure and does not retry.",
    "process/start",
)
async def _(server: FakeServer) -> None:
    server.handlers[server.start_method] = _refuse
    await server.start_requested()
    await server.expect_failure(f"{server.start_method} was answered with an error")


# Handshake


@case(
    "handshake/slow",
    f"The answer to initialize takes {SLOW_SECONDS:g} s: nothing is sent before it.",
)
async def _(server: FakeServer) -> None:
    server.delays["initialize"] = SLOW_SECONDS
    await _run_to_exit(server)


@case("handshake/refused", "initialize is answered with an error: no program can be run.")
async def _(server: FakeServer) -> None:
    async def refuse(connection: FakeConnection, request: Message) -> None:
        await connection.answer(request, error(INVALID_REQUEST, "this server is closed"))

    server.handlers["initialize"] = refuse
    await server.expect_failure("initialize was answered with an error")


# Output


@case(
    "output/streams",
    "Interleaved standard output and standard error are kept apart.",
    "process/output",
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    for line in (b"one\n", b"two\n", b"three\n"):
        await server.emit(process.output(line), process.output(b"noise\n", "stderr"))
    await server.emit(*process.end(CODE))
    await server.expect_exit(b"one\ntwo\nthree\n", CODE)


@case(
    "output/bytes",
    "Output is binary: invalid UTF-8 and a character split between chunks arrive unchanged.",
    "process/output",
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    pieces = (b"\xe2\x82", b"\xac \x00\xff\xfe", b"\r\n", b"no newline")
    await server.emit(*(process.output(piece) for piece in pieces), *process.end(CODE))
    await server.expect_exit(b"".join(pieces), CODE)


@case("output/empty", "An output chunk may be empty; it does not mark the end.", "process/output")
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.emit(process.output(b""), process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


@case("output/large", "One message carries 1 MiB of output.", "process/output")
async def _(server: FakeServer) -> None:
    process = await started(server)
    line = b"0123456789abcde\n"
    large = line * (LARGE_BYTES // len(line))
    await server.emit(process.output(large), *process.end(CODE))
    await server.expect_exit(large, CODE)


@case("output/many", f"{PIECES} messages bring a line each, without a pause.", "process/output")
async def _(server: FakeServer) -> None:
    process = await started(server)
    lines = [b"line %d\n" % number for number in range(PIECES)]
    await server.emit(*(process.output(line) for line in lines), *process.end(CODE))
    await server.expect_exit(b"".join(lines), CODE)


@case(
    "output/after_exit",
    "Output follows the exit, as from a background child; the end is process/closed.",
    "process/output",
    "process/closed",
    revisions=NUMBERED,
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.emit(process.exited(CODE), process.output(OUTPUT), process.closed())
    await server.expect_exit(OUTPUT, CODE)


@case(
    "output/reordered",
    "Messages arrive out of order: seq determines the order of output.",
    "process/output",
    "process/exited",
    "process/closed",
    revisions=NUMBERED,
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    first, second, third = (process.output(line) for line in (b"one\n", b"two\n", b"three\n"))
    exited, closed = process.end(CODE)
    await server.emit(second, first, exited, third, closed)
    await server.expect_exit(b"one\ntwo\nthree\n", CODE)


@case(
    "output/close_overtakes",
    "process/closed arrives before output with a lower seq: no output is lost.",
    "process/output",
    "process/closed",
    revisions=NUMBERED,
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    output = process.output(OUTPUT)
    exited, closed = process.end(CODE)
    await server.emit(closed, exited, output)
    await server.expect_exit(OUTPUT, CODE)


@case(
    "output/before_answer",
    "The program ends before the answer to process/start: no output is lost.",
    "process/start",
    revisions=NUMBERED,
)
async def _(server: FakeServer) -> None:
    async def answer_last(connection: FakeConnection, request: Message) -> None:
        process = await server.start_requested()
        await server.emit(process.output(OUTPUT), *process.end(CODE))
        await server.answer_request(connection, request)

    server.handlers["process/start"] = answer_last
    await server.start_requested()
    await server.expect_exit(OUTPUT, CODE)


@case(
    "run/slow",
    f"The answer to the start takes {SLOW_SECONDS:g} s: the program is not started again.",
    "process/start",
)
async def _(server: FakeServer) -> None:
    server.delays[server.start_method] = SLOW_SECONDS
    await _run_to_exit(server)


# Tolerance


@case("tolerance/members", "Every message has unknown members: they are ignored.")
async def _(server: FakeServer) -> None:
    server.adds_members = True
    await _run_to_exit(server)


@case("tolerance/error", "An error has unknown members, such as data.", "process/start")
async def _(server: FakeServer) -> None:
    server.adds_members = True
    server.handlers[server.start_method] = _refuse
    await server.start_requested()
    await server.expect_failure(f"{server.start_method} was answered with an error")


@case("tolerance/notifications", "Unknown notifications arrive in between: they are ignored.")
async def _(server: FakeServer) -> None:
    server.sends_unknown_notifications = True
    await _run_to_exit(server)


@case(
    "tolerance/other_process",
    "Events of a process that the client never started are ignored.",
    "process/output",
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    other = process.named("unknown")
    await server.emit(other.output(b"not yours\n"), *other.end(1))
    await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


@case(
    "tolerance/writing",
    "Messages have white space, escapes and an unusual member order.",
)
async def _(server: FakeServer) -> None:
    server.writes_unusual_json = True
    await _run_to_exit(server)


@case("tolerance/fragments", "A message may arrive in several frames.", transports=("ws",))
async def _(server: FakeServer) -> None:
    server.fragments = True
    await _run_to_exit(server)


@case(
    "tolerance/ping",
    "The server pings the client, which answers: servers disconnect unresponsive clients.",
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    server.waiting_for = "a pong"
    if not await server.attached.link.ping(b"are you there"):
        raise NoResponse("expected a pong, but the client closed the connection", "a pong")
    await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


@case(
    "tolerance/request",
    "The server sends an unknown request: it is answered with an error, and the session continues.",
    revisions=NUMBERED,
    level="quirk",
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.ask("suite/question", {"anything": True})
    await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


# Lost connections


async def _run_lost_session(server: FakeServer) -> None:
    """Cut the connection while the program is running and refuse to resume the session."""

    async def refuse(connection: FakeConnection, request: Message) -> None:
        if request["params"].get("resumeSessionId") is None:
            await server.answer_request(connection, request)
        else:
            await connection.answer(
                request, error(INVALID_REQUEST, f"unknown session id {server.session_id}")
            )

    process = await started(server)
    await server.emit(process.output(b"the first half\n"))
    server.handlers["initialize"] = refuse
    server.cut()
    await server.expect_failure("the connection was lost and the session is gone")


@case(
    "lost/session",
    "The connection is cut and the session is gone: the client reports it and starts nothing "
    "again.",
    "process/start",
)
async def _(server: FakeServer) -> None:
    await _run_lost_session(server)


@case(
    "lost/before_answer",
    "The connection is cut before initialize is answered: the client reports it or reconnects.",
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    async def cut_once(connection: FakeConnection, _: Message) -> None:
        server.handlers.pop("initialize")
        connection.link.cut()

    server.handlers["initialize"] = cut_once
    if await server.reconnects():
        await _run_to_exit(server)
    else:
        await server.expect_failure("the connection was lost before the handshake was complete")


@case(
    "resume/output",
    "Output is missed while the connection is cut: the client resumes the session and reads it.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.emit(process.output(b"before\n"))
    server.cut()
    process.output(b"meanwhile\n")
    await server.expect_resume()
    await server.emit(process.output(b"after\n"), *process.end(CODE))
    await server.expect_exit(b"before\nmeanwhile\nafter\n", CODE)


@case(
    "resume/end",
    "The program ends while the connection is cut: only process/read reports it.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    process = await started(server)
    await server.emit(process.output(b"before\n"))
    server.cut()
    process.output(b"meanwhile\n")
    process.end(CODE)
    await server.expect_resume()
    await server.expect_exit(b"before\nmeanwhile\n", CODE)


@case(
    "resume/twice",
    "The connection is cut again before the resumption is answered, and once more later.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    async def cut_once(connection: FakeConnection, _: Message) -> None:
        server.handlers.pop("initialize")
        connection.link.cut()

    process = await started(server)
    await server.emit(process.output(b"one\n"))
    server.handlers["initialize"] = cut_once
    server.cut()
    process.output(b"two\n")
    await server.expect_resume()
    await server.emit(process.output(b"three\n"))
    server.cut()
    process.output(b"four\n")
    await server.expect_resume(2)
    await server.emit(*process.end(CODE))
    await server.expect_exit(b"one\ntwo\nthree\nfour\n", CODE)


@case(
    "resume/start",
    "The connection is cut before process/start is answered: no second process is started.",
    "process/start",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    async def cut_connection(*_: object) -> None:
        server.handlers["process/start"] = refuse
        server.cut()

    async def refuse(connection: FakeConnection, request: Message) -> None:
        name = request["params"]["processId"]
        await connection.answer(request, error(INVALID_REQUEST, f"process {name} already exists"))

    server.handlers["process/start"] = cut_connection
    process = await server.start_requested()
    if await server.expect_resume(may_end=True):
        await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit_or_failure(OUTPUT, CODE, "the answer to process/start was lost")


@case(
    "resume/other_session",
    "The server opens a new session instead of resuming: the client does not mistake it for its "
    "own.",
    "process/start",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(server: FakeServer) -> None:
    async def open_another(connection: FakeConnection, request: Message) -> None:
        await server.answer_request(connection, {**request, "params": {"clientName": ""}})

    process = await started(server)
    await server.emit(process.output(b"before\n"))
    server.handlers["initialize"] = open_another
    server.cut()
    await server.expect_failure("the session is gone, and the server opened a new one")


# Input


async def _started_with_input(server: FakeServer) -> Process:
    process = await started(server)
    if not (process.params.get("pipeStdin") or process.params.get("tty")):
        raise Failure(
            "the client has input for the program but started it without pipeStdin and tty: the "
            "server refuses writes"
        )
    return process


async def _echo(server: FakeServer, process: Process) -> None:
    """Wait for the complete input and exit like a program that has printed it."""
    await server.until(
        lambda: len(process.input) >= len(INPUT) or None,
        f"process/write of all of the client's standard input, {len(INPUT)} bytes",
    )
    match(text_of(INPUT), text_of(bytes(process.input)), "the input of the program")
    await server.emit(process.output(INPUT), *process.end(CODE))
    await server.expect_exit(INPUT, CODE)


@case(
    "input/text",
    "Standard input of the client is passed to the program, each byte once and in order.",
    "process/write",
    revisions=NUMBERED,
    needs_input=True,
)
async def _(server: FakeServer) -> None:
    await _echo(server, await _started_with_input(server))


@case(
    "input/slow",
    f"The answers to writes take {SLOW_SECONDS:g} s: nothing is written twice.",
    "process/write",
    revisions=NUMBERED,
    needs_input=True,
)
async def _(server: FakeServer) -> None:
    server.delays["process/write"] = SLOW_SECONDS
    await _echo(server, await _started_with_input(server))


@case(
    "input/refused",
    "The program does not accept input: its output and exit code are still returned.",
    "process/write",
    revisions=NUMBERED,
    level="quirk",
    needs_input=True,
)
async def _(server: FakeServer) -> None:
    refused: list[bool] = []

    async def refuse(connection: FakeConnection, request: Message) -> None:
        await connection.answer(request, {"result": {"status": "stdinClosed"}})
        refused.append(True)

    server.handlers["process/write"] = refuse
    process = await _started_with_input(server)
    await server.until(lambda: refused or None, "process/write of the client's standard input")
    await server.emit(process.output(OUTPUT), *process.end(CODE))
    await server.expect_exit(OUTPUT, CODE)


@case(
    "resume/write",
    "The connection is cut before a write is answered: the write is repeated with its writeId.",
    "process/write",
    revisions=("v2",),
    transports=("ws",),
    needs_input=True,
)
async def _(server: FakeServer) -> None:
    unanswered: list[Message] = []

    async def cut_connection(_: FakeConnection, request: Message) -> None:
        server.handlers.pop("process/write", None)
        unanswered.append(request["params"])
        server.cut()

    server.handlers["process/write"] = cut_connection
    process = await _started_with_input(server)
    await server.until(lambda: unanswered or None, "process/write of the client's standard input")
    await server.expect_resume()
    name = unanswered[0]["writeId"]
    await server.until(
        lambda: process.is_answered(name) or None,
        f"the write whose answer was lost once more, with its writeId {name!r}",
    )
    await _echo(server, process)


@case(
    "input/end",
    "The end of the client's standard input closes that of the program, if the server supports "
    "process/closeStdin.",
    "process/write",
    "process/closeStdin",
    revisions=("draft",),
    needs_input=True,
)
async def _(server: FakeServer) -> None:
    ended_after: list[int] = []

    async def end(connection: FakeConnection, request: Message) -> None:
        ended_after.append(len(process.input))
        await server.answer_request(connection, request)

    server.handlers["process/closeStdin"] = end
    process = await _started_with_input(server)
    await server.until(
        lambda: ended_after or None, "process/closeStdin at the end of the client's standard input"
    )
    if ended_after[0] < len(INPUT):
        raise Failure(
            f"process/closeStdin came after {ended_after[0]} bytes of {len(INPUT)}: what is "
            "written afterwards is lost"
        )
    await _echo(server, process)
