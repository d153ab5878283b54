"""What happens to a client under test, and what it must make of it.

A case is played in every revision that it names, and one of v2 also in the draft, which extends it.
Unless it says otherwise the program that the client was asked to run writes OUTPUT and exits with
CODE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exec_server_conformance.errors import Failure, Silence
from exec_server_conformance.fake_server.server import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Conversation,
    Stage,
    error,
)
from exec_server_conformance.runner.patterns import match, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exec_server_conformance.fake_server.process import Message, Process
    from exec_server_conformance.runner.session import Level, Transport

    Plot = Callable[[Stage], Awaitable[None]]

OUTPUT: Final = b"What the program wrote: \xc3\xa4\n"
CODE: Final = 7

INPUT: Final = b"first line\nsecond line\n"
"""What the client has on its standard input in the cases about input."""

SLOW_SECONDS: Final = 2.0
"""How long a slow answer takes: longer than anyone polls, shorter than anyone's patience."""

PIECES: Final = 2000
LARGE_BYTES: Final = 1 << 20

RELEASED: Final = ("v0", "v1", "v2")
NUMBERED: Final = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Case:
    """Something that happens to a client, in one revision."""

    name: str
    description: str
    plot: Plot
    methods: tuple[str, ...]
    level: Level
    transports: tuple[Transport, ...]
    needs_input: bool
    """Whether the client must pass its standard input on to the program."""

    @property
    def revision(self) -> str:
        """The revision that the server speaks."""
        return self.name.partition("/")[0]

    @property
    def tags(self) -> frozenset[str]:
        """The folders of its name."""
        return frozenset(self.name.split("/")[1:-1])


CASES: Final[list[Case]] = []
"""Every case."""

SIMPLEST: Final = "run/simple"
"""The case that tells whether a client speaks a revision."""

_BOTH: Final[tuple[Transport, ...]] = ("ws", "stdio")


def case(
    name: str,
    description: str,
    *methods: str,
    revisions: tuple[str, ...] = RELEASED,
    transports: tuple[Transport, ...] = _BOTH,
    level: Level = "contract",
    needs_input: bool = False,
) -> Callable[[Plot], Plot]:
    """Enter a plot into CASES."""

    def enter(plot: Plot) -> Plot:
        for revision in (*revisions, *(("draft",) if "v2" in revisions else ())):
            told = ("initialize", "initialized", *methods)
            full = f"{revision}/{name}"
            CASES.append(Case(full, description, plot, told, level, transports, needs_input))
        return plot

    return enter


async def _to_the_end(stage: Stage) -> None:
    """The program runs, writes and ends."""
    process = await started(stage)
    await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


async def started(stage: Stage) -> Process:
    """Wait until the answer that the program runs is on its way."""
    answered: list[bool] = []
    give = stage.handlers.get(stage.start_method, stage.give_answer)

    async def handler(conversation: Conversation, request: Message) -> None:
        await give(conversation, request)
        answered.append(True)

    stage.handlers[stage.start_method] = handler
    process = await stage.start_requested()
    await stage.until(lambda: answered or None, "the program to have been started")
    return process


# The task


@case(SIMPLEST, "A program is run: its output and its exit code are the client's.", "process/start")
async def _(stage: Stage) -> None:
    await _to_the_end(stage)


@case("run/success", "A program that writes nothing and exits with 0.", "process/start")
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.tell(*process.end(0))
    await stage.over(b"", 0)


async def _refuse(conversation: Conversation, request: Message) -> None:
    refusal = error(INTERNAL_ERROR, "No such file or directory (os error 2)")
    await conversation.answer(request, refusal)


@case(
    "run/refused",
    "A program that cannot be started: the client tells so by its exit code, and does not ask "
    "again.",
    "process/start",
)
async def _(stage: Stage) -> None:
    stage.handlers[stage.start_method] = _refuse
    await stage.start_requested()
    await stage.gave_up(f"{stage.start_method} was answered with an error")


# The handshake


@case(
    "handshake/slow",
    f"The answer to initialize takes {SLOW_SECONDS:g} s: nothing is sent before it.",
)
async def _(stage: Stage) -> None:
    stage.delays["initialize"] = SLOW_SECONDS
    await _to_the_end(stage)


