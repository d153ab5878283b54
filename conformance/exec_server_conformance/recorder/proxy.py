"""Recording proxy between any client and any server.

Clients connect over WebSocket or over this process's stdin and stdout; the server is reached over
either. Messages are forwarded unchanged, except that line breaks within a message are replaced when
it is forwarded over pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from exec_server_conformance.errors import ConformanceError, Failure, TargetError
from exec_server_conformance.recorder.scenario import Event, EventKind
from exec_server_conformance.runner.suite import ExitCode
from exec_server_conformance.runner.target import (
    LINE_LIMIT,
    START_SECONDS,
    STOP_SECONDS,
    Server,
    StdioLink,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.connection import Connection
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from exec_server_conformance.recorder.recording import Recordings
    from exec_server_conformance.runner.session import Transport
    from exec_server_conformance.runner.target import Link, Target

_HOP_HEADERS = frozenset(
    {
        "connection",
        "host",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
    }
)
"""Hop-by-hop headers of the WebSocket handshake."""

_CLOSE_SECONDS = 1.0
"""Time limit of a closing handshake."""

_SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""Close codes that may be sent; the others are only reported locally."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Address that clients connect to."""

    transport: Transport
    host: str = ""
    port: int = 0

    @classmethod
    def of(cls, text: str) -> ListenAddress:
        """Parse ``stdio`` or ``ws://HOST:PORT``; raise ArgumentTypeError for anything else."""
        if text == "stdio":
            return cls("stdio")
        with contextlib.suppress(ValueError):
            parts = urlsplit(text)
            if parts.scheme == "ws" and parts.hostname and parts.port is not None:
                return cls("ws", parts.hostname, parts.port)
        raise argparse.ArgumentTypeError(
            f"expected stdio or ws://HOST:PORT such as ws://127.0.0.1:0, got {text!r}"
        )

    def __str__(self) -> str:
        if self.transport == "stdio":
            return "stdio"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"


class _Endpoint(Protocol):
    """One of the two endpoints that messages are forwarded between."""

    async def receive(self) -> tuple[bytes, bool] | None:
        """Return the next message and True if it is binary; None at the end."""
        ...

    async def send(self, data: bytes, *, is_binary: bool) -> None:
        """Forward a message; it is dropped if the endpoint is closed."""
        ...

    async def close(self, how: tuple[int, str]) -> None:
        """Close with the code and reason of the other endpoint."""
        ...

    @property
    def closing(self) -> tuple[int, str]:
        """Code and reason with which the endpoint was closed."""
        ...


class _WebSocketEndpoint:
    def __init__(self, websocket: Connection) -> None:
        self._websocket = websocket

    async def receive(self) -> tuple[bytes, bool] | None:
        try:
            message = await self._websocket.recv()
        except ConnectionClosed:
            return None
        return (message.encode(), False) if isinstance(message, str) else (message, True)

    async def send(self, data: bytes, *, is_binary: bool) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._websocket.send(data, text=not is_binary)

    async def close(self, how: tuple[int, str]) -> None:
        code, reason = how
        if code == CloseCode.ABNORMAL_CLOSURE:
            self._websocket.transport.abort()
        else:
            await self._websocket.close(code if code in _SENDABLE_CODES else 1000, reason)

    @property
    def closing(self) -> tuple[int, str]:
        return self._websocket.close_code or 1000, self._websocket.close_reason or ""


class _PipeEndpoint:
    closing = (1000, "")

    def __init__(self, link: Link) -> None:
        self._link = link

    async def receive(self) -> tuple[bytes, bool] | None:
        data = await self._link.receive()
        return None if data is None else (data, False)

    async def send(self, data: bytes, *, is_binary: bool) -> None:
        # A line break within JSON is only white space.
        await self._link.send(data.replace(b"\n", b" "), binary=is_binary)

    async def close(self, how: tuple[int, str]) -> None:
        await self._link.close()


