"""Execution of sessions against one server: selection, results, exit code."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from exec_server_conformance.errors import (
    Failure,
    Mismatch,
    NoResponse,
    ServerCrashed,
    SessionError,
    TargetError,
    Unresponsive,
)
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.known_deviations import FLAKY_TRIES, applicable
from exec_server_conformance.runner.known_deviations import stale as stale_among
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.results import (
    Cause,
    Divergence,
    Drift,
    Outcome,
    Play,
    Report,
    RunHeader,
    Summary,
)
from exec_server_conformance.runner.selection import Applicability
from exec_server_conformance.runner.server_probe import ServerFeatures, probe
from exec_server_conformance.runner.session import release
from exec_server_conformance.runner.session_schema import find_violation
from exec_server_conformance.runner.target import Servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.runner.known_deviations import Deviation
    from exec_server_conformance.runner.results import DriftKind
    from exec_server_conformance.runner.session import Session, Transport
    from exec_server_conformance.runner.target import Target


class ExitCode(IntEnum):
    """Exit codes of the commands."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    NO_SERVER = 3
    """The target, a server or a client, could not be run."""
    STALE = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """Configuration of a run: the server, the sessions and how to run them."""

    target: Target
    sessions: Sequence[Session]
    transports: Sequence[Transport]
    revisions: Sequence[str] = ()
    """Revisions to run even if the probe does not detect them; empty for the detected ones."""
    server_version: str | None = None
    """Codex release that the server is or stands in for; None for the newest."""
    deviations: Sequence[Deviation] = ()
    features: ServerFeatures | None = None
    """Features of the server; None to probe for them."""
    jobs: int = 1
    """Number of sessions that run concurrently."""
    timeout: float | None = None
    """Time limit of each session in seconds; None for the limit of the session."""
    keeps_traces: bool = True
    """Keep the wire traces of sessions that passed."""
    strict: bool = False
    """Fail the run if there is drift."""


class Listener(Protocol):
    """Observer of a run in progress."""

    def run_started(self, total: int) -> None:
        """Called before the first of ``total`` sessions is run."""
        ...

    def play_finished(self, play: Play) -> None:
        """Called when a session has finished or does not apply."""
        ...


class NullListener:
    """Listener that ignores all events."""

    def run_started(self, total: int) -> None:
        """Ignore the event."""

    def play_finished(self, play: Play) -> None:
        """Ignore the event."""


class Runnable(Protocol):
    """A run that can be interrupted."""

    async def play(self) -> None:
        """Run everything."""
        ...

    def report(self, *, interrupted: bool = False) -> Report:
        """Return the report of what has been run so far."""
        ...


def run(suite: Runnable) -> Report:
    """Run a suite until it is complete or interrupted with Ctrl-C."""
    try:
        asyncio.run(suite.play())
    except KeyboardInterrupt:
        return suite.report(interrupted=True)
    return suite.report()


