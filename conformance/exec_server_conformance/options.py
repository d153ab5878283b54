"""Command-line options shared by several commands."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from exec_server_conformance import reports
from exec_server_conformance.errors import SessionError
from exec_server_conformance.runner.known_deviations import baseline, check_named, load_deviations
from exec_server_conformance.runner.selection import CHOICE_OPTIONS, Choice
from exec_server_conformance.runner.session import SESSIONS, Transport
from exec_server_conformance.runner.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exec_server_conformance.runner.known_deviations import Deviation, Playable
    from exec_server_conformance.runner.results import Report
    from exec_server_conformance.runner.session import Session


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the server under test and the transports."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cmd",
        metavar="CMD",
        help="command that runs the server; `--listen stdio` or `--listen ws://127.0.0.1:0` is "
        "appended unless the command contains --listen; a listening server must print its "
        "ws:// URL on stdout",
    )
    where.add_argument("--url", metavar="URL", help="ws:// URL of a running server")
    parser.add_argument(
        "--transport",
        choices=["ws", "stdio", "both"],
        default="both",
        help="transports to use (default: %(default)s; only ws with --url)",
    )


def target(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Target:
    """Return the target given on the command line; exit with a usage error if there is none."""
    if not options.cmd and not options.url:
        parser.error("one of the arguments --cmd --url is required")
    return Target(options.cmd, options.url)


def transports(options: argparse.Namespace, sessions: Iterable[Session]) -> list[Transport]:
    """Return the selected transports; raise SessionError if no session uses any of them."""
    asked = "ws" if options.url else options.transport
    offered = {one for session in sessions for one in session.transports}
    chosen = [one for one in get_args(Transport) if asked in ("both", one) and one in offered]
    if not chosen:
        raise SessionError(f"no session over {asked} matches")
    return chosen


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that filter by name, method, tag and level."""
    for name, settings in CHOICE_OPTIONS.items():
        parser.add_argument(f"--{name}", action="append", **settings)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select sessions."""
    add_choice(parser)
    parser.add_argument(
        "--sessions",
        metavar="DIR",
        type=Path,
        default=SESSIONS,
        help="directory of the session files (default: those of the suite)",
    )


def choice(options: argparse.Namespace) -> Choice:
    """Return the filter built from the options of ``add_choice``."""
    return Choice.of_options(lambda name: getattr(options, name))


def add_reports(parser: argparse.ArgumentParser) -> None:
    """Add the options for known deviations and reports."""
    parser.add_argument(
        "--known-deviations",
        metavar="FILE",
        type=Path,
        help="TOML file with known deviations of "
        "the server; see "
        "docs/conformance.md for the format",
    )
    parser.add_argument(
        "--write-baseline",
        metavar="FILE",
        type=Path,
        help="write the failures of this run to FILE as known deviations",
    )
    for kind, name in (
        ("junit", "JUnit XML"),
        ("tap", "TAP 14"),
        ("jsonl", "JSON Lines"),
        ("html", "one HTML page"),
    ):
        parser.add_argument(f"--{kind}", metavar="FILE", type=Path, help=f"write {name}")
    parser.add_argument(
        "--reference-url",
        metavar="URL",
        help="base URL of the reference pages that --html links to (default: docs/reference of "
        "the checkout, if there is one)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every session with its wire trace"
    )


def known_deviations(
    options: argparse.Namespace, everything: Iterable[Playable]
) -> list[Deviation]:
    """Load the known deviations; raise SessionError for an entry that matches nothing in
    ``everything``.
    """
    if not options.known_deviations:
        return []
    deviations = load_deviations(options.known_deviations)
    check_named(options.known_deviations, deviations, everything)
    return deviations


def check_reports(options: argparse.Namespace) -> None:
    """Raise ReportError unless every output file can be written, so that the run does not fail
    late.
    """
    for path in [*_wanted(options).values(), *filter(None, [options.write_baseline])]:
        reports.check_writable(path)


def wants_reports(options: argparse.Namespace) -> bool:
    """Return True if a report was requested that contains the trace of each session."""
    return bool(_wanted(options))


def write_reports(report: Report, options: argparse.Namespace) -> None:
    """Write the requested reports; raise ReportError if one cannot be written."""
    for kind, path in _wanted(options).items():
        reports.write(report, kind, path, options.reference_url)
    if options.write_baseline:
        reports.write_text(options.write_baseline, baseline(report))


def _wanted(options: argparse.Namespace) -> dict[str, Path]:
    return {kind: path for kind in reports.KINDS if (path := getattr(options, kind))}


def add_effort(parser: argparse.ArgumentParser) -> None:
    """Add the options for concurrency and timeouts."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=at_least_one,
        default=4 * (os.cpu_count() or 1),
        help="maximum number of sessions that run concurrently; most of their time is spent "
        "waiting (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="time limit of each session in seconds (default: the limit in its header, usually 20)",
    )


def at_least_one(text: str) -> int:
    """Parse a positive integer; raise argparse.ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected more than 0 seconds, not {text!r}")
    return seconds
