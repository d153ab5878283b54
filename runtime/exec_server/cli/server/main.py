"""Main function of ``codex-exec-server``: parse the command line, listen, serve."""

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
    from collections.abc import Sequence

    from exec_server.cli.server.listen_options import ListenConfig
    from exec_server.cli.server.server_options import ServerOptions
    from exec_server.engine.processes.watchdog import Watchdog
    from exec_server.server.listener import WebSocketServer
    from exec_server.server.server import Server
    from exec_server.server.shutdown import ShutdownEvent

_PLAIN: Final = ((), ("--listen", "stdio"), ("--listen", "stdio://"))
"""Command lines of clients that start a server for themselves; they need no parser."""

_SWITCH_SECONDS: Final = 0.0005
"""Time that a thread may keep the interpreter from the event loop. Python's 5 ms add up for a
request that waits several times."""

_ROOT_WARNING: Final = (
    "codex-exec-server: warning: running as root, so clients and their programs are root on this "
    "machine; run the server as a user of its own"
)
"""Printed by listeners only. On stdio the client has started the server itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server and return the exit code. Raises SystemExit on wrong usage."""
    lazy_imports.load_msgspec()
    try:
        return _run(_options(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        text = str(error)
    except OSError as error:
        text = system_text(error.errno or 0)
    print(f"Error: {printable(text)}", file=sys.stderr)
    return 1


def _options(arguments: Sequence[str]) -> ServerOptions:
    if tuple(arguments) in _PLAIN:
        from exec_server.cli.server.server_options import ServerOptions  # noqa: PLC0415

        return ServerOptions()
    from exec_server.cli.server.arguments import parse  # noqa: PLC0415 (slow to load)

    return parse(arguments)


def _run(options: ServerOptions) -> int:
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from exec_server.engine.processes.watchdog import Watchdog  # noqa: PLC0415
    from exec_server.server.shutdown import ShutdownEvent  # noqa: PLC0415
    from exec_server.signals import on_signal  # noqa: PLC0415

    shutdown = ShutdownEvent()
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        watchdog = Watchdog()
        stack.callback(watchdog.close)
        stopping = [signal.SIGTERM, signal.SIGINT]
        if options.listen is None:
            stopping.append(signal.SIGHUP)  # the client's terminal is gone
        for signum in stopping:
            stack.callback(on_signal(runner.get_loop(), signum, shutdown.request))
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            # They would end the process, and all work with it. Programs do not inherit handlers.
            stack.callback(on_signal(runner.get_loop(), signum, lambda: None))
        return runner.run(_serve(options, watchdog, shutdown))


async def _serve(options: ServerOptions, watchdog: Watchdog, shutdown: ShutdownEvent) -> int:
    import asyncio  # noqa: PLC0415
    import gc  # noqa: PLC0415
    import logging  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from exec_server.revisions.registry import default_settings, revisions_of  # noqa: PLC0415
    from exec_server.server.server import Server  # noqa: PLC0415

    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("codex-exec-server: "))
    logging.basicConfig(
        handlers=[handler], level=logging.INFO if options.verbose else logging.WARNING
    )
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    settings = msgspec.structs.replace(
        default_settings(options.protocol), **(options.settings or {})
    )
    server = Server(
        revisions_of(options.protocol), watchdog=watchdog, settings=settings, shutdown=shutdown
    )
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.enable()
    if options.listen is None:
        await _serve_stdio(server)
    else:
        if options.exit_on_stdin_close:
            _shut_down_at_eof(loop, shutdown)
        await _serve_websocket(server, options.listen)
    return 0


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an internal error in one line."""
    import logging  # noqa: PLC0415

    logging.getLogger("exec_server").error("%s: %r", context["message"], context.get("exception"))


def _shut_down_at_eof(loop: asyncio.AbstractEventLoop, shutdown: ShutdownEvent) -> None:
    """Stop the server at the end of stdin."""
    import threading  # noqa: PLC0415

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 65536):
                pass
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(shutdown.request)

    # A thread, because stdin may be a file or /dev/null, which an event loop cannot watch.
    threading.Thread(target=wait, daemon=True).start()


async def _serve_stdio(server: Server) -> None:
    from exec_server.server.server import serve_stdio  # noqa: PLC0415

    await serve_stdio(server, sys.stdin.fileno(), sys.stdout.fileno())


async def _serve_websocket(server: Server, config: ListenConfig) -> None:
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from exec_server.signals import on_signal  # noqa: PLC0415

    # No module can be loaded while clients use all descriptors; this parser reads messages that the
    # fast one refuses.
    json.loads("0")
    listener = config.listen(server)
    loop = asyncio.get_running_loop()
    end_reloading = on_signal(loop, signal.SIGHUP, lambda: _reload(config, listener))
    # codex prints the bare URL on stdout; the standalone server prints its banner on stderr.
    print(listener.url, flush=True)
    print(f"codex-exec-server listening on {listener.url}", file=sys.stderr, flush=True)
    if not os.geteuid():
        print(_ROOT_WARNING, file=sys.stderr, flush=True)
    preloading = loop.create_task(_preload())
    try:
        await server.shutdown.wait()
    finally:
        preloading.cancel()
        end_reloading()
        await listener.aclose()


def _reload(config: ListenConfig, listener: WebSocketServer) -> None:
    """Read secrets and certificates again; keep the old ones if they cannot be used."""
    import logging  # noqa: PLC0415

    log = logging.getLogger("exec_server")
    try:
        config.reload(listener)
    except UsageError as error:
        log.error("reload failed, the previous secrets and certificates stay in use: %s", error)
    else:
        log.warning("secrets and certificates were read again")


async def _preload() -> None:
    """Load lazy modules while the server waits, one per turn of the event loop.

    Otherwise the first request of the first client would hold the loop meanwhile.
    """
    import asyncio  # noqa: PLC0415

    for name in lazy_imports.pending("exec_server"):
        await asyncio.sleep(0)
        lazy_imports.load(name)
