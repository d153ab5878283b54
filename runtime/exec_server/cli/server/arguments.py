"""Command line of ``codex-exec-server``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from exec_server import __version__
from exec_server.cli import option_types
from exec_server.cli.server.limit_options import add_setting_options, given_settings
from exec_server.cli.server.listen_options import ListenConfig, add_listen_options
from exec_server.cli.server.listen_url import parse_listen_url
from exec_server.cli.server.server_options import ServerOptions
from exec_server.revisions.registry import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


class _Refuse(argparse.Action):
    """Action of an option of ``codex exec-server`` that this server cannot honour."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string}: {self.const}")


def _add_codex_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``codex exec-server``, which scripts may pass to this server too."""
    group = parser.add_argument_group(
        "options of codex exec-server",
        "Accepted for compatibility with `codex exec-server`; ignored except "
        "--exit-on-stdin-close.",
    )
    group.add_argument(
        "--exit-on-stdin-close",
        action="store_true",
        help="stop a listening server when its stdin is closed (default: go on)",
    )
    group.add_argument(
        "--concurrent-requests",
        metavar="COUNT",
        type=option_types.count,
        help="ignored: the requests of a connection are always served concurrently",
    )
    for flags in (("-c", "--config"), ("--enable",), ("--disable",)):
        group.add_argument(*flags, action="append", metavar="X", help="ignored: configures codex")
    group.add_argument("--strict-config", action="store_true", help="ignored: configures codex")
    group.add_argument(
        "--linux-sandbox-pid-namespace",
        choices=("isolate", "inherit"),
        help="ignored: a sandbox always has its own PID namespace",
    )
    group.add_argument(
        "--proxy-private-ips-via-upstream", action="store_true", help="ignored: no proxy is started"
    )
    for flag in ("--remote", "--remote-transport", "--environment-id", "--name"):
        group.add_argument(
            flag,
            action=_Refuse,
            metavar="X",
            const="this server does not register itself with a remote service",
            help="refused: this server does not register itself with a remote service",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codex-exec-server",
        usage="%(prog)s [--listen URL] [--protocol REVISION] [OPTIONS]",
        description="Run processes and serve files for a codex client, over JSON-RPC.",
        epilog="Signals: SIGTERM and SIGINT stop the server, a second one at once. A listening "
        "server reads its secrets and certificates again on SIGHUP. Exit codes: 0 the client left "
        "or the server was stopped, 1 it could not start, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--listen",
        metavar="URL",
        default="stdio://",
        help="address to listen on: ws://IP:PORT or wss://IP:PORT (port 0 selects a free port; the "
        "resulting URL is printed on stdout), unix:///PATH, or stdio:// for one client on stdin "
        "and stdout (default: %(default)s)",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="auto",
        help="protocol revision to speak; auto speaks all of them and follows each client "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="log on stderr why connections end with an error (default: log warnings and errors)",
    )
    add_listen_options(parser)
    add_setting_options(parser)
    _add_codex_options(parser)
    return parser


def parse(arguments: Sequence[str]) -> ServerOptions:
    """Parse a command line and read the files it names.

    Raises SystemExit for wrong usage, UsageError for what cannot be provided.
    """
    options = _parser().parse_args(arguments)
    return ServerOptions(
        protocol=options.protocol,
        listen=ListenConfig.given(parse_listen_url(options.listen), options),
        settings=given_settings(options),
        exit_on_stdin_close=options.exit_on_stdin_close,
        verbose=options.verbose,
    )