@dataclass(slots=True)
class Suite:
    """One execution of a plan."""

    plan: Plan
    listener: Listener
    _features: ServerFeatures = field(default_factory=lambda: ServerFeatures(()))
    _plays: list[Play] = field(default_factory=list)
    _drift: dict[tuple[DriftKind, str], list[tuple[str, Any, int]]] = field(default_factory=dict)
    _no_server: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def play(self) -> None:
        """Probe the server and run the applicable sessions, those with the longest time limit
        first.
        """
        plan = self.plan
        timeout = () if plan.timeout is None else (plan.timeout,)
        try:
            asked = plan.features or await probe(plan.target, plan.transports[0], *timeout)
        except TargetError as error:
            self._no_server = str(error)
            return
        supported = {*plan.revisions, *asked.revisions}
        self._features = ServerFeatures(
            tuple(one for one in REVISIONS if one in supported), asked.capabilities
        )
        if not supported:
            self._no_server = (
                f"it answers initialize but supports none of {', '.join(REVISIONS)}: it "
                "starts processes neither in / nor in file:///"
            )
            return
        pending = self._applicable()
        self.listener.run_started(len(pending))
        pending.sort(key=lambda one: self._bound(one[0]))

        servers = Servers(plan.target)

        async def work() -> None:
            while pending and self._no_server is None:
                await self._play_one(*pending.pop(), servers)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(plan.jobs):
                    group.create_task(work())
        finally:
            await servers.aclose()

    def report(self, *, interrupted: bool = False) -> Report:
        """Return the report of what has been run so far."""
        plan = self.plan
        redactor = Redactor()
        target = plan.target.url or redactor.command(plan.target.command or "")
        header = RunHeader(
            suite=f"exec-server-conformance {version('exec-server-conformance')}",
            target=redactor.text(target),
            started=self._started.isoformat(timespec="seconds"),
            revisions=list(self._features.revisions),
            capabilities=sorted(self._features.capabilities),
            server_version=plan.server_version,
        )
        return build_report(
            header,
            self._plays,
            plan.deviations,
            seconds=time.monotonic() - self._began,
            no_target=self._no_server,
            interrupted=interrupted,
            drift=self._merged_drift(),
            strict=plan.strict,
        )

    def _merged_drift(self) -> list[Drift]:
        """Return one entry per kind and place, sorted by place."""
        redactor = Redactor()
        return [
            Drift(
                kind=kind,
                place=place,
                example=redactor.value(found[0][1]),
                sessions=sorted({session for session, _, _ in found}),
                count=sum(count for _, _, count in found),
            )
            for (kind, place), found in sorted(self._drift.items(), key=lambda one: one[0][1])
        ]

    def _applicable(self) -> list[tuple[Session, Transport]]:
        """Return the sessions to run; finish those that do not apply."""
        plan = self.plan
        wanted = plan.revisions or self._features.revisions
        applicability = Applicability(
            self._features,
            release(plan.server_version) if plan.server_version else None,
            plan.target.url is not None,
        )
        sessions = [one for one in plan.sessions if one.revision in wanted]
        if not sessions:
            raise SessionError(f"no session of {' or '.join(wanted) or 'any revision'} matches")
        pending = []
        for session in sessions:
            reason = applicability.reason_against(session)
            for transport in session.transports:
                if transport not in plan.transports:
                    continue
                if reason is None:
                    pending.append((session, transport))
                else:
                    play = _play_of(session, transport, Outcome.NOT_APPLICABLE)
                    self._finish(replace(play, reason=reason))
        return pending

    def _bound(self, session: Session) -> float:
        return self.plan.timeout or session.timeout_seconds

    async def _play_one(self, session: Session, transport: Transport, servers: Servers) -> None:
        begin = time.monotonic()
        play, was_first = await self._try(session, transport, servers)
        if play.outcome is not Outcome.PASSED and not was_first:
            # Retry on a fresh server to rule out effects of earlier sessions.
            play, _ = await self._try(session, transport, None)
        tries = 1
        while self._is_flaky(play) and tries < FLAKY_TRIES:
            play, _ = await self._try(session, transport, None)
            tries += 1
        play = replace(play, tries=tries)
        self._finish(replace(play, seconds=round(time.monotonic() - begin, 6)))

    def _is_flaky(self, play: Play) -> bool:
        """Return True if a play failed like a flaky deviation."""
        if play.outcome is not Outcome.FAILED or not play.divergence:
            return False
        failure = _failure_of(play.divergence)
        entries = applicable(self.plan.deviations, play)
        return any(one.flaky and one.fails_with.matches(failure) for one in entries)

    async def _try(
        self, session: Session, transport: Transport, servers: Servers | None
    ) -> tuple[Play, bool]:
        """Run a session; return its result and True if the server was started for it."""
        play = _play_of(session, transport, Outcome.PASSED)
        entries = applicable(self.plan.deviations, play)
        player = Player(
            session,
            self.plan.target,
            transport,
            servers=servers,
            also_speaks=self._features.other_revisions(session.revision),
            timeout=self._bound(session),
            excused=[one.fails_with for one in entries if one.check_only],
        )
        try:
            await player.play()
            if player.findings.tolerated:
                failure = player.findings.tolerated[0]
                play = self._failed(play, session, failure, player.trace.redactor)
        except Failure as failure:
            play = self._failed(play, session, failure, player.trace.redactor)
        except SessionError as error:
            play = replace(
                play, outcome=Outcome.ERROR, reason=str(error), cause=Cause.INVALID_SESSION
            )
        except TargetError as error:
            if player.was_first:
                self._no_server = str(error)
            play = replace(play, outcome=Outcome.ERROR, reason=f"no server: {error}")
        for key, (example, count) in player.findings.drift.items():
            self._drift.setdefault(key, []).append((session.name, example, count))
        if play.outcome is not Outcome.PASSED or self.plan.keeps_traces:
            play = replace(play, trace=player.trace.entries)
        return play, player.was_first

    def _failed(self, play: Play, session: Session, failure: Failure, redactor: Redactor) -> Play:
        message = redactor.text(str(failure))
        mismatch = failure if isinstance(failure, Mismatch) else None
        divergence = Divergence(
            line=failure.line,
            message=message,
            kind=failure.kind,
            where=failure.where or UNSET,
            expected=UNSET if mismatch is None else redactor.value(mismatch.expected),
            received=UNSET if mismatch is None else redactor.value(mismatch.received),
            entry=UNSET if failure.entry is None else failure.entry,
        )
        play = replace(
            play,
            outcome=Outcome.FAILED,
            cause=Cause.SERVER_NO_RESPONSE
            if isinstance(failure, NoResponse)
            else Cause.SERVER_VIOLATION,
            reason=f"{location(session, failure)}: {message}",
            divergence=divergence,
        )
        session_violation = mismatch and next(
            (find_violation(session, step) for step in session.steps if step.line == failure.line),
            None,
        )
        if session_violation:
            place = location(session, failure)
            reason = f"{place}: the session is invalid: {session_violation} ({message})"
            return replace(play, outcome=Outcome.ERROR, cause=Cause.INVALID_SESSION, reason=reason)
        return judged(play, failure, self.plan.deviations)

    def _finish(self, play: Play) -> None:
        self._plays.append(play)
        self.listener.play_finished(play)


