"""Playing sessions against one server: which of them, how each went, and what that comes to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from exec_server_conformance.errors import (
    Death,
    Failure,
    Mismatch,
    Muteness,
    SessionError,
    Silence,
    TargetError,
)
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.known_deviations import stale as stale_among
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import (
    Blame,
    Divergence,
    Outcome,
    Play,
    Report,
    RunHeader,
    Summary,
)
from exec_server_conformance.runner.selection import Applicability
from exec_server_conformance.runner.server_probe import Abilities, ask
from exec_server_conformance.runner.session import release
from exec_server_conformance.runner.session_schema import fault
from exec_server_conformance.runner.target import Servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.runner.known_deviations import Deviation
    from exec_server_conformance.runner.session import Session, Transport
    from exec_server_conformance.runner.target import Target


class ExitCode(IntEnum):
    """What the program ends with."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    """There was no target, a server or a client, to judge."""
    STALE = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play against which server."""

    target: Target
    sessions: Sequence[Session]
    transports: Sequence[Transport]
    revisions: Sequence[str] = ()
    """Played whether or not the server seems to speak them; empty: those that it speaks."""
    server_version: str | None = None
    """Codex release that the server is or stands in for; None for the newest."""
    deviations: Sequence[Deviation] = ()
    abilities: Abilities | None = None
    """What the server can do; None: it is asked."""
    jobs: int = 1
    """Sessions at a time."""
    timeout: float | None = None
    """Bound on each session in seconds; None leaves each its own."""
    keeps_traces: bool = True
    """Whether the wire traces of plays that passed are kept, for somebody to see."""


class Listener(Protocol):
    """Told of a run while it goes on."""

    def begun(self, total: int) -> None:
        """So many plays are about to begin."""
        ...

    def ended(self, play: Play) -> None:
        """A play has ended, or does not apply."""
        ...


class Quiet:
    """A listener that says nothing."""

    def begun(self, total: int) -> None:
        """So many plays are about to begin."""

    def ended(self, play: Play) -> None:
        """A play has ended, or does not apply."""


class Runnable(Protocol):
    """A run that can be cut short."""

    async def play(self) -> None:
        """Play to the end."""
        ...

    def report(self, *, interrupted: bool = False) -> Report:
        """What has come of the run so far."""
        ...


def run(suite: Runnable) -> Report:
    """Play a suite to its end, or to Ctrl-C."""
    try:
        asyncio.run(suite.play())
    except KeyboardInterrupt:
        return suite.report(interrupted=True)
    return suite.report()


