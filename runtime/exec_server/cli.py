"""``codex-exec-server``: parse the command line, listen, serve, exit."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from exec_server.access import Access, add_options, parse_listen_url
from exec_server.errors import UsageError
from exec_server.options import add_setting_options, settings_of, whole_number
from exec_server.revisions import PROTOCOLS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from exec_server.engine.guardian import Guardian
    from exec_server.server import Server, Stop


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


def run() -> NoReturn:
    """Run the server as a program of its own, and end it.

    Nothing is left to be cleaned up then but what the system does faster than the interpreter.
    """
    # Loading makes much that stays, and nothing that goes.
    gc.disable()
    try:
        code = main()
    except SystemExit as usage:
        code = usage.code if isinstance(usage.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code. Raises SystemExit on wrong usage."""
    options = _parser().parse_args(argv)
    try:
        address = parse_listen_url(options.listen)
        access = Access(address, options)
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    # Forked before threads, event loop and most imports exist, so that it stays small.
    from exec_server.engine.guardian import Guardian  # noqa: PLC0415

    guardian = Guardian.start()
    import asyncio  # noqa: PLC0415

    try:
        return asyncio.run(_serve(None if address is None else access, options, guardian))
    except OSError as error:
        print(f"Error: {error.strerror} (os error {error.errno})", file=sys.stderr)
        return 1
    finally:
        guardian.close()


async def _serve(access: Access | None, options: argparse.Namespace, guardian: Guardian) -> int:
    import asyncio  # noqa: PLC0415
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from exec_server.revisions import default_settings, revisions_of  # noqa: PLC0415
    from exec_server.server import Server, Stop  # noqa: PLC0415

    logging.basicConfig(
        format="codex-exec-server: %(message)s",
        level=logging.INFO if options.verbose else logging.ERROR,
    )
    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.tell)
    settings = settings_of(options, default_settings(options.protocol))
    server = Server(revisions_of(options.protocol), guardian=guardian, settings=settings, stop=stop)
    gc.freeze()
    gc.enable()
    if access is None:
        await _serve_stdio(server)
    else:
        if options.exit_on_stdin_close:
            _stop_at_eof(loop, stop)
        await _serve_websocket(server, access)
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of a fault of this program in one line."""
    import logging  # noqa: PLC0415

    logging.getLogger("exec_server").error("%s: %r", context["message"], context.get("exception"))


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: Stop) -> None:
    """Stop the server when whoever holds the other end of stdin lets go of it."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 65536):
                pass
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(stop.tell)

    # A thread, because stdin may be a file or /dev/null, which no event loop watches.
    threading.Thread(target=wait, daemon=True).start()


async def _serve_stdio(server: Server) -> None:
    from exec_server.server import serve_stdio  # noqa: PLC0415

    await serve_stdio(server, sys.stdin.fileno(), sys.stdout.fileno())


async def _serve_websocket(server: Server, access: Access) -> None:
    listener = access.listen(server)
    # codex prints the bare URL on stdout; the standalone server its banner on stderr.
    print(listener.url, flush=True)
    print(f"codex-exec-server listening on {listener.url}", file=sys.stderr, flush=True)
    try:
        await server.stop.wait()
    finally:
        await listener.aclose()