def location(session: Session, failure: Failure) -> str:
    """Return file name and line of the failed step."""
    return f"{session.path.name}:{failure.line}"


def _play_of(session: Session, transport: Transport, outcome: Outcome) -> Play:
    return Play(
        session=session.name,
        transport=transport,
        description=session.description,
        level=session.level,
        methods=session.methods,
        outcome=outcome,
    )


def build_report(
    header: RunHeader,
    plays: Sequence[Play],
    deviations: Sequence[Deviation],
    *,
    seconds: float,
    no_target: str | None,
    interrupted: bool,
    drift: Sequence[Drift] = (),
    strict: bool = False,
) -> Report:
    """Build the report: sorted results, stale deviations, totals and exit code.

    ``no_target`` is the reason why the target could not be run; None if it could.
    """
    outcomes = {(one.session, one.transport): one.outcome for one in plays}
    stale = stale_among(deviations, outcomes)
    plays = [
        replace(
            play, outcome=Outcome.STALE, reason=f"passed although a known deviation applies: {why}"
        )
        if play.outcome is Outcome.PASSED and (why := _reason(stale, play))
        else play
        for play in plays
    ]
    plays.sort(key=lambda play: (play.session, play.transport))
    counts = Counter(play.outcome for play in plays)
    if interrupted:
        code = ExitCode.INTERRUPTED
    elif no_target is not None:
        code = ExitCode.NO_SERVER
    elif counts[Outcome.FAILED] or counts[Outcome.ERROR] or (strict and drift):
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
    return Report(header, plays, summary, list(drift))


def judged(play: Play, failure: Failure, deviations: Sequence[Deviation]) -> Play:
    """Return a failed play with its outcome: known, failed or, after a breakdown, error."""
    entries = [one for one in applicable(deviations, play) if not one.flaky]
    is_crash = isinstance(failure, ServerCrashed)
    known = next((one for one in entries if one.fails_with.matches(failure)), None)
    if known is not None and not is_crash:
        return replace(play, outcome=Outcome.KNOWN, known_deviation=known.reason)
    if entries and not is_crash:
        expected = " or ".join(str(one.fails_with) for one in entries)
        reason = f"{play.reason} (differs from the known deviation: {expected})"
        play = replace(play, reason=reason)
    if isinstance(failure, Unresponsive | ServerCrashed):
        return replace(play, outcome=Outcome.ERROR)
    return play


def _failure_of(divergence: Divergence) -> Failure:
    """Return the failure that a divergence was made from, for comparison."""
    failure = Failure(divergence.message)
    failure.kind = divergence.kind
    failure.where = divergence.where or ""
    return failure


def _reason(deviations: Sequence[Deviation], play: Play) -> str | None:
    return next((one.reason for one in applicable(deviations, play)), None)
