"""Command ``exec-server-conformance rerecord``: differences between a server and the recordings.

Every applicable session is run, and its values are generalised as in a recording. Where this
results in a different expectation, the difference is printed and, with ``--write``, the session is
updated. Expectations with ``overrides`` and hand-written sessions are compared but never updated.
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
from exec_server_conformance.runner.patterns import generalise, match, show, substitute
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.redaction import Redactor
from exec_server_conformance.runner.selection import Applicability
from exec_server_conformance.runner.server_probe import ServerFeatures, probe
from exec_server_conformance.runner.session import Session, Transport, load_all, release
from exec_server_conformance.runner.suite import ExitCode, location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exec_server_conformance.runner.session import Step
    from exec_server_conformance.runner.target import Target

_NOTHING = object()
"""Marker for an absent value, as opposed to null."""


@dataclass(frozen=True, slots=True)
class Change:
    """Difference between a received value and the recorded expectation."""

    step: Step
    recorded: Any
    received: Any
    breaks: bool
    """True if running the session would fail because of it."""
    kept: str | None
    """Reason why the expectation is not updated; None if it is."""


@dataclass(slots=True)
class Rerecording:
    """Differences found in one session."""

    session: Session
    changes: list[Change] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def is_written(self) -> bool:
        """True if the session was not recorded from a server."""
        source: str = self.session.header.get("source", "written")
        return source.startswith("written")

    @property
    def is_refilled(self) -> bool:
        """True if the session changes."""
        return self.failure is None and any(change.kept is None for change in self.changes)

    @property
    def breaks(self) -> bool:
        """True if running the session would fail because of an updated expectation."""
        return any(change.breaks and change.kept is None for change in self.changes)

    @property
    def failure_kept(self) -> str | None:
        """Reason why a session that cannot be run is not updated; None if there is none."""
        line = self.failure.line if self.failure else None
        step = next((one for one in self.session.steps if one.line == line), None)
        return self._reason_to_keep(step) if step else None

    @property
    def has_failed(self) -> bool:
        """True if the session could not be run for no accepted reason."""
        return self.failure is not None and self.failure_kept is None

    @property
    def is_kept(self) -> bool:
        """True if the server differs from an expectation that is not updated."""
        return self.failure_kept is not None or any(change.kept for change in self.changes)

    def _reason_to_keep(self, step: Step) -> str | None:
        reason: str | None = step.members.get("overrides")
        return reason or ("written" if self.is_written else None)

    def record(self, step: Step, actual: Any, placeholders: dict[str, str]) -> None:
        """Compare the value of a step with the recording, and update the expectation if allowed."""
        recorded = step.members.get("expect", _NOTHING)
        received = _with_patterns_of(
            recorded, substitute(recorded, placeholders), generalise(actual, placeholders), actual
        )
        if received == recorded:
            return
        breaks = recorded is _NOTHING or _breaks(step, substitute(recorded, placeholders), actual)
        kept = self._reason_to_keep(step)
        if kept is None:
            step.members["expect"] = received
        elif not breaks:
            return
        self.changes.append(Change(step, recorded, received, breaks, kept))


def _with_patterns_of(recorded: Any, filled: Any, received: Any, actual: Any) -> Any:
    """Return what was received, keeping the recorded patterns that match.

    A recorded pattern may be deliberately looser than the recorder's. ``filled`` is the recorded
    expectation with its placeholders substituted.
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
    """Return True if running the session would fail."""
    if not _matches(expected, actual):
        return True
    streams = expected.get("output", {}) if step.kind == "process" else None
    return streams is not None and not streams.keys() >= actual["output"].keys()