@case("handshake/refused", "initialize is answered with an error: no program can be run.")
async def _(stage: Stage) -> None:
    async def refuse(conversation: Conversation, request: Message) -> None:
        await conversation.answer(request, error(INVALID_REQUEST, "this server is closed"))

    stage.handlers["initialize"] = refuse
    await stage.gave_up("initialize was answered with an error")


# Output


@case(
    "output/streams",
    "Standard output and standard error come in turns, and are kept apart.",
    "process/output",
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    for line in (b"one\n", b"two\n", b"three\n"):
        await stage.tell(process.output(line), process.output(b"noise\n", "stderr"))
    await stage.tell(*process.end(CODE))
    await stage.over(b"one\ntwo\nthree\n", CODE)


@case(
    "output/bytes",
    "Output is bytes: what is no text, and a character that is cut in two, arrive as they are.",
    "process/output",
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    pieces = (b"\xe2\x82", b"\xac \x00\xff\xfe", b"\r\n", b"no newline")
    await stage.tell(*(process.output(piece) for piece in pieces), *process.end(CODE))
    await stage.over(b"".join(pieces), CODE)


@case("output/empty", "A piece of output may be empty; it is not the end.", "process/output")
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.tell(process.output(b""), process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


@case("output/large", "One message brings 1 MiB.", "process/output")
async def _(stage: Stage) -> None:
    process = await started(stage)
    line = b"0123456789abcde\n"
    large = line * (LARGE_BYTES // len(line))
    await stage.tell(process.output(large), *process.end(CODE))
    await stage.over(large, CODE)


@case("output/many", f"{PIECES} messages bring a line each, without a pause.", "process/output")
async def _(stage: Stage) -> None:
    process = await started(stage)
    lines = [b"line %d\n" % number for number in range(PIECES)]
    await stage.tell(*(process.output(line) for line in lines), *process.end(CODE))
    await stage.over(b"".join(lines), CODE)


@case(
    "output/after_exit",
    "Output goes on after the exit, as of a child in the background; the end is process/closed.",
    "process/output",
    "process/closed",
    revisions=NUMBERED,
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.tell(process.exited(CODE), process.output(OUTPUT), process.closed())
    await stage.over(OUTPUT, CODE)


@case(
    "output/reordered",
    "Messages overtake each other: seq tells their order.",
    "process/output",
    "process/exited",
    "process/closed",
    revisions=NUMBERED,
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    first, second, third = (process.output(line) for line in (b"one\n", b"two\n", b"three\n"))
    exited, closed = process.end(CODE)
    await stage.tell(second, first, exited, third, closed)
    await stage.over(b"one\ntwo\nthree\n", CODE)


@case(
    "output/close_overtakes",
    "process/closed overtakes output whose seq is smaller: nothing is lost.",
    "process/output",
    "process/closed",
    revisions=NUMBERED,
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    output = process.output(OUTPUT)
    exited, closed = process.end(CODE)
    await stage.tell(closed, exited, output)
    await stage.over(OUTPUT, CODE)


@case(
    "output/before_answer",
    "The program has ended before the answer to process/start comes: nothing of it is lost.",
    "process/start",
    revisions=NUMBERED,
)
async def _(stage: Stage) -> None:
    async def answer_last(conversation: Conversation, request: Message) -> None:
        process = await stage.start_requested()
        await stage.tell(process.output(OUTPUT), *process.end(CODE))
        await stage.give_answer(conversation, request)

    stage.handlers["process/start"] = answer_last
    await stage.start_requested()
    await stage.over(OUTPUT, CODE)


@case(
    "run/slow",
    f"The answer to the start takes {SLOW_SECONDS:g} s: the program is not started again.",
    "process/start",
)
async def _(stage: Stage) -> None:
    stage.delays[stage.start_method] = SLOW_SECONDS
    await _to_the_end(stage)


# What a client must bear


@case("tolerance/members", "Every message has members that nobody knows: they are ignored.")
async def _(stage: Stage) -> None:
    stage.adds_members = True
    await _to_the_end(stage)


@case("tolerance/error", "An error has members that nobody knows, such as data.", "process/start")
async def _(stage: Stage) -> None:
    stage.adds_members = True
    stage.handlers[stage.start_method] = _refuse
    await stage.start_requested()
    await stage.gave_up(f"{stage.start_method} was answered with an error")


@case("tolerance/notifications", "Notifications that nobody knows come between: they are ignored.")
async def _(stage: Stage) -> None:
    stage.chatters = True
    await _to_the_end(stage)


@case(
    "tolerance/other_process",
    "Events of a process that the client never started are ignored.",
    "process/output",
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    other = process.named("nobody-s")
    await stage.tell(other.output(b"not yours\n"), *other.end(1))
    await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


@case(
    "tolerance/writing",
    "Messages have white space, escapes, and members in an unusual order: JSON is JSON.",
)
async def _(stage: Stage) -> None:
    stage.is_oddly_written = True
    await _to_the_end(stage)


@case("tolerance/fragments", "A message may come in several frames.", transports=("ws",))
async def _(stage: Stage) -> None:
    stage.fragments = True
    await _to_the_end(stage)


@case(
    "tolerance/ping",
    "The server pings the client, which answers: servers drop who does not.",
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    stage.waiting_for = "a pong in answer to a ping"
    if not await stage.attached.link.ping(b"are you there"):
        raise Silence("expected a pong in answer to a ping, but the client ended the connection")
    await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


@case(
    "tolerance/request",
    "The server asks something that nobody knows: the answer is an error, and all goes on.",
    revisions=NUMBERED,
    level="quirk",
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.ask("suite/question", {"anything": True})
    await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


# A lost connection


async def _lose(stage: Stage) -> None:
    """Cut the connection in the middle, and have nothing to resume."""

    async def refuse(conversation: Conversation, request: Message) -> None:
        if request["params"].get("resumeSessionId") is None:
            await stage.give_answer(conversation, request)
        else:
            await conversation.answer(
                request, error(INVALID_REQUEST, f"unknown session id {stage.session_id}")
            )

    process = await started(stage)
    await stage.tell(process.output(b"the first half\n"))
    stage.handlers["initialize"] = refuse
    stage.cut()
    await stage.gave_up("the connection was lost, and the session is gone")


@case(
    "lost/session",
    "The connection is cut and the session is gone: the client tells so, and runs nothing again.",
    "process/start",
)
async def _(stage: Stage) -> None:
    await _lose(stage)


@case(
    "lost/before_answer",
    "The connection is cut before initialize is answered: the client tells so, or tries again.",
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    async def cut_once(conversation: Conversation, _: Message) -> None:
        stage.handlers.pop("initialize")
        conversation.link.cut()

    stage.handlers["initialize"] = cut_once
    if await stage.tries_again():
        await _to_the_end(stage)
    else:
        await stage.gave_up("the connection was lost before the handshake")


@case(
    "resume/output",
    "The connection is cut and output is missed: the session is resumed, and the output read.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.tell(process.output(b"before\n"))
    stage.cut()
    process.output(b"meanwhile\n")
    await stage.resumed()
    await stage.tell(process.output(b"after\n"), *process.end(CODE))
    await stage.over(b"before\nmeanwhile\nafter\n", CODE)


@case(
    "resume/end",
    "The program ends while the connection is cut: only process/read tells of it.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    process = await started(stage)
    await stage.tell(process.output(b"before\n"))
    stage.cut()
    process.output(b"meanwhile\n")
    process.end(CODE)
    await stage.resumed()
    await stage.over(b"before\nmeanwhile\n", CODE)


@case(
    "resume/twice",
    "The connection is cut, and cut again before the resumption is answered, and later once more.",
    "process/read",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    async def cut_once(conversation: Conversation, _: Message) -> None:
        stage.handlers.pop("initialize")
        conversation.link.cut()

    process = await started(stage)
    await stage.tell(process.output(b"one\n"))
    stage.handlers["initialize"] = cut_once
    stage.cut()
    process.output(b"two\n")
    await stage.resumed()
    await stage.tell(process.output(b"three\n"))
    stage.cut()
    process.output(b"four\n")
    await stage.resumed(2)
    await stage.tell(*process.end(CODE))
    await stage.over(b"one\ntwo\nthree\nfour\n", CODE)


@case(
    "resume/start",
    "The connection is cut before the answer to process/start comes: no second process is started.",
    "process/start",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    async def lose(*_: object) -> None:
        stage.handlers["process/start"] = refuse
        stage.cut()

    async def refuse(conversation: Conversation, request: Message) -> None:
        name = request["params"]["processId"]
        await conversation.answer(request, error(INVALID_REQUEST, f"process {name} already exists"))

    stage.handlers["process/start"] = lose
    process = await stage.start_requested()
    if await stage.resumed(may_end=True):
        await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over_or_gave_up(OUTPUT, CODE, "nobody told whether the program was started")


@case(
    "resume/other_session",
    "The server opens another session instead: the client does not take it for its own.",
    "process/start",
    revisions=NUMBERED,
    transports=("ws",),
)
async def _(stage: Stage) -> None:
    async def open_another(conversation: Conversation, request: Message) -> None:
        await stage.give_answer(conversation, {**request, "params": {"clientName": ""}})

    process = await started(stage)
    await stage.tell(process.output(b"before\n"))
    stage.handlers["initialize"] = open_another
    stage.cut()
    await stage.gave_up("the session is gone, and the server opened another")


# Input


async def _takes_input(stage: Stage) -> Process:
    process = await started(stage)
    if not (process.params.get("pipeStdin") or process.params.get("tty")):
        raise Failure(
            "the client has input for the program, but started it with neither pipeStdin nor tty: "
            "the server refuses to write to it"
        )
    return process


async def _echo(stage: Stage, process: Process) -> None:
    """Wait for all of the input, and end as a program that has printed it."""
    await stage.until(
        lambda: len(process.input) >= len(INPUT) or None,
        f"process/write of all of the client's standard input, {len(INPUT)} bytes",
    )
    match(text_of(INPUT), text_of(bytes(process.input)), "what was written to the program")
    await stage.tell(process.output(INPUT), *process.end(CODE))
    await stage.over(INPUT, CODE)


@case(
    "input/text",
    "Standard input of the client is that of the program, each byte once and in order.",
    "process/write",
    revisions=NUMBERED,
    needs_input=True,
)
async def _(stage: Stage) -> None:
    await _echo(stage, await _takes_input(stage))


@case(
    "input/slow",
    f"The answers to writes take {SLOW_SECONDS:g} s: nothing is written twice.",
    "process/write",
    revisions=NUMBERED,
    needs_input=True,
)
async def _(stage: Stage) -> None:
    stage.delays["process/write"] = SLOW_SECONDS
    await _echo(stage, await _takes_input(stage))


@case(
    "input/refused",
    "The program takes no input: its output and exit code are still the client's.",
    "process/write",
    revisions=NUMBERED,
    level="quirk",
    needs_input=True,
)
async def _(stage: Stage) -> None:
    refused: list[bool] = []

    async def refuse(conversation: Conversation, request: Message) -> None:
        await conversation.answer(request, {"result": {"status": "stdinClosed"}})
        refused.append(True)

    stage.handlers["process/write"] = refuse
    process = await _takes_input(stage)
    await stage.until(lambda: refused or None, "process/write of the client's standard input")
    await stage.tell(process.output(OUTPUT), *process.end(CODE))
    await stage.over(OUTPUT, CODE)


@case(
    "resume/write",
    "The connection is cut before a write is answered: it is sent again with the same writeId.",
    "process/write",
    revisions=("v2",),
    transports=("ws",),
    needs_input=True,
)
async def _(stage: Stage) -> None:
    unanswered: list[Message] = []

    async def lose(_: Conversation, request: Message) -> None:
        stage.handlers.pop("process/write", None)
        unanswered.append(request["params"])
        stage.cut()

    stage.handlers["process/write"] = lose
    process = await _takes_input(stage)
    await stage.until(lambda: unanswered or None, "process/write of the client's standard input")
    await stage.resumed()
    name = unanswered[0]["writeId"]
    await stage.until(
        lambda: process.is_answered(name) or None,
        f"the write whose answer was lost once more, with its writeId {name!r}",
    )
    await _echo(stage, process)


@case(
    "input/end",
    "The end of the client's standard input is that of the program's, where the server has "
    "process/closeStdin.",
    "process/write",
    "process/closeStdin",
    revisions=("draft",),
    needs_input=True,
)
async def _(stage: Stage) -> None:
    ended_after: list[int] = []

    async def end(conversation: Conversation, request: Message) -> None:
        ended_after.append(len(process.input))
        await stage.give_answer(conversation, request)

    stage.handlers["process/closeStdin"] = end
    process = await _takes_input(stage)
    await stage.until(
        lambda: ended_after or None, "process/closeStdin at the end of the client's standard input"
    )
    if ended_after[0] < len(INPUT):
        raise Failure(
            f"process/closeStdin came after {ended_after[0]} bytes of {len(INPUT)}: what is "
            "written afterwards is lost"
        )
    await _echo(stage, process)
