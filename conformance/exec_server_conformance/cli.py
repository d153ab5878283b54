"""``exec-server-conformance``: replay sessions against a server, record them, check them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exec_server_conformance import reports
from exec_server_conformance.errors import ReportError, SessionError
from exec_server_conformance.fake_server.cli import main as client
from exec_server_conformance.options import (
    add_effort,
    add_reports,
    add_selection,
    add_target,
    check_reports,
    choice,
    known_deviations,
    target,
    transports,
    wants_reports,
    write_reports,
)
from exec_server_conformance.recorder import cli as record
from exec_server_conformance.recorder import rerecord
from exec_server_conformance.reports import table, table_page
from exec_server_conformance.reports.terminal import Terminal
from exec_server_conformance.runner import matrix
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.session import (
    SESSIONS,
    Session,
    load_all,
)
from exec_server_conformance.runner.session_schema import fault
from exec_server_conformance.runner.suite import ExitCode, Plan, Suite, run

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance",
        description="Replay recorded sessions against an exec-server.",
        epilog="Exit codes: 0 all passed, 1 failures, 2 wrong usage or an unusable session file, 3 "
        "the server could not be run, 4 stale known deviations, 130 interrupted. "
        "`exec-server-conformance client --help`, `matrix --help`, `record --help`, "
        "`rerecord --help` and `check --help` describe the other commands.",
    )
    add_target(parser)
    parser.add_argument("--list", action="store_true", help="list the sessions and exit")
    add_selection(parser)
    parser.add_argument(
        "--revision",
        choices=[*REVISIONS, "all"],
        action="append",
        help="play the sessions of a revision, whether or not the server seems to speak it; "
        "repeatable (default: the revisions that the server turns out to speak)",
    )
    parser.add_argument(
        "--server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for; sessions about what other "
        "releases have do not apply to it (default: the newest)",
    )
    add_reports(parser)
    add_effort(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "record": record.main,
        "rerecord": rerecord.main,
        "check": _check,
        "matrix": _matrix,
        "client": client,
    }
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _replay(arguments)
    except (SessionError, ReportError) as error:
        print(f"exec-server-conformance: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _replay(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    revisions = tuple(options.revision or ())
    if "all" in revisions:
        revisions = REVISIONS
    everything = load_all(options.sessions)
    sessions = choice(options).of(everything)
    if options.list:
        for session in _of_revisions(sessions, revisions or REVISIONS):
            print(f"{session.name} [{', '.join(session.transports)}]  {session.description}")
        return ExitCode.PASSED
    server = target(options, parser)
    deviations = known_deviations(options, everything)
    check_reports(options)
    terminal = Terminal(verbose=options.verbose)
    plan = Plan(
        target=server,
        sessions=sessions,
        transports=transports(options, sessions),
        revisions=revisions,
        server_version=options.server_version,
        deviations=deviations,
        jobs=options.jobs,
        timeout=options.timeout,
        keeps_traces=options.verbose or wants_reports(options),
    )
    report = run(Suite(plan, terminal))
    write_reports(report, options)
    terminal.summarise(report)
    return report.summary.exit_code


def _of_revisions(sessions: Sequence[Session], revisions: tuple[str, ...]) -> list[Session]:
    chosen = [session for session in sessions if session.revision in revisions]
    if not chosen:
        raise SessionError(f"no session of {' or '.join(revisions) or 'any revision'} matches")
    return chosen


def _matrix(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance matrix",
        description="Play the sessions on several servers and put what came side by side. Prints "
        "the sessions that do not pass on every server that they apply to.",
    )
    parser.add_argument(
        "targets", metavar="TARGETS.toml", type=Path, help="the servers; see docs/conformance.md"
    )
    add_selection(parser)
    add_effort(parser)
    writers = {"json": table.as_json, "markdown": table.as_markdown, "html": table_page.render}
    for kind in writers:
        parser.add_argument(f"--{kind}", metavar="FILE", type=Path, help="write the whole table")
    options = parser.parse_args(arguments)
    wanted = {kind: path for kind in writers if (path := getattr(options, kind))}
    for path in wanted.values():
        reports.check_writable(path)
    columns = matrix.load_columns(options.targets)
    found = matrix.run(
        columns,
        choice(options).of(load_all(options.sessions)),
        jobs=options.jobs,
        timeout=options.timeout,
        tell=lambda server: print(
            f"{server.name}: done in {server.seconds:.0f} s", file=sys.stderr
        ),
    )
    for kind, path in wanted.items():
        reports.write_text(path, writers[kind](found))
    print(table.as_text(found), end="")
    return found.exit_code


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
            wrong = fault(session, step)
            if wrong is not None:
                raise SessionError(f"{session.path}:{step.line}: {wrong}")
    print(f"{len(sessions)} sessions are well-formed")
    return ExitCode.PASSED
