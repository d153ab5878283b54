"""``exec-server-conformance record``: write sessions, of scenarios or of what passes by."""

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
from exec_server_conformance.recorder.proxy import Proxy, Side
from exec_server_conformance.recorder.recording import SHOWN_VARIABLES, Recordings, Style
from exec_server_conformance.runner.contract import REVISIONS
from exec_server_conformance.runner.patterns import fill_in
from exec_server_conformance.runner.player import Player
from exec_server_conformance.runner.session import load, load_all
from exec_server_conformance.runner.suite import ExitCode, located

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server_conformance.runner.session import Session, Transport
    from exec_server_conformance.runner.target import Target


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    server = target(options, parser)
    if options.scenario is not None:
        path = options.scenario
        scenarios = load_all(path) if path.is_dir() else [load(path)]
        return record_scenarios(scenarios, server, options.out, options.source)
    style = Style(
        out=options.out,
        name=options.name,
        source=options.source,
        description=options.description or f"what a client said to {options.source}",
        revision=options.revision,
        workspace=options.workspace and str(options.workspace.resolve()),
        shown=SHOWN_VARIABLES | frozenset(options.keep_env or ()),
    )
    transport = _transport(options)
    recordings = Recordings(style, transport, _tell)
    return Proxy(server, transport, options.listen, recordings, recordings.tell).run()


def record_scenarios(
    scenarios: Sequence[Session], target: Target, out: Path, source: str
) -> ExitCode:
    """Play scenarios on a server, and write each with what came, generalised."""
    failed = 0
    for session in scenarios:
        player = Player(session, target, session.transports[0], recorder=fill_in)
        try:
            asyncio.run(player.play())
        except TargetError as error:
            _tell(f"the server could not be run: {error}")
            return ExitCode.NO_SERVER
        except Failure as failure:
            print(f"FAILED {session.name}: {located(session, failure)}: {failure}")
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
        description="Write sessions: of scenarios (sessions without expectations) that are played "
        "against a server, or of what passes between any client and a server.",
        epilog="Exit codes: 0 all recorded, 1 something could not be, 2 wrong usage or an unusable "
        "scenario, 3 the server could not be run, 130 interrupted.",
    )
    add_target(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scenario", metavar="PATH", type=Path, help="file or folder to play")
    what.add_argument(
        "--proxy",
        action="store_true",
        help="stand between a client and the server until the client goes, the server ends or "
        "Ctrl-C comes, and write a session for each that the client had",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where to write")
    parser.add_argument(
        "--source", metavar="NAME", required=True, help="what is recorded, such as 'codex 0.139.0'"
    )
    proxy = parser.add_argument_group("with --proxy")
    proxy.add_argument(
        "--listen",
        metavar="URL",
        type=Side.of,
        default=Side.of("ws://127.0.0.1:0"),
        help="where clients come to: ws://HOST:PORT, which is printed with the port that was taken "
        "for 0, or stdio for the client that starts this command (default: ws://127.0.0.1:0)",
    )
    proxy.add_argument(
        "--name",
        type=_name,
        default="recorded/session",
        help="group and name of the session; the next ones get a number (default: %(default)s)",
    )
    proxy.add_argument("--description", metavar="TEXT", help="the behaviour that is shown")
    proxy.add_argument(
        "--revision",
        choices=REVISIONS,
        help="of the sessions (default: the one that fits what passed)",
    )
    proxy.add_argument(
        "--workspace",
        metavar="DIR",
        type=Path,
        help="directory of the client's that ${workspace} stands for in the session",
    )
    proxy.add_argument(
        "--keep-env",
        metavar="NAME",
        action="append",
        help="write the value of this environment variable; repeatable (written without it: "
        f"{', '.join(sorted(SHOWN_VARIABLES))})",
    )
    return parser


def _name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)*", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected small letters, digits, _ and / such as process/echo, got {text!r}"
        )
    return text


def _transport(options: argparse.Namespace) -> Transport:
    """How the server is reached: as its command says, or as the client comes."""
    if options.url:
        return "ws"
    with contextlib.suppress(ValueError):  # who runs the command tells what is wrong with it
        words = shlex.split(options.cmd)
        if "--listen" in words[:-1]:
            return "stdio" if words[words.index("--listen") + 1] == "stdio" else "ws"
    transport: Transport = options.listen.transport
    if options.transport != "both":
        transport = options.transport
    return transport


def _tell(text: str) -> None:
    # Peers choose the names in it, and must not choose its lines or colours.
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    print(shown, file=sys.stderr, flush=True)
