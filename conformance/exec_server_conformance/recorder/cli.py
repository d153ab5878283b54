"""Command ``exec-server-conformance record``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exec_server_conformance.errors import Failure, TargetError
from exec_server_conformance.options import add_target, target
from exec_server_conformance.recorder.proxy import ListenAddress, Proxy
from exec_server_conformance.recorder.recording import SHOWN_VARIABLES, RecordingOptions, Recordings
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.patterns import fill_in
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.session import load, load_all
from exec_server_conformance.runner.suite import ExitCode, location

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.runner.session import Session, Transport
    from exec_server_conformance.runner.target import Target


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    server = target(options, parser)
    if options.scenario is not None:
        path = options.scenario
        scenarios = load_all(path) if path.is_dir() else [load(path)]
        return record_scenarios(scenarios, server, options.out, options.source)
    recording_options = RecordingOptions(
        out=options.out,
        name=options.name,
        source=options.source,
        description=options.description or f"traffic between a client and {options.source}",
        revision=options.revision,
        workspace=options.workspace and str(options.workspace.resolve()),
        shown=SHOWN_VARIABLES | frozenset(options.keep_env or ()),
    )
    transport = _transport(options)
    recordings = Recordings(recording_options, transport, _report)
    return Proxy(server, transport, options.listen, recordings, recordings.report).run()


def record_scenarios(
    scenarios: Sequence[Session], target: Target, out: Path, source: str
) -> ExitCode:
    """Run scenarios on a server and write each with the generalised values as expectations."""
    failed = 0
    for session in scenarios:
        player = Player(session, target, session.transports[0], recorder=fill_in)
        try:
            asyncio.run(player.play())
        except TargetError as error:
            _report(f"the server could not be run: {error}")
            return ExitCode.NO_SERVER
        except Failure as failure:
            print(f"FAILED {session.name}: {location(session, failure)}: {failure}")
            failed += 1
            continue
        session.header["source"] = source
        path = out / f"{session.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(session.dump(), encoding="utf-8")
    print(f"{len(scenarios) - failed} recorded, {failed} failed")
    return ExitCode.FAILED if failed else ExitCode.PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exec-server-conformance record",
        description="Write session files: from scenarios (sessions without expectations) that are "
        "run against a server, or from the traffic between any client and a server.",
        epilog="Exit codes: 0 everything recorded, 1 something could not be recorded, 2 usage "
        "error or invalid scenario, 3 the server could not be run, 130 interrupted.",
    )
    add_target(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--scenario",
        metavar="PATH",
        type=Path,
        help="scenario file, or directory of scenarios, to run",
    )
    what.add_argument(
        "--proxy",
        action="store_true",
        help="forward traffic between clients and the server until the client disconnects, the "
        "server exits or Ctrl-C is pressed, and write a session file for each protocol "
        "session",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="output directory")
    parser.add_argument(
        "--source",
        metavar="NAME",
        required=True,
        help="name of the recorded server, such as 'codex 0.139.0'",
    )
    proxy = parser.add_argument_group("with --proxy")
    proxy.add_argument(
        "--listen",
        metavar="URL",
        type=ListenAddress.of,
        default=ListenAddress.of("ws://127.0.0.1:0"),
        help="address for clients: ws://HOST:PORT, printed with the assigned port if PORT is 0, "
        "or stdio for a client that starts this command (default: ws://127.0.0.1:0)",
    )
    proxy.add_argument(
        "--name",
        type=_name,
        default="recorded/session",
        help="group and name of the session; further sessions get a numeric suffix (default: "
        "%(default)s)",
    )
    proxy.add_argument(
        "--description", metavar="TEXT", help="description of the recorded behaviour"
    )
    proxy.add_argument(
        "--revision",
        choices=REVISIONS,
        help="revision of the sessions (default: the one that fits the traffic best)",
    )
    proxy.add_argument(
        "--workspace",
        metavar="DIR",
        type=Path,
        help="directory of the client that is replaced by ${workspace} in the session",
    )
    proxy.add_argument(
        "--keep-env",
        metavar="NAME",
        action="append",
        help="store the value of this environment variable; repeatable (always stored: "
        f"{', '.join(sorted(SHOWN_VARIABLES))})",
    )
    return parser


def _name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)*", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected lower-case letters, digits, _ and / such as process/echo, got {text!r}"
        )
    return text


def _transport(options: argparse.Namespace) -> Transport:
    """Return the server's transport: as its command names it, or that of the client."""
    if options.url:
        return "ws"
    with contextlib.suppress(ValueError):  # An invalid command is reported when it is run.
        words = shlex.split(options.cmd)
        if "--listen" in words[:-1]:
            return "stdio" if words[words.index("--listen") + 1] == "stdio" else "ws"
    transport: Transport = options.listen.transport
    if options.transport != "both":
        transport = options.transport
    return transport


def _report(text: str) -> None:
    # Names chosen by peers must not add lines or terminal sequences.
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    print(shown, file=sys.stderr, flush=True)
