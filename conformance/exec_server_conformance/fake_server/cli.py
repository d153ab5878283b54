"""Command ``exec-server-conformance client``."""

from __future__ import annotations

import argparse

from exec_server_conformance.errors import SessionError
from exec_server_conformance.fake_server.cases import CASES, RELEASED
from exec_server_conformance.fake_server.client_program import ClientCommand
from exec_server_conformance.fake_server.suite import CASE_SECONDS, ClientPlan, ClientSuite
from exec_server_conformance.options import (
    add_choice,
    add_effort,
    add_reports,
    check_reports,
    choice,
    known_deviations,
    write_reports,
)
from exec_server_conformance.reports.terminal import Terminal
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.suite import ExitCode, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance client",
        description="Run a fake server with faults against a client and check the client's "
        "behaviour. The client must run one program of its choice and return the "
        "program's output and exit code as its own.",
    )
    parser.add_argument(
        "--cmd",
        metavar="CMD",
        help="client command; {url} is replaced by the ws:// URL to connect to, or {command} by a "
        "server command for the client to start over pipes",
    )
    parser.add_argument(
        "--input-cmd",
        metavar="CMD",
        help="client command that forwards its standard input to the program, with the same "
        "placeholder as --cmd; cases about input do not apply without it",
    )
    parser.add_argument(
        "--wire-only",
        action="store_true",
        help="check only the messages that the client sends and that it exits; for clients whose "
        "standard output and exit code are not those of the program",
    )
    parser.add_argument("--list", action="store_true", help="print the selected cases and exit")
    add_choice(parser)
    parser.add_argument(
        "--revision",
        choices=[*REVISIONS, "all"],
        action="append",
        help="run the cases of this revision even if the client does not seem to support it; "
        "repeatable (default: the revisions v0, v1 and v2 that the client supports)",
    )
    add_reports(parser)
    add_effort(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    everything = sorted(CASES, key=lambda case: case.revision)
    cases = choice(options).of(everything)
    revisions = tuple(options.revision or ())
    if "all" in revisions:
        revisions = REVISIONS
    offered = revisions or RELEASED
    cases = [case for case in cases if case.revision in offered]
    if not cases:
        raise SessionError(f"no case of {' or '.join(offered)} matches")
    if options.list:
        for case in cases:
            print(f"{case.name} [{', '.join(case.transports)}]  {case.description}")
        return ExitCode.PASSED
    if not options.cmd:
        parser.error("the argument --cmd is required")
    command = ClientCommand(options.cmd)
    input_command = ClientCommand(options.input_cmd) if options.input_cmd else None
    if input_command is not None and input_command.transport != command.transport:
        parser.error("--cmd and --input-cmd must both have {url}, or both {command}")
    check_reports(options)
    terminal = Terminal(verbose=options.verbose)
    plan = ClientPlan(
        command=command,
        input_command=input_command,
        cases=cases,
        revisions=revisions,
        checks_output=not options.wire_only,
        deviations=known_deviations(options, everything),
        jobs=options.jobs,
        timeout=options.timeout or CASE_SECONDS,
    )
    report = run(ClientSuite(plan, terminal))
    write_reports(report, options)
    terminal.print_summary(report)
    return report.summary.exit_code
