"""The command line of ``codex-exec-server``: what it can ask for, and what it does ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from exec_server.cli.server.limit_options import add_setting_options, given_settings, whole_number
from exec_server.cli.server.listen_options import Access, add_options, parse_listen_url
from exec_server.cli.server.main import Order
from exec_server.revisions.registry import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


class _Refuse(argparse.Action):
    """An option of codex exec-server that asks for what this server does not do."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string}: {self.const}")


def _add_codex_options(parser: argparse.ArgumentParser) -> None:
    """Options that scripts pass to codex exec-server; the ones without meaning here are taken."""
    group = parser.add_argument_group(
        "options of codex exec-server",
        "taken so that this server can stand in for it; without effect here but the first",
    )
    group.add_argument(
        "--exit-on-stdin-close",
        action="store_true",
        help="with ws://: stop when stdin is closed",
    )
    group.add_argument(
        "--concurrent-requests",
        metavar="COUNT",
        type=whole_number,
        help="requests of a connection are always served side by side",
    )
    for flags in (("-c", "--config"), ("--enable",), ("--disable",)):
        group.add_argument(*flags, action="append", metavar="X", help="configures codex alone")
    group.add_argument("--strict-config", action="store_true", help="configures codex alone")
    group.add_argument(
        "--linux-sandbox-pid-namespace",
        choices=("isolate", "inherit"),
        help="no sandbox is set up",
    )
    group.add_argument(
        "--proxy-private-ips-via-upstream", action="store_true", help="no proxy is set up"
    )
    for flag in ("--remote", "--remote-transport", "--environment-id", "--name"):
        group.add_argument(
            flag,
            action=_Refuse,
            metavar="X",
            const="this server does not register itself with a remote service",
            help="refused: this server does not register itself anywhere",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codex-exec-server",
        usage="%(prog)s [--listen URL] [--protocol REVISION] [OPTIONS]",
        description="Run processes and serve files for a codex client, over JSON-RPC.",
        epilog="Exit codes: 0 the client left or the server was told to stop, 1 it could not "
        "start, 2 wrong usage.",
    )
    parser.add_argument(
        "--listen",
        metavar="URL",
        default="stdio://",
        help="ws://IP:PORT (port 0 picks a free one; the real URL is printed on stdout), "
        "wss://IP:PORT, unix:///PATH, or stdio:// for one client on stdin and stdout "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="auto",
        help="the revision to speak, and no other; auto speaks all of them at once, with each "
        "client its own (default: %(default)s)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="report connections that end badly on stderr"
    )
    add_options(parser)
    add_setting_options(parser)
    _add_codex_options(parser)
    return parser


def parse(arguments: Sequence[str]) -> Order:
    """What a command line asks for; reads the files it names.

    Raises SystemExit for what no command line may say, UsageError for what cannot be had.
    """
    options = _parser().parse_args(arguments)
    address = parse_listen_url(options.listen)
    access = Access(address, options)
    return Order(
        protocol=options.protocol,
        access=None if address is None else access,
        settings=given_settings(options),
        exits_on_stdin_close=options.exit_on_stdin_close,
        verbose=options.verbose,
    )