@dataclass(slots=True)
class Suite:
    """One run of a plan; ``report`` tells what came of it, also when it was cut short."""

    plan: Plan
    listener: Listener
    _abilities: Abilities = field(default_factory=lambda: Abilities(()))
    _plays: list[Play] = field(default_factory=list)
    _no_server: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def play(self) -> None:
        """Ask the server what it can do, and play what applies, the slowest sessions first."""
        plan = self.plan
        timeout = () if plan.timeout is None else (plan.timeout,)
        try:
            asked = plan.abilities or await ask(plan.target, plan.transports[0], *timeout)
        except TargetError as error:
            self._no_server = str(error)
            return
        spoken = {*plan.revisions, *asked.revisions}
        self._abilities = Abilities(
            tuple(one for one in REVISIONS if one in spoken), asked.capabilities
        )
        if not spoken:
            self._no_server = (
                f"it answers initialize, but seems to speak none of {', '.join(REVISIONS)}: it "
                "starts processes neither in / nor in file:///"
            )
            return
        todo = self._applicable()
        self.listener.begun(len(todo))
        todo.sort(key=lambda one: self._bound(one[0]))

        servers = Servers(plan.target)

        async def work() -> None:
            while todo and self._no_server is None:
                await self._play_one(*todo.pop(), servers)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(plan.jobs):
                    group.create_task(work())
        finally:
            await servers.aclose()

    def report(self, *, interrupted: bool = False) -> Report:
        """What has come of the run so far."""
        plan = self.plan
        redactor = Redactor()
        target = plan.target.url or redactor.command(plan.target.command or "")
        header = RunHeader(
            suite=f"exec-server-conformance {version('exec-server-conformance')}",
            target=redactor.text(target),
            started=self._started.isoformat(timespec="seconds"),
            revisions=list(self._abilities.revisions),
            capabilities=sorted(self._abilities.capabilities),
            server_version=plan.server_version,
        )
        return concluded(
            header,
            self._plays,
            plan.deviations,
            seconds=time.monotonic() - self._began,
            no_target=self._no_server,
            interrupted=interrupted,
        )

    def _applicable(self) -> list[tuple[Session, Transport]]:
        """What is to be played; what does not apply ends here."""
        plan = self.plan
        wanted = plan.revisions or self._abilities.revisions
        applicability = Applicability(
            self._abilities,
            release(plan.server_version) if plan.server_version else None,
            plan.target.url is not None,
        )
        sessions = [one for one in plan.sessions if one.revision in wanted]
        if not sessions:
            raise SessionError(f"no session of {' or '.join(wanted) or 'any revision'} matches")
        todo = []
        for session in sessions:
            reason = applicability.reason_against(session)
            for transport in session.transports:
                if transport not in plan.transports:
                    continue
                if reason is None:
                    todo.append((session, transport))
                else:
                    play = _of(session, transport, Outcome.NOT_APPLICABLE)
                    self._end(replace(play, reason=reason))
        return todo

    def _bound(self, session: Session) -> float:
        return self.plan.timeout or session.timeout_seconds

    async def _play_one(self, session: Session, transport: Transport, servers: Servers) -> None:
        begin = time.monotonic()
        play, was_first = await self._try(session, transport, servers)
        if play.outcome is not Outcome.PASSED and not was_first:
            # What other sessions have left in the server must not count against this one.
            play, _ = await self._try(session, transport, None)
        self._end(replace(play, seconds=round(time.monotonic() - begin, 6)))

    async def _try(
        self, session: Session, transport: Transport, servers: Servers | None
    ) -> tuple[Play, bool]:
        """Play a session; returns how it went, and whether it was the server's first."""
        player = Player(
            session,
            self.plan.target,
            transport,
            servers=servers,
            also_speaks=self._abilities.besides(session.revision),
            timeout=self._bound(session),
        )
        play = _of(session, transport, Outcome.PASSED)
        try:
            await player.play()
        except Failure as failure:
            play = self._failed(play, session, failure, player.trace.redactor)
        except SessionError as error:
            play = replace(play, outcome=Outcome.ERROR, reason=str(error), blame=Blame.SUITE)
        except TargetError as error:
            if player.was_first:
                self._no_server = str(error)
            play = replace(play, outcome=Outcome.ERROR, reason=f"no server: {error}")
        if play.outcome is not Outcome.PASSED or self.plan.keeps_traces:
            play = replace(play, trace=player.trace.entries)
        return play, player.was_first

    def _failed(self, play: Play, session: Session, failure: Failure, redactor: Redactor) -> Play:
        message = redactor.text(str(failure))
        mismatch = failure if isinstance(failure, Mismatch) else None
        divergence = Divergence(
            line=failure.line,
            message=message,
            where=UNSET if mismatch is None else mismatch.where,
            expected=UNSET if mismatch is None else redactor.value(mismatch.expected),
            received=UNSET if mismatch is None else redactor.value(mismatch.received),
            entry=UNSET if failure.entry is None else failure.entry,
        )
        play = replace(
            play,
            outcome=Outcome.FAILED,
            blame=Blame.SILENCE if isinstance(failure, Silence) else Blame.SERVER,
            reason=f"{located(session, failure)}: {message}",
            divergence=divergence,
        )
        own_fault = mismatch and next(
            (fault(session, step) for step in session.steps if step.line == failure.line), None
        )
        if own_fault:
            reason = f"{located(session, failure)}: the session is wrong: {own_fault} ({message})"
            return replace(play, outcome=Outcome.ERROR, blame=Blame.SUITE, reason=reason)
        deviations = self.plan.deviations
        if isinstance(failure, Muteness):
            deviations = [one for one in deviations if one.falls_silent]
        known = None if isinstance(failure, Death) else excuse(deviations, play)
        if known is None:
            broke_down = isinstance(failure, Muteness | Death)
            return replace(play, outcome=Outcome.ERROR) if broke_down else play
        return replace(play, outcome=Outcome.KNOWN, known_deviation=known)

    def _end(self, play: Play) -> None:
        self._plays.append(play)
        self.listener.ended(play)


def located(session: Session, failure: Failure) -> str:
    """File and line of the step that failed."""
    return f"{session.path.name}:{failure.line}"


def _of(session: Session, transport: Transport, outcome: Outcome) -> Play:
    return Play(
        session=session.name,
        transport=transport,
        description=session.description,
        level=session.level,
        methods=session.methods,
        outcome=outcome,
    )


def concluded(
    header: RunHeader,
    plays: Sequence[Play],
    deviations: Sequence[Deviation],
    *,
    seconds: float,
    no_target: str | None,
    interrupted: bool,
) -> Report:
    """The report of a run: its plays in order, the deviations that are stale, and the sum.

    ``no_target`` is why the target could not be run, if it could not.
    """
    outcomes = {(one.session, one.transport): one.outcome for one in plays}
    stale = stale_among(deviations, outcomes)
    judged = [
        replace(play, outcome=Outcome.STALE, reason=f"passed, but is known to deviate: {why}")
        if play.outcome is Outcome.PASSED and (why := excuse(stale, play))
        else play
        for play in plays
    ]
    judged.sort(key=lambda play: (play.session, play.transport))
    counts = Counter(play.outcome for play in judged)
    if interrupted:
        code = ExitCode.INTERRUPTED
    elif no_target is not None:
        code = ExitCode.NO_SERVER
    elif counts[Outcome.FAILED] or counts[Outcome.ERROR]:
        code = ExitCode.FAILED
    else:
        code = ExitCode.STALE if stale else ExitCode.PASSED
    summary = Summary(
        counts={outcome: counts[outcome] for outcome in Outcome},
        seconds=round(seconds, 3),
        exit_code=code,
        interrupted=interrupted,
        no_server=no_target,
        stale=[one.sessions for one in stale],
    )
    return Report(header, judged, summary)


def excuse(deviations: Sequence[Deviation], play: Play) -> str | None:
    """The reason of the first deviation that speaks of a play."""
    found = (one for one in deviations if one.excuses(play.session, play.transport))
    return next((one.reason for one in found), None)