class Proxy:
    """Forwards messages between clients and a server until one of them or a signal ends it.

    A listening server serves every client; over pipes each client has a server of its own.
    """

    def __init__(
        self,
        target: Target,
        transport: Transport,
        listen_address: ListenAddress,
        recordings: Recordings,
        report: Callable[[str], None],
    ) -> None:
        self._target = target
        self._transport: Transport = transport
        self._listen_address = listen_address
        self._recordings = recordings
        self._report = report
        self._servers: list[Server] = []
        self._idle: list[Server] = []
        self._upstreams: dict[ServerConnection, tuple[_Endpoint, Server]] = {}
        self._relays: set[asyncio.Task[None]] = set()
        self._server_failed = False

    def run(self) -> ExitCode:
        """Run the proxy; return the exit code after all recordings have been written."""
        return asyncio.run(self._run())

    async def _run(self) -> ExitCode:
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[signal.Signals] = loop.create_future()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, _set_result, stopped, signum)
        serving = asyncio.create_task(self._serve())
        ends: list[asyncio.Future[Any]] = [serving, stopped]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        await asyncio.wait({serving})
        if not serving.cancelled():
            match serving.exception():
                case None:
                    pass
                case TargetError() as error:
                    self._report(f"the server could not be run: {error}")
                    return ExitCode.NO_SERVER
                case ListenError() as error:
                    self._report(f"exec-server-conformance record: {error}")
                    return ExitCode.USAGE
                case error:
                    raise error
        elif stopped.result() is signal.SIGINT:
            return ExitCode.INTERRUPTED
        is_whole = not self._server_failed and not self._recordings.failed
        return ExitCode.PASSED if is_whole else ExitCode.FAILED

    async def _serve(self) -> None:
        """Serve until the only client disconnects or the only server exits."""
        async with contextlib.AsyncExitStack() as stack:
            client = await _stdio_endpoint() if self._listen_address.transport == "stdio" else None
            stack.push_async_callback(self._stop_servers)
            self._idle.append(await self._start_server())
            stack.push_async_callback(self._recordings.finish)
            if client is None:
                await self._listen(stack)
            else:
                upstream, server = await self._connect({}, "/")
                await self._relay(client, upstream, server, {})

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Serve WebSocket clients until a shared server exits."""
        if self._target.url is not None:
            with contextlib.suppress(
                InvalidStatus
            ):  # A server that requires credentials is running.
                upstream, _ = await self._connect({}, "/")
                await upstream.close((1000, ""))
        try:
            listener = await stack.enter_async_context(
                serve(
                    self._handle,
                    self._listen_address.host,
                    self._listen_address.port,
                    process_request=self._open_upstream,
                    compression=None,
                    max_size=None,
                    ping_interval=None,
                    close_timeout=_CLOSE_SECONDS,
                    server_header=None,
                )
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen on {self._listen_address}: {error.strerror}"
            ) from None
        stack.push_async_callback(self._stop_relays)
        port = next(iter(listener.sockets)).getsockname()[1]
        print(ListenAddress("ws", self._listen_address.host, port), flush=True)
        if self._transport == "ws" and self._target.url is None:
            await self._idle[0].wait()
            await self._report_exit(self._idle[0])
        else:
            await asyncio.get_running_loop().create_future()

    async def _open_upstream(
        self, websocket: ServerConnection, request: Request
    ) -> Response | None:
        """Connect to the server with the client's headers; refuse the client as the server does."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return None
        headers = {
            name: value
            for name, value in request.headers.raw_items()
            if name.lower() not in _HOP_HEADERS
        }
        try:
            self._upstreams[websocket] = await self._connect(headers, request.path)
        except InvalidStatus as refusal:
            self._report(f"a client was refused: {refusal}")
            return refusal.response
        except TargetError as error:
            self._report(f"a client was refused: {error}")
            return websocket.respond(http.HTTPStatus.BAD_GATEWAY, f"{error}\n")
        return None

    async def _handle(self, websocket: ServerConnection) -> None:
        upstream, server = self._upstreams.pop(websocket)
        assert websocket.request is not None
        headers = dict(websocket.request.headers.raw_items())
        relay = asyncio.create_task(
            self._relay(_WebSocketEndpoint(websocket), upstream, server, headers)
        )
        self._relays.add(relay)
        await asyncio.wait({relay})
        self._relays.discard(relay)
        if not relay.cancelled():
            relay.result()

    async def _stop_relays(self) -> None:
        relay = list(self._relays)
        for task in relay:
            task.cancel()
        if relay:
            await asyncio.wait(relay)

    async def _start_server(self) -> Server:
        """Start a server, or use the running one; raise TargetError on failure."""
        server = Server(self._target, self._transport)
        self._servers.append(server)
        await server.start([], {})
        return server

    async def _stop_servers(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))

    async def _connect(self, headers: dict[str, str], path: str) -> tuple[_Endpoint, Server]:
        """Connect to the server with the client's headers; raise TargetError or InvalidStatus."""
        if self._transport == "stdio":
            server = self._idle.pop() if self._idle else await self._start_server()
            return _PipeEndpoint(await server.connect({})), server
        server = self._idle[0]
        url = urlsplit(server.url or "")
        if path != "/":
            path, _, query = path.partition("?")
            url = url._replace(path=path, query=query)
        try:
            websocket = await connect(
                url.geturl(),
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                max_size=None,
                open_timeout=START_SECONDS,
                proxy=None,
                ping_interval=None,
                close_timeout=_CLOSE_SECONDS,
            )
        except InvalidStatus:
            raise
        except (OSError, WebSocketException, TimeoutError) as error:
            raise TargetError(
                f"cannot connect to {server.url}: {error or type(error).__name__}"
            ) from None
        return _WebSocketEndpoint(websocket), server

    async def _relay(
        self, client: _Endpoint, upstream: _Endpoint, server: Server, headers: dict[str, str]
    ) -> None:
        """Forward messages until one side closes; the server's remaining messages are forwarded,
        too.
        """
        number = self._recordings.connection_opened(time.monotonic(), headers)
        sending = asyncio.create_task(self._forward(number, "sent", client, upstream))
        receiving = asyncio.create_task(self._forward(number, "received", upstream, client))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            is_over = not sending.done()
            if is_over:
                await client.close(upstream.closing)
            else:
                await upstream.close(client.closing)
                await asyncio.wait({receiving}, timeout=STOP_SECONDS)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.wait({sending, receiving})
        kind: EventKind = "ended" if is_over else "closed"
        self._recordings.connection_closed(Event(number, kind, seconds=time.monotonic()))
        if is_over and self._transport == "stdio":
            await self._report_exit(server)

    async def _forward(
        self, number: int, kind: EventKind, source: _Endpoint, to: _Endpoint
    ) -> None:
        try:
            while (message := await source.receive()) is not None:
                data, is_binary = message
                self._recordings.message_relayed(
                    Event(number, kind, data, is_binary, time.monotonic())
                )
                await to.send(data, is_binary=is_binary)
        except Failure as failure:
            self._report(f"{'client' if kind == 'sent' else 'server'}: {failure}")

    async def _report_exit(self, server: Server) -> None:
        """Report a server that exited with an error."""
        if await server.exit_status(STOP_SECONDS):
            self._server_failed = True
            self._report(f"the server {await server.end()}")


class ListenError(ConformanceError):
    """The proxy cannot accept clients."""


def _set_result(future: asyncio.Future[signal.Signals], signum: signal.Signals) -> None:
    if not future.done():
        future.set_result(signum)


async def _stdio_endpoint() -> _Endpoint:
    """Return the endpoint of the parent process; raise ListenError if stdio cannot be used."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    try:
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb", 0)
        )
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(os.dup(1), "wb", 0)
        )
    except ValueError:
        raise ListenError("stdin and stdout must be pipes, sockets or terminals") from None
    transport.set_write_buffer_limits(0)  # Flush every message completely before send returns.
    return _PipeEndpoint(StdioLink(reader, asyncio.StreamWriter(transport, protocol, None, loop)))
