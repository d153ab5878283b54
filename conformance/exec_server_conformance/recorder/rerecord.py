"""``exec-server-conformance rerecord``: what a server says now, beside what was recorded.

Every session that applies to the server is played, and what comes is generalised as the recorder
does. Where that is another expectation than the session has, the message is shown, and the session
is refilled if that is asked for. Expectations with ``overrides``, and sessions that were written
and not recorded, state what somebody has decided: they are compared, and never refilled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exec_server_conformance.errors import Failure, SessionError, TargetError
from exec_server_conformance.options import (
    add_effort,
    add_selection,
    add_target,
    choice,
    target,
    transports,
)
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.patterns import generalise, in_places, match, show
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.selection import Applicability
from exec_server_conformance.runner.server_probe import Abilities, ask
from exec_server_conformance.runner.session import Session, Transport, load_all, release
from exec_server_conformance.runner.suite import ExitCode, located

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exec_server_conformance.runner.session import Step
    from exec_server_conformance.runner.target import Target

_NOTHING = object()
"""What is not there, unlike null."""


@dataclass(frozen=True, slots=True)
class Change:
    """A message that came otherwise than the session has it."""

    step: Step
    recorded: Any
    received: Any
    breaks: bool
    """Whether a replay of the session would fail for it."""
    kept: str | None
    """Why the expectation stays as it is; None for one that is refilled."""


@dataclass(slots=True)
class Rerecording:
    """What came of one session."""

    session: Session
    changes: list[Change] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def is_written(self) -> bool:
        """Whether no server was recorded for it."""
        source: str = self.session.header.get("source", "written")
        return source.startswith("written")

    @property
    def is_refilled(self) -> bool:
        """Whether the session is another one now."""
        return self.failure is None and any(change.kept is None for change in self.changes)

    @property
    def breaks(self) -> bool:
        """Whether a replay would fail for something that is refilled."""
        return any(change.breaks and change.kept is None for change in self.changes)

    @property
    def failure_kept(self) -> str | None:
        """Why the session stays as it is although it could not be played; None if nobody knows."""
        line = self.failure.line if self.failure else None
        step = next((one for one in self.session.steps if one.line == line), None)
        return self._reason_to_keep(step) if step else None

    @property
    def has_failed(self) -> bool:
        """Whether it could not be played, for no known reason."""
        return self.failure is not None and self.failure_kept is None

    @property
    def is_kept(self) -> bool:
        """Whether the server differs from what somebody has decided."""
        return self.failure_kept is not None or any(change.kept for change in self.changes)

    def _reason_to_keep(self, step: Step) -> str | None:
        reason: str | None = step.members.get("overrides")
        return reason or ("written" if self.is_written else None)

    def take(self, step: Step, actual: Any, places: dict[str, str]) -> None:
        """Compare what came for a step with what was recorded, and refill it if it may be."""
        recorded = step.members.get("expect", _NOTHING)
        received = _with_patterns_of(
            recorded, in_places(recorded, places), generalise(actual, places), actual
        )
        if received == recorded:
            return
        breaks = recorded is _NOTHING or _breaks(step, in_places(recorded, places), actual)
        kept = self._reason_to_keep(step)
        if kept is None:
            step.members["expect"] = received
        elif not breaks:
            return
        self.changes.append(Change(step, recorded, received, breaks, kept))


def _with_patterns_of(recorded: Any, filled: Any, received: Any, actual: Any) -> Any:
    """What was received, with the patterns of what was recorded where they hold.

    A pattern may be looser than the recorder's for a reason. ``filled`` is what was recorded, with
    its places put in.
    """
    if isinstance(recorded, dict) and not _has_members(recorded):
        return recorded if _matches(filled, actual) else received
    if _has_members(recorded) and _has_members(received) and isinstance(actual, dict):
        return {
            name: _with_patterns_of(recorded[name], filled[name], one, actual[name])
            if name in recorded and name in filled
            else one
            for name, one in received.items()
        }
    lists = (recorded, filled, received, actual)
    if all(isinstance(one, list) for one in lists) and len(set(map(len, lists))) == 1:
        return [_with_patterns_of(*parts) for parts in zip(*lists, strict=True)]
    return received


def _matches(expected: Any, actual: Any) -> bool:
    try:
        match(expected, actual, "")
    except Failure:
        return False
    return True


def _breaks(step: Step, expected: Any, actual: Any) -> bool:
    """Whether a replay would fail."""
    if not _matches(expected, actual):
        return True
    streams = expected.get("output", {}) if step.kind == "process" else None
    return streams is not None and not streams.keys() >= actual["output"].keys()


@dataclass(slots=True)
class Rerecorder:
    """Plays sessions on one server; ``tell`` is told of each, in their order, when it is done.

    ``done`` has what came, by the place of the session, also when it was cut short.
    """

    target: Target
    sessions: Sequence[Session]
    transports: Sequence[Transport]
    tell: Callable[[Rerecording], None]
    server_version: str | None = None
    source: str | None = None
    """What to write as the source of the sessions that are refilled; None: nothing is written."""
    jobs: int = 1
    timeout: float | None = None
    done: dict[int, Rerecording] = field(default_factory=dict)
    not_applicable: int = 0
    _told: int = 0

    async def run(self) -> None:
        """Play what applies; raises TargetError if the server cannot be run.

        Raises SessionError if there is nothing for the revisions that it speaks.
        """
        asked = await ask(self.target, self.transports[0])
        if not asked.revisions:
            raise TargetError(f"it seems to speak none of {', '.join(REVISIONS)}")
        if not any(session.revision in asked.revisions for session in self.sessions):
            raise SessionError(f"no session of {' or '.join(asked.revisions)} matches")
        applicable = list(self._applicable(asked))
        todo = deque(enumerate(applicable))
        self.not_applicable = len(self.sessions) - len(todo)
        no_server: list[TargetError] = []

        async def work() -> None:
            while todo and not no_server:
                place, (session, transport) = todo.popleft()
                try:
                    self.done[place] = await self._play(session, transport, asked)
                    self._tell_in_order()
                except TargetError as error:
                    no_server.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.jobs):
                group.create_task(work())
        if no_server:
            raise no_server[0]

    def _tell_in_order(self) -> None:
        while self._told in self.done:
            self.tell(self.done[self._told])
            self._told += 1

    def tell_the_rest(self) -> None:
        """Tell of what was done before something that never will be."""
        for place in sorted(self.done):
            if place > self._told:
                self.tell(self.done[place])

    def _applicable(self, asked: Abilities) -> Iterator[tuple[Session, Transport]]:
        applicability = Applicability(
            asked,
            release(self.server_version) if self.server_version else None,
            self.target.url is not None,
        )
        for session in self.sessions:
            transport = next((one for one in session.transports if one in self.transports), None)
            is_spoken = session.revision in asked.revisions
            if is_spoken and transport and applicability.reason_against(session) is None:
                yield session, transport

    async def _play(self, session: Session, transport: Transport, asked: Abilities) -> Rerecording:
        result = Rerecording(session)
        player = Player(
            session,
            self.target,
            transport,
            also_speaks=asked.besides(session.revision),
            recorder=result.take,
            timeout=self.timeout,
        )
        try:
            await player.play()
        except Failure as failure:
            result.failure = failure
        except SessionError as error:
            result.failure = Failure(str(error))
        if self.source is not None and result.is_refilled:
            session.header["source"] = self.source
            session.path.write_text(session.dump(), encoding="utf-8")
        return result


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    server = target(options, parser)
    if options.write and not options.source:
        parser.error("--write needs --source: what the refilled sessions are recorded from")
    sessions = choice(options).of(load_all(options.sessions))
    rerecorder = Rerecorder(
        target=server,
        sessions=sessions,
        transports=transports(options, sessions),
        tell=_tell,
        server_version=options.server_version,
        source=options.source if options.write else None,
        jobs=options.jobs,
        timeout=options.timeout,
    )
    code = ExitCode.PASSED
    try:
        asyncio.run(rerecorder.run())
    except TargetError as error:
        print(f"the server could not be run: {error}", file=sys.stderr)
        return ExitCode.NO_SERVER
    except KeyboardInterrupt:
        rerecorder.tell_the_rest()
        code = ExitCode.INTERRUPTED
    done = list(rerecorder.done.values())
    _summarise(done, rerecorder.not_applicable, is_written=options.write)
    if code is ExitCode.PASSED:
        is_changed = any(one.is_refilled for one in done) and not options.write
        if is_changed or any(one.has_failed for one in done):
            code = ExitCode.FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance rerecord",
        description="Play recorded sessions on a server, and print message by message where it "
        "says something else than was recorded (-) now (+). Nothing is written without --write.",
        epilog="Exit codes: 0 nothing has changed or all that has is written, 1 something has "
        "changed and is not written or could not be played, 2 wrong usage or an unusable session "
        "file, 3 the server could not be run, 130 interrupted.",
    )
    add_target(parser)
    add_selection(parser)
    parser.add_argument(
        "--server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for (default: the newest)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="refill the sessions that have changed; never the ones that were written by hand, nor "
        "expectations with overrides",
    )
    parser.add_argument(
        "--source", metavar="NAME", help="what --write names as recorded, such as 'codex 0.139.0'"
    )
    add_effort(parser)
    return parser


def _tell(result: Rerecording) -> None:
    """Print what changed in a session."""
    session, failure = result.session, result.failure
    redactor = Redactor()
    if result.changes:
        print(f"{session.name} ({session.header.get('source', 'written')})")
    for change in result.changes:
        print("\n".join(_shown(session, change, redactor)), flush=True)
    if failure is not None:
        reason = result.failure_kept
        verdict = "FAILED" if reason is None else f"kept ({reason})"
        text = redactor.text(str(failure))
        print(f"{verdict} {session.name}: {located(session, failure)}: {text}", flush=True)


def _summarise(done: Sequence[Rerecording], not_applicable: int, *, is_written: bool) -> None:
    refilled = sum(one.is_refilled for one in done)
    broken = sum(one.is_refilled and one.breaks for one in done)
    kept = sum(one.is_kept for one in done)
    failed = sum(one.has_failed for one in done)
    print(
        f"{len(done)} played: {refilled} {'refilled' if is_written else 'changed'} (a replay of "
        f"{broken} fails), {kept} kept although the server differs, {failed} failed; "
        f"{not_applicable} n/a"
    )
    if refilled and not is_written:
        print("nothing was written; --write --source NAME refills what has changed")


def _shown(session: Session, change: Change, redactor: Redactor) -> Iterator[str]:
    step = change.step
    name = step.members[step.kind]
    what = name if step.kind == "call" else step.kind if name is True else f"{step.kind} {name}"
    notes = "" if change.breaks else " (a replay passes)"
    if change.kept is not None:
        notes = f" (kept: {change.kept})"
    yield f"  {session.path.name}:{step.line} {what}{notes}"
    recorded, received = redactor.value(change.recorded), redactor.value(change.received)
    for sign, path, value in differences(recorded, received):
        yield f"    {sign} {path or 'value'}: {show(value)}"


def differences(recorded: Any, received: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """The smallest parts in which two expectations differ: a sign, the path to it and its value.

    The sign is ``-`` for what only the first has, ``+`` for what only the second has.
    """
    if recorded == received and type(recorded) is type(received):
        return
    if _has_members(recorded) and _has_members(received):
        for name in {**recorded, **received}:
            below = f"{path}.{name}" if path else name
            yield from differences(
                recorded.get(name, _NOTHING), received.get(name, _NOTHING), below
            )
        return
    if isinstance(recorded, list) and isinstance(received, list) and len(recorded) == len(received):
        for index, (one, other) in enumerate(zip(recorded, received, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
        return
    if recorded is not _NOTHING:
        yield "-", path, recorded
    if received is not _NOTHING:
        yield "+", path, received


def _has_members(value: Any) -> bool:
    """Whether it is an object that is compared member by member, and no pattern."""
    return isinstance(value, dict) and not any(name.startswith("$") for name in value)
