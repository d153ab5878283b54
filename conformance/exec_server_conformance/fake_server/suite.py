"""A run against a client: which revisions it speaks, and what came of each case."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from msgspec.structs import replace

from exec_server_conformance.errors import Failure, Mismatch, SessionError, Silence, TargetError
from exec_server_conformance.fake_server.cases import CASES, INPUT, SIMPLEST
from exec_server_conformance.fake_server.server import NotApplicable, Stage
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import Blame, Divergence, Outcome, Play, RunHeader
from exec_server_conformance.runner.suite import concluded, excuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.fake_server.cases import Case
    from exec_server_conformance.fake_server.client_program import ClientCommand
    from exec_server_conformance.runner.known_deviations import Deviation
    from exec_server_conformance.runner.results import Report
    from exec_server_conformance.runner.suite import Listener

CASE_SECONDS: Final = 20.0
"""How long a case may take unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """What to play to which client."""

    command: ClientCommand
    input_command: ClientCommand | None
    """The same client, passing its standard input on to the program."""
    cases: Sequence[Case]
    revisions: Sequence[str] = ()
    """Played whether or not the client seems to speak them; empty: those that it speaks."""
    judges_output: bool = True
    """Whether the client's standard output and exit code are the program's."""
    deviations: Sequence[Deviation] = ()
    jobs: int = 1
    """Cases at a time."""
    timeout: float = CASE_SECONDS
    """Bound on each case in seconds."""


@dataclass(slots=True)
class ClientSuite:
    """One run of a plan; ``report`` tells what came of it, also when it was cut short."""

    plan: ClientPlan
    listener: Listener
    _revisions: list[str] = field(default_factory=list)
    _plays: list[Play] = field(default_factory=list)
    _no_client: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def play(self) -> None:
        """Find out what the client speaks, and play what applies."""
        why_not = await self._why_not()
        if self._no_client is not None:
            return
        todo = []
        ended = {play.session for play in self._plays}
        for case in self.plan.cases:
            if case.name in ended:
                continue
            reason = why_not.get(case.revision) or self._reason_against(case)
            if reason is None:
                todo.append(case)
            else:
                self._end(replace(self._of(case, Outcome.NOT_APPLICABLE), reason=reason))
        self.listener.begun(len(todo))
        todo.reverse()

        async def work() -> None:
            while todo and self._no_client is None:
                self._end((await self._play_one(todo.pop()))[0])

        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.jobs):
                group.create_task(work())

    def report(self, *, interrupted: bool = False) -> Report:
        """What has come of the run so far."""
        plan = self.plan
        redactor = Redactor()
        header = RunHeader(
            suite=f"exec-server-conformance {version('exec-server-conformance')}",
            target=redactor.command(plan.command.text),
            started=self._started.isoformat(timespec="seconds"),
            revisions=self._revisions,
            role="client",
        )
        return concluded(
            header,
            self._plays,
            plan.deviations,
            seconds=time.monotonic() - self._began,
            no_target=self._no_client,
            interrupted=interrupted,
        )

    async def _why_not(self) -> dict[str, str]:
        """Why the client is not played the cases of a revision, by revision.

        It speaks a revision if it starts a program, as the revision's schema has it, on a server
        that speaks nothing else.
        """
        plan = self.plan
        if plan.revisions:
            self._revisions = list(plan.revisions)
            return {}
        offered = {case.revision for case in plan.cases}
        simplest = [
            one
            for one in CASES
            if one.name == f"{one.revision}/{SIMPLEST}" and one.revision in offered
        ]
        tried = await asyncio.gather(*map(self._play_one, simplest))
        if self._no_client is not None:
            return {}
        why_not = {
            case.revision: f"the client seems not to speak {case.revision}: {play.reason}"
            for case, (play, has_started) in zip(simplest, tried, strict=True)
            if not has_started
        }
        self._revisions = [one.revision for one in simplest if one.revision not in why_not]
        if len(why_not) == len(simplest):
            # It speaks nothing, and what went wrong is all there is to tell.
            for play, _ in tried:
                self._end(play)
        return why_not

    def _reason_against(self, case: Case) -> str | None:
        if self.plan.command.transport not in case.transports:
            return f"is about what {self.plan.command.transport} does not have"
        if case.needs_input and self.plan.input_command is None:
            return "needs a client that passes its standard input on (--input-cmd)"
        return None

    async def _play_one(self, case: Case) -> tuple[Play, bool]:
        """Play a case; returns how it went, and whether the client started a program."""
        plan = self.plan
        command, text = plan.command, None
        if case.needs_input:
            assert plan.input_command is not None
            command, text = plan.input_command, INPUT
        began = time.monotonic()
        stage = Stage(case.revision, command, text, judges_output=plan.judges_output)
        play = self._of(case, Outcome.PASSED)
        try:
            async with stage:
                await self._bounded(case, stage)
        except NotApplicable as reason:
            play = replace(play, outcome=Outcome.NOT_APPLICABLE, reason=str(reason))
        except Failure as failure:
            play = self._failed(play, failure, stage.trace.redactor)
        except SessionError as error:
            play = replace(play, outcome=Outcome.ERROR, reason=str(error), blame=Blame.SUITE)
        except TargetError as error:
            self._no_client = str(error)
            play = replace(play, outcome=Outcome.ERROR, reason=f"no client: {error}")
        seconds = round(time.monotonic() - began, 6)
        play = replace(play, seconds=seconds, trace=stage.trace.entries)
        return play, stage.process is not None

    async def _bounded(self, case: Case, stage: Stage) -> None:
        try:
            async with asyncio.timeout(self.plan.timeout):
                await case.plot(stage)
        except TimeoutError:
            raise Silence(
                f"expected {stage.missed}, {self.plan.timeout:g} s after the start"
            ) from None

    def _failed(self, play: Play, failure: Failure, redactor: Redactor) -> Play:
        message = redactor.text(str(failure))
        mismatch = failure if isinstance(failure, Mismatch) else None
        play = replace(
            play,
            outcome=Outcome.FAILED,
            blame=Blame.CLIENT_SILENCE if isinstance(failure, Silence) else Blame.CLIENT,
            reason=message,
            divergence=Divergence(
                message=message,
                where=UNSET if mismatch is None else mismatch.where,
                expected=UNSET if mismatch is None else redactor.value(mismatch.expected),
                received=UNSET if mismatch is None else redactor.value(mismatch.received),
                entry=UNSET if failure.entry is None else failure.entry,
            ),
        )
        known = excuse(self.plan.deviations, play)
        return (
            play if known is None else replace(play, outcome=Outcome.KNOWN, known_deviation=known)
        )

    def _of(self, case: Case, outcome: Outcome) -> Play:
        return Play(
            session=case.name,
            transport=self.plan.command.transport,
            description=case.description,
            level=case.level,
            methods=list(case.methods),
            outcome=outcome,
        )

    def _end(self, play: Play) -> None:
        self._plays.append(play)
        self.listener.ended(play)
