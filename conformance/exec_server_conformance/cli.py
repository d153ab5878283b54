"""``exec-server-conformance``: replay sessions against a server, record them, check them."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from exec_server_conformance.abilities import Abilities, ask
from exec_server_conformance.contract import REVISIONS, contract
from exec_server_conformance.deviations import Deviation, load_deviations
from exec_server_conformance.errors import Failure, SessionError, TargetError
from exec_server_conformance.patterns import in_places
from exec_server_conformance.player import Player
from exec_server_conformance.selection import Applicability
from exec_server_conformance.session import Session, Step, Transport, load, load_all, release
from exec_server_conformance.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSIONS = Path(__file__).with_name("sessions")
"""The recorded sessions that come with the suite."""

_SAMPLES = {
    "/workspace": "${workspace}",
    "http://127.0.0.1:1": "${http}",
    "00000000-0000-4000-8000-000000000000": "${session}",
}
"""What stands for the places of a session when it is checked without a server."""

PASSED, FAILED, USAGE, NO_SERVER = range(4)
"""Exit codes."""


@dataclass(slots=True)
class Outcome:
    """How one session over one transport went."""

    session: Session
    transport: Transport
    failure: str | None
    seconds: float
    trace: list[str]
    deviation: Deviation | None = None

    @property
    def name(self) -> str:
        """Session and transport, as reports name it."""
        return f"{self.session.name} [{self.transport}]"


@dataclass(slots=True)
class Run:
    """A whole run: what is left, what came of the rest."""

    target: Target
    abilities: Abilities
    deviations: list[Deviation]
    verbose: bool
    total: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    not_applicable: Counter[str] = field(default_factory=Counter)
    """How many sessions do not apply, by reason."""
    no_server: str | None = None

    async def play(self, todo: list[tuple[Session, Transport]], jobs: int) -> None:
        """Play the sessions, the slowest first, several at a time."""
        self.total = len(todo)
        waiting = sorted(todo, key=lambda one: -one[0].timeout_seconds)
        waiting.reverse()

        async def work() -> None:
            while waiting and self.no_server is None:
                await self._play_one(*waiting.pop())

        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work())

    async def _play_one(self, session: Session, transport: Transport) -> None:
        others = self.abilities.besides(session.revision)
        player = Player(session, self.target, transport, also_speaks=others)
        begin = time.monotonic()
        failure = None
        try:
            await player.play()
        except Failure as error:
            failure = str(error)
        except TargetError as error:
            self.no_server = str(error)
            return
        outcome = Outcome(session, transport, failure, time.monotonic() - begin, player.trace)
        if failure is not None:
            outcome.deviation = next(
                (one for one in self.deviations if one.excuses(session.name, transport)), None
            )
            if outcome.deviation is not None:
                outcome.deviation.used = True
        self.outcomes.append(outcome)
        self._show(outcome)

    def _show(self, outcome: Outcome) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K{len(self.outcomes)}/{self.total} {outcome.name}")
            sys.stdout.flush()
            clear = "\r\x1b[K"
        else:
            clear = ""
        if outcome.failure is not None:
            word = "FAILED" if outcome.deviation is None else "known "
            print(f"{clear}{word} {outcome.name}: {outcome.failure}")
            if outcome.deviation is not None:
                print(f"       known deviation: {outcome.deviation.reason}")
        elif self.verbose:
            print(f"{clear}passed {outcome.name} in {outcome.seconds:.2f} s")
        if self.verbose:
            print("".join(f"    {line}\n" for line in outcome.trace), end="")

    def leave_out(self, session: Session, transport: Transport, reason: str) -> None:
        """Note that a session does not apply."""
        self.not_applicable[reason] += 1
        if self.verbose:
            print(f"n/a    {session.name} [{transport}]: {reason}")

    def finish(self, began: float) -> int:
        """Print the summary; returns the exit code."""
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[K")
        if self.no_server is not None:
            return _no_server(self.no_server)
        failed = sum(1 for one in self.outcomes if one.failure and one.deviation is None)
        known = sum(1 for one in self.outcomes if one.deviation is not None)
        stale = [one for one in self.deviations if not one.used]
        for entry in stale:
            print(f"STALE  known deviation {entry.sessions!r}: no session it names fails")
        for reason, count in sorted(self.not_applicable.items()):
            print(f"n/a    {count}: {reason}")
        passed = len(self.outcomes) - failed - known
        print(
            f"{passed} passed, {failed} failed, {known} known deviations, "
            f"{self.not_applicable.total()} n/a "
            f"in {time.monotonic() - began:.1f} s"
        )
        return FAILED if failed or stale else PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance",
        description="Replay recorded sessions against an exec-server.",
        epilog="Exit codes: 0 all passed, 1 failures or stale known deviations, 2 wrong usage or "
        "an unusable session file, 3 the server could not be run. "
        "`exec-server-conformance record --help` and `check --help` describe the other commands.",
    )
    _add_target(parser)
    parser.add_argument("--list", action="store_true", help="list the sessions and exit")
    parser.add_argument(
        "--select",
        metavar="GLOB",
        action="append",
        help="play only sessions whose name matches, such as 'v1/fs/*'; repeatable",
    )
    parser.add_argument(
        "--revision",
        choices=[*REVISIONS, "all"],
        action="append",
        help="play the sessions of a revision, whether or not the server seems to speak it; "
        "repeatable (default: the revisions that the server turns out to speak)",
    )
    parser.add_argument(
        "--sessions",
        metavar="DIR",
        type=Path,
        default=SESSIONS,
        help="where the sessions are (default: those of the suite)",
    )
    parser.add_argument(
        "--server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for; sessions about what other "
        "releases have do not apply to it (default: the newest)",
    )
    parser.add_argument(
        "--known-deviations", metavar="FILE", type=Path, help="TOML file of known deviations"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every session with its wire trace"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=4 * (os.cpu_count() or 1),
        help="sessions at a time; most of a session is waiting (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="bound on each session (default: its own)"
    )
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--cmd",
        metavar="CMD",
        help="command that runs the server; `--listen stdio` or `--listen ws://127.0.0.1:0` is "
        "appended per session unless the command has a --listen, and a command that listens "
        "prints its ws:// URL on stdout",
    )
    target.add_argument("--url", metavar="URL", help="ws:// URL of a server that runs already")
    parser.add_argument(
        "--transport",
        choices=["ws", "stdio", "both"],
        default="both",
        help="transports to play over (default: %(default)s; --url means ws)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"record": _record, "check": _check}
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _replay(arguments)
    except SessionError as error:
        print(f"exec-server-conformance: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _replay(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    revisions = tuple(options.revision or ())
    if "all" in revisions:
        revisions = REVISIONS
    sessions = [
        session
        for session in load_all(options.sessions)
        if not options.select or any(fnmatchcase(session.name, one) for one in options.select)
    ]
    if options.list:
        for session in _of_revisions(sessions, revisions or REVISIONS):
            print(f"{session.name} [{', '.join(session.transports)}]  {session.description}")
        return PASSED
    if not options.cmd and not options.url:
        parser.error("one of the arguments --cmd --url is required")
    if options.jobs < 1:
        parser.error("argument --jobs: expected 1 or more")
    server_release = release(options.server_version) if options.server_version else None
    deviations = load_deviations(options.known_deviations) if options.known_deviations else []
    transport = "ws" if options.url else options.transport
    transports = [
        one
        for one in get_args(Transport)
        if transport in ("both", one) and any(one in session.transports for session in sessions)
    ]
    if not transports:
        raise SessionError(f"no session over {transport} matches")
    began = time.monotonic()
    target = Target(options.cmd, options.url)
    timeout = () if options.timeout is None else (options.timeout,)
    try:
        abilities = asyncio.run(ask(target, transports[0], *timeout))
    except TargetError as error:
        return _no_server(error)
    spoken = tuple(one for one in REVISIONS if one in revisions or one in abilities.revisions)
    abilities = Abilities(spoken, abilities.capabilities)
    run = Run(target, abilities, deviations, options.verbose)
    applicability = Applicability(abilities, server_release, options.url is not None)
    todo: list[tuple[Session, Transport]] = []
    for session in _of_revisions(sessions, revisions or spoken):
        if options.timeout is not None:
            session.timeout_seconds = options.timeout
        reason = applicability.reason_against(session)
        for transport in session.transports:
            if transport not in transports:
                continue
            if reason is None:
                todo.append((session, transport))
            else:
                run.leave_out(session, transport, reason)
    asyncio.run(run.play(todo, options.jobs))
    return run.finish(began)


def _of_revisions(sessions: list[Session], revisions: tuple[str, ...]) -> list[Session]:
    chosen = [session for session in sessions if session.revision in revisions]
    if not chosen:
        raise SessionError(f"no session of {' or '.join(revisions) or 'any revision'} matches")
    return chosen


def _no_server(reason: object) -> int:
    print(f"the server could not be run: {reason}", file=sys.stderr)
    return NO_SERVER


def _record(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance record",
        description="Play scenarios (sessions without expectations) against a server and write "
        "the sessions: what came, generalised.",
    )
    _add_target(parser)
    parser.add_argument(
        "--scenario", metavar="PATH", type=Path, required=True, help="file or folder"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument(
        "--source", metavar="NAME", required=True, help="what is recorded, such as 'codex 0.139.0'"
    )
    options = parser.parse_args(arguments)
    if not options.cmd and not options.url:
        parser.error("one of the arguments --cmd --url is required")
    scenarios = (
        load_all(options.scenario) if options.scenario.is_dir() else [load(options.scenario)]
    )
    failed = 0
    for session in scenarios:
        player = Player(
            session, Target(options.cmd, options.url), session.transports[0], recording=True
        )
        try:
            asyncio.run(player.play())
        except TargetError as error:
            return _no_server(error)
        except Failure as failure:
            print(f"FAILED {session.name}: {failure}")
            failed += 1
            continue
        session.header["source"] = options.source
        path = options.out / f"{session.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(session.dump(), encoding="utf-8")
    print(f"{len(scenarios) - failed} recorded, {failed} failed")
    return FAILED if failed else PASSED


def _check(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance check",
        description="Check that every session file is well-formed, and that expected errors, and "
        "the requests that are expected to succeed, validate against the protocol's schema.",
    )
    parser.add_argument("--sessions", metavar="DIR", type=Path, default=SESSIONS)
    options = parser.parse_args(arguments)
    sessions = load_all(options.sessions)
    for session in sessions:
        for step in session.steps:
            try:
                _check_step(session, step)
            except Failure as failure:
                raise SessionError(f"{session.path}:{step.line}: {failure}") from None
    print(f"{len(sessions)} sessions are well-formed")
    return PASSED


def _check_step(session: Session, step: Step) -> None:
    """Raise Failure unless an expected error, and a request that succeeds, keep the contract."""
    expected = step.members.get("expect")
    if step.kind not in ("call", "answer") or not isinstance(expected, dict):
        return
    rules = contract(session.revision)
    if "error" in expected:
        rules.check("#/$defs/ErrorResponse", {**expected, "id": 1}, "the error")
    elif step.kind == "call":
        method = step.members["call"]
        if method not in rules.methods:
            raise Failure(f"a method that {session.revision} does not have succeeds: {method}")
        request = {"id": 1, "method": method}
        if "params" in step.members:
            request["params"] = in_places(step.members["params"], _SAMPLES)
        rules.check(rules.methods[method]["request"], request, "the request")
