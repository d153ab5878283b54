"""``codex-exec-server``: read the command line, listen, serve."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from exec_server import lazy_imports
from exec_server.errors import UsageError, system_text
from exec_server.printable import OneLineFormatter, printable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from exec_server.cli.server.listen_options import Access
    from exec_server.engine.processes.watchdog import Watchdog
    from exec_server.server.server import Server, Stop

_PLAIN: Final = ((), ("--listen", "stdio"), ("--listen", "stdio://"))
"""The command lines that clients start servers of their own with: they ask for nothing special."""

_SWITCH_SECONDS: Final = 0.0005
"""How long a thread that copies or lists files may keep the interpreter from the event loop;
Python's 5 ms add up for a request that has to wait several times."""

_ROOT_WARNING: Final = (
    "codex-exec-server: warning: running as root, so clients and their programs are root on this "
    "machine; run the server as a user of its own"
)
"""For an operator who lets others in. On stdio the client has started the server itself."""


class Order:
    """What a command line asks for, and what it asks for when it asks for nothing."""

    def __init__(
        self,
        *,
        protocol: str = "auto",
        access: Access | None = None,
        settings: Mapping[str, Any] | None = None,
        exits_on_stdin_close: bool = False,
        verbose: bool = False,
    ) -> None:
        self.protocol = protocol
        """One of ``revisions.PROTOCOLS``."""
        self.access = access
        """Where to listen, and whom to let in; None: for the one client on stdin and stdout."""
        self.settings = settings or {}
        """The fields of Settings that differ from the protocol's."""
        self.exits_on_stdin_close = exits_on_stdin_close
        """Whether a listening server stops at the end of stdin."""
        self.verbose = verbose
        """Whether to report connections that end badly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code. Raises SystemExit on wrong usage."""
    lazy_imports.load_msgspec()
    try:
        return _run(_order(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        text = str(error)
    except OSError as error:
        text = system_text(error.errno or 0)
    print(f"Error: {printable(text)}", file=sys.stderr)
    return 1


def _order(arguments: Sequence[str]) -> Order:
    if tuple(arguments) in _PLAIN:
        return Order()
    from exec_server.cli.server.arguments import parse  # noqa: PLC0415 (takes a while to load)

    return parse(arguments)


def _run(order: Order) -> int:
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from exec_server.engine.processes.watchdog import Watchdog  # noqa: PLC0415
    from exec_server.server.server import Stop  # noqa: PLC0415
    from exec_server.signals import on_signal  # noqa: PLC0415

    stop = Stop()
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        watchdog = Watchdog()
        stack.callback(watchdog.close)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            stack.callback(on_signal(runner.get_loop(), signum, stop.tell))
        return runner.run(_serve(order, watchdog, stop))


async def _serve(order: Order, watchdog: Watchdog, stop: Stop) -> int:
    import asyncio  # noqa: PLC0415
    import gc  # noqa: PLC0415
    import logging  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from exec_server.revisions.registry import default_settings, revisions_of  # noqa: PLC0415
    from exec_server.server.server import Server  # noqa: PLC0415

    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("codex-exec-server: "))
    logging.basicConfig(handlers=[handler], level=logging.INFO if order.verbose else logging.ERROR)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    settings = msgspec.structs.replace(default_settings(order.protocol), **order.settings)
    server = Server(revisions_of(order.protocol), watchdog=watchdog, settings=settings, stop=stop)
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.enable()
    if order.access is None:
        await _serve_stdio(server)
    else:
        if order.exits_on_stdin_close:
            _stop_at_eof(loop, stop)
        await _serve_websocket(server, order.access)
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of a fault of this program in one line."""
    import logging  # noqa: PLC0415

    logging.getLogger("exec_server").error("%s: %r", context["message"], context.get("exception"))


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: Stop) -> None:
    """Stop the server when whoever holds the other end of stdin lets go of it."""
    import threading  # noqa: PLC0415

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 65536):
                pass
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(stop.tell)

    # A thread, because stdin may be a file or /dev/null, which no event loop watches.
    threading.Thread(target=wait, daemon=True).start()


async def _serve_stdio(server: Server) -> None:
    from exec_server.server.server import serve_stdio  # noqa: PLC0415

    await serve_stdio(server, sys.stdin.fileno(), sys.stdout.fileno())


async def _serve_websocket(server: Server, access: Access) -> None:
    # Of many clients one may use up the descriptors that loading takes; messages that only this
    # parser understands are then still answered.
    json.loads("0")
    listener = access.listen(server)
    # codex prints the bare URL on stdout; the standalone server its banner on stderr.
    print(listener.url, flush=True)
    print(f"codex-exec-server listening on {listener.url}", file=sys.stderr, flush=True)
    if not os.geteuid():
        print(_ROOT_WARNING, file=sys.stderr, flush=True)
    try:
        await server.stop.wait()
    finally:
        await listener.aclose()
