"""Run of the client cases: revision detection and results."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from msgspec.structs import replace

from exec_server_conformance.errors import Failure, Mismatch, NoResponse, SessionError, TargetError
from exec_server_conformance.fake_server.cases import BASIC_CASE, CASES, INPUT
from exec_server_conformance.fake_server.server import FakeServer, NotApplicable
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import Cause, Divergence, Outcome, Play, RunHeader
from exec_server_conformance.runner.suite import build_report, judged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.fake_server.cases import Case
    from exec_server_conformance.fake_server.client_program import ClientCommand
    from exec_server_conformance.runner.known_deviations import Deviation
    from exec_server_conformance.runner.results import Report
    from exec_server_conformance.runner.suite import Listener

CASE_SECONDS: Final = 20.0
"""Default time limit of a case."""


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """Configuration of a run: the client, the cases and how to run them."""

    command: ClientCommand
    input_command: ClientCommand | None
    """Command of the client that forwards its standard input to the program."""
    cases: Sequence[Case]
    revisions: Sequence[str] = ()
    """Revisions to run even if they are not detected; empty for the detected ones."""
    checks_output: bool = True
    """True if the client's standard output and exit code are those of the program."""
    deviations: Sequence[Deviation] = ()
    jobs: int = 1
    """Number of cases that run concurrently."""
    timeout: float = CASE_SECONDS
    """Time limit of each case in seconds."""


@dataclass(slots=True)
class ClientSuite:
    """One execution of a plan."""

    plan: ClientPlan
    listener: Listener
    _revisions: list[str] = field(default_factory=list)
    _plays: list[Play] = field(default_factory=list)
    _no_client: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def play(self) -> None:
        """Detect the client's revisions and run the applicable cases."""
        unsupported = await self._probe_revisions()
        if self._no_client is not None:
            return
        pending = []
        ended = {play.session for play in self._plays}
        for case in self.plan.cases:
            if case.name in ended:
                continue
            reason = unsupported.get(case.revision) or self._reason_against(case)
            if reason is None:
                pending.append(case)
            else:
                self._finish(replace(self._play_of(case, Outcome.NOT_APPLICABLE), reason=reason))
        self.listener.run_started(len(pending))
        pending.reverse()

        async def work() -> None:
            while pending and self._no_client is None:
                self._finish((await self._play_one(pending.pop()))[0])

        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.jobs):
                group.create_task(work())

    def report(self, *, interrupted: bool = False) -> Report:
        """Return the report of what has been run so far."""
        plan = self.plan
        redactor = Redactor()
        header = RunHeader(
            suite=f"exec-server-conformance {version('exec-server-conformance')}",
            target=redactor.command(plan.command.text),
            started=self._started.isoformat(timespec="seconds"),
            revisions=self._revisions,
            role="client",
        )
        return build_report(
            header,
            self._plays,
            plan.deviations,
            seconds=time.monotonic() - self._began,
            no_target=self._no_client,
            interrupted=interrupted,
        )

    async def _probe_revisions(self) -> dict[str, str]:
        """Return why revisions do not apply, by revision.

        A client supports a revision if it starts a program, with params that validate against the
        schema of the revision, on a server that supports nothing else.
        """
        plan = self.plan
        if plan.revisions:
            self._revisions = list(plan.revisions)
            return {}
        offered = {case.revision for case in plan.cases}
        basic_cases = [
            one
            for one in CASES
            if one.name == f"{one.revision}/{BASIC_CASE}" and one.revision in offered
        ]
        tried = await asyncio.gather(*map(self._play_one, basic_cases))
        if self._no_client is not None:
            return {}
        unsupported = {
            case.revision: f"the client does not seem to support {case.revision}: {play.reason}"
            for case, (play, has_started) in zip(basic_cases, tried, strict=True)
            if not has_started
        }
        self._revisions = [one.revision for one in basic_cases if one.revision not in unsupported]
        if len(unsupported) == len(basic_cases):
            # No revision is supported, so report the failures of the detection itself.
            for play, _ in tried:
                self._finish(play)
        return unsupported

    def _reason_against(self, case: Case) -> str | None:
        if self.plan.command.transport not in case.transports:
            return f"does not apply to {self.plan.command.transport}"
        if case.needs_input and self.plan.input_command is None:
            return "needs a client that forwards its standard input (--input-cmd)"
        return None

    async def _play_one(self, case: Case) -> tuple[Play, bool]:
        """Run a case; return its result and True if the client started a program."""
        plan = self.plan
        command, text = plan.command, None
        if case.needs_input:
            assert plan.input_command is not None
            command, text = plan.input_command, INPUT
        began = time.monotonic()
        server = FakeServer(case.revision, command, text, checks_output=plan.checks_output)
        play = self._play_of(case, Outcome.PASSED)
        try:
            async with server:
                await self._bounded(case, server)
        except NotApplicable as reason:
            play = replace(play, outcome=Outcome.NOT_APPLICABLE, reason=str(reason))
        except Failure as failure:
            play = self._failed(play, failure, server.trace.redactor)
        except SessionError as error:
            play = replace(
                play, outcome=Outcome.ERROR, reason=str(error), cause=Cause.INVALID_SESSION
            )
        except TargetError as error:
            self._no_client = str(error)
            play = replace(play, outcome=Outcome.ERROR, reason=f"no client: {error}")
        seconds = round(time.monotonic() - began, 6)
        play = replace(play, seconds=seconds, trace=server.trace.entries)
        return play, server.process is not None

    async def _bounded(self, case: Case, server: FakeServer) -> None:
        try:
            async with asyncio.timeout(self.plan.timeout):
                await case.script(server)
        except TimeoutError:
            raise NoResponse(
                f"expected {server.missed}, {self.plan.timeout:g} s after the start",
                server.waiting_for,
            ) from None

    def _failed(self, play: Play, failure: Failure, redactor: Redactor) -> Play:
        message = redactor.text(str(failure))
        mismatch = failure if isinstance(failure, Mismatch) else None
        play = replace(
            play,
            outcome=Outcome.FAILED,
            cause=Cause.CLIENT_NO_RESPONSE
            if isinstance(failure, NoResponse)
            else Cause.CLIENT_VIOLATION,
            reason=message,
            divergence=Divergence(
                message=message,
                kind=failure.kind,
                where=failure.where or UNSET,
                expected=UNSET if mismatch is None else redactor.value(mismatch.expected),
                received=UNSET if mismatch is None else redactor.value(mismatch.received),
                entry=UNSET if failure.entry is None else failure.entry,
            ),
        )
        return judged(play, failure, self.plan.deviations)

    def _play_of(self, case: Case, outcome: Outcome) -> Play:
        return Play(
            session=case.name,
            transport=self.plan.command.transport,
            description=case.description,
            level=case.level,
            methods=list(case.methods),
            outcome=outcome,
        )

    def _finish(self, play: Play) -> None:
        self._plays.append(play)
        self.listener.play_finished(play)