@dataclass(slots=True)
class Rerecorder:
    """Runs sessions on one server; ``report`` receives each result in order.

    ``done`` holds the results by index, also after an interruption.
    """

    target: Target
    sessions: Sequence[Session]
    transports: Sequence[Transport]
    report: Callable[[Rerecording], None]
    server_version: str | None = None
    source: str | None = None
    """Source to write into updated sessions; None to write nothing."""
    jobs: int = 1
    timeout: float | None = None
    done: dict[int, Rerecording] = field(default_factory=dict)
    not_applicable: int = 0
    _reported: int = 0

    async def run(self) -> None:
        """Run the applicable sessions; raise TargetError if the server cannot be run.

        Raises SessionError if no session is of a supported revision.
        """
        asked = await probe(self.target, self.transports[0])
        if not asked.revisions:
            raise TargetError(f"it supports none of {', '.join(REVISIONS)}")
        if not any(session.revision in asked.revisions for session in self.sessions):
            raise SessionError(f"no session of {' or '.join(asked.revisions)} matches")
        applicable = list(self._applicable(asked))
        pending = deque(enumerate(applicable))
        self.not_applicable = len(self.sessions) - len(pending)
        no_server: list[TargetError] = []

        async def work() -> None:
            while pending and not no_server:
                place, (session, transport) = pending.popleft()
                try:
                    self.done[place] = await self._play(session, transport, asked)
                    self._report_in_order()
                except TargetError as error:
                    no_server.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.jobs):
                group.create_task(work())
        if no_server:
            raise no_server[0]

    def _report_in_order(self) -> None:
        while self._reported in self.done:
            self.report(self.done[self._reported])
            self._reported += 1

    def report_remaining(self) -> None:
        """Report the results after the first missing one."""
        for place in sorted(self.done):
            if place > self._reported:
                self.report(self.done[place])

    def _applicable(self, asked: ServerFeatures) -> Iterator[tuple[Session, Transport]]:
        applicability = Applicability(
            asked,
            release(self.server_version) if self.server_version else None,
            self.target.url is not None,
        )
        for session in self.sessions:
            transport = next((one for one in session.transports if one in self.transports), None)
            is_supported = session.revision in asked.revisions
            if is_supported and transport and applicability.reason_against(session) is None:
                yield session, transport

    async def _play(
        self, session: Session, transport: Transport, asked: ServerFeatures
    ) -> Rerecording:
        result = Rerecording(session)
        player = Player(
            session,
            self.target,
            transport,
            also_speaks=asked.other_revisions(session.revision),
            recorder=result.record,
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
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    server = target(options, parser)
    if options.write and not options.source:
        parser.error("--write requires --source, the name of the recorded server")
    sessions = choice(options).of(load_all(options.sessions))
    rerecorder = Rerecorder(
        target=server,
        sessions=sessions,
        transports=transports(options, sessions),
        report=_report,
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
        rerecorder.report_remaining()
        code = ExitCode.INTERRUPTED
    done = list(rerecorder.done.values())
    _print_summary(done, rerecorder.not_applicable, is_written=options.write)
    if code is ExitCode.PASSED:
        is_changed = any(one.is_refilled for one in done) and not options.write
        if is_changed or any(one.has_failed for one in done):
            code = ExitCode.FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance rerecord",
        description="Run recorded sessions on a server and print each difference between the "
        "recorded (-) and the current (+) message. Files are changed only with "
        "--write.",
        epilog="Exit codes: 0 no differences or all written, 1 differences not written or "
        "sessions that could not be run, 2 usage error or invalid session file, 3 the "
        "server could not be run, 130 interrupted.",
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
        help="update the sessions that differ, except hand-written sessions and expectations with "
        "overrides",
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="name of the server to store in updated sessions, such "
        "as 'codex 0.139.0'; required by --write",
    )
    add_effort(parser)
    return parser


def _report(result: Rerecording) -> None:
    """Print the differences in a session."""
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
        print(f"{verdict} {session.name}: {location(session, failure)}: {text}", flush=True)


def _print_summary(done: Sequence[Rerecording], not_applicable: int, *, is_written: bool) -> None:
    refilled = sum(one.is_refilled for one in done)
    broken = sum(one.is_refilled and one.breaks for one in done)
    kept = sum(one.is_kept for one in done)
    failed = sum(one.has_failed for one in done)
    print(
        f"{len(done)} run: {refilled} {'refilled' if is_written else 'changed'} ("
        f"{broken} would fail), {kept} kept although the server differs, {failed} failed; "
        f"{not_applicable} n/a"
    )
    if refilled and not is_written:
        print("no file was changed; use --write --source NAME to update the sessions")


def _shown(session: Session, change: Change, redactor: Redactor) -> Iterator[str]:
    step = change.step
    name = step.members[step.kind]
    what = name if step.kind == "call" else step.kind if name is True else f"{step.kind} {name}"
    notes = "" if change.breaks else " (the session still passes)"
    if change.kept is not None:
        notes = f" (kept: {change.kept})"
    yield f"  {session.path.name}:{step.line} {what}{notes}"
    recorded, received = redactor.value(change.recorded), redactor.value(change.received)
    for sign, path, value in differences(recorded, received):
        yield f"    {sign} {path or 'value'}: {show(value)}"


def differences(recorded: Any, received: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield the smallest differing parts of two expectations: sign, path and value.

    The sign is ``-`` for the first expectation and ``+`` for the second.
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
    """Return True for an object that is compared member by member, that is, not a pattern."""
    return isinstance(value, dict) and not any(name.startswith("$") for name in value)
