"""Command line of ``exec-server-conformance``."""

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
from exec_server_conformance.runner.session_schema import find_violation
from exec_server_conformance.runner.suite import ExitCode, Plan, Suite, run

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance",
        description="Run recorded sessions against an exec-server and report deviations from the "
        "protocol.",
        epilog="Exit codes: 0 passed, 1 failures or, with --strict, drift, 2 usage error or "
        "invalid session file, 3 the server could not be run, 4 stale known deviations, "
        "130 interrupted. Further commands: `exec-server-conformance client`, `matrix`, "
        "`record`, `rerecord` and `check`, each with --help.",
    )
    add_target(parser)
    parser.add_argument("--list", action="store_true", help="print the selected sessions and exit")
    add_selection(parser)
    parser.add_argument(
        "--revision",
        choices=[*REVISIONS, "all"],
        action="append",
        help="run the sessions of this revision even if the server does not seem to support it; "
        "repeatable (default: the revisions that the server supports)",
    )
    parser.add_argument(
        "--server-version",
        metavar="X.Y.Z",
        help="codex release that the server is or stands in for; sessions about other releases do "
        "not apply to it (default: the newest)",
    )
    add_reports(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with 1 if the server sends unknown members, flags, enumeration values or "
        "notifications, which are only reported otherwise",
    )
    add_effort(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
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
        strict=options.strict,
        keeps_traces=options.verbose or wants_reports(options),
    )
    report = run(Suite(plan, terminal))
    write_reports(report, options)
    terminal.print_summary(report)
    return report.summary.exit_code


def _of_revisions(sessions: Sequence[Session], revisions: tuple[str, ...]) -> list[Session]:
    chosen = [session for session in sessions if session.revision in revisions]
    if not chosen:
        raise SessionError(f"no session of {' or '.join(revisions) or 'any revision'} matches")
    return chosen


def _matrix(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance matrix",
        description="Run the sessions on several servers and compare the results. Prints the "
        "sessions that do not pass on every server that they apply to.",
    )
    parser.add_argument(
        "targets",
        metavar="TARGETS.toml",
        type=Path,
        help="TOML file that lists the servers; see docs/conformance.md for the format",
    )
    add_selection(parser)
    add_effort(parser)
    writers = {"json": table.as_json, "markdown": table.as_markdown, "html": table_page.render}
    for kind in writers:
        parser.add_argument(f"--{kind}", metavar="FILE", type=Path, help="write the complete table")
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
        report_server=lambda server: print(
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
        description="Validate session files, and check expected errors and successful requests "
        "against the protocol's schema.",
    )
    parser.add_argument("--sessions", metavar="DIR", type=Path, default=SESSIONS)
    options = parser.parse_args(arguments)
    sessions = load_all(options.sessions)
    for session in sessions:
        for step in session.steps:
            wrong = find_violation(session, step)
            if wrong is not None:
                raise SessionError(f"{session.path}:{step.line}: {wrong}")
    print(f"{len(sessions)} sessions are well-formed")
    return ExitCode.PASSED
