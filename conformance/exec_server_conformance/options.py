"""Options of the command line that several commands share."""

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
    """The server, and how to reach it."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cmd",
        metavar="CMD",
        help="command that runs the server; `--listen stdio` or `--listen ws://127.0.0.1:0` is "
        "appended per session unless the command has a --listen, and a command that listens "
        "prints its ws:// URL on stdout",
    )
    where.add_argument("--url", metavar="URL", help="ws:// URL of a server that runs already")
    parser.add_argument(
        "--transport",
        choices=["ws", "stdio", "both"],
        default="both",
        help="transports to play over (default: %(default)s; --url means ws)",
    )


def target(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Target:
    """The one of ``add_target``; without one the usage is wrong."""
    if not options.cmd and not options.url:
        parser.error("one of the arguments --cmd --url is required")
    return Target(options.cmd, options.url)


def transports(options: argparse.Namespace, sessions: Iterable[Session]) -> list[Transport]:
    """Those of ``add_target`` that sessions have; raises SessionError if there are none."""
    asked = "ws" if options.url else options.transport
    offered = {one for session in sessions for one in session.transports}
    chosen = [one for one in get_args(Transport) if asked in ("both", one) and one in offered]
    if not chosen:
        raise SessionError(f"no session over {asked} matches")
    return chosen


def add_choice(parser: argparse.ArgumentParser) -> None:
    """What to play."""
    for name, settings in CHOICE_OPTIONS.items():
        parser.add_argument(f"--{name}", action="append", **settings)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which sessions."""
    add_choice(parser)
    parser.add_argument(
        "--sessions",
        metavar="DIR",
        type=Path,
        default=SESSIONS,
        help="where the sessions are (default: those of the suite)",
    )


def choice(options: argparse.Namespace) -> Choice:
    """What ``add_choice`` has brought."""
    return Choice.of_options(lambda name: getattr(options, name))


def add_reports(parser: argparse.ArgumentParser) -> None:
    """What is known already, and what to write about a run."""
    parser.add_argument(
        "--known-deviations", metavar="FILE", type=Path, help="TOML file of known deviations"
    )
    parser.add_argument(
        "--write-baseline",
        metavar="FILE",
        type=Path,
        help="write what failed as a file of known deviations",
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
        help="where the reference pages are, for links from --html (default: docs/reference of "
        "the checkout that the suite runs from, if it does)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every session with its wire trace"
    )


def known_deviations(
    options: argparse.Namespace, everything: Iterable[Playable]
) -> list[Deviation]:
    """What is known already, of all that there is; raises SessionError for what is not there."""
    if not options.known_deviations:
        return []
    deviations = load_deviations(options.known_deviations)
    check_named(options.known_deviations, deviations, everything)
    return deviations


def check_reports(options: argparse.Namespace) -> None:
    """Raise ReportError unless every file can be written; better before a run than after."""
    for path in [*_wanted(options).values(), *filter(None, [options.write_baseline])]:
        reports.check_writable(path)


def wants_reports(options: argparse.Namespace) -> bool:
    """Whether anything is to be written that shows how each session went."""
    return bool(_wanted(options))


def write_reports(report: Report, options: argparse.Namespace) -> None:
    """Write what was asked for about a run; raises ReportError if it cannot be."""
    for kind, path in _wanted(options).items():
        reports.write(report, kind, path, options.reference_url)
    if options.write_baseline:
        reports.write_text(options.write_baseline, baseline(report))


def _wanted(options: argparse.Namespace) -> dict[str, Path]:
    return {kind: path for kind in reports.KINDS if (path := getattr(options, kind))}


def add_effort(parser: argparse.ArgumentParser) -> None:
    """How much at a time, and for how long."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=at_least_one,
        default=4 * (os.cpu_count() or 1),
        help="sessions at a time; most of a session is waiting (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="bound on each session (default: its own)",
    )


def at_least_one(text: str) -> int:
    """A number of something; raises argparse.ArgumentTypeError."""
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
