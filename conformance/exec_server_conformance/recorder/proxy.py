"""Standing between any client and any server: passes on what each says, and has it recorded.

Clients come over WebSocket or over this process's own stdin and stdout; the server is reached over
either, too. What passes is the client's and the server's own, byte for byte; only a message with
line breaks becomes one line where it goes on over pipes.
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
from exec_server_conformance.recorder.scenario import Event, Happening
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

_OF_A_HOP = frozenset(
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
"""Headers that each of the two connections has of its own."""

_CLOSE_SECONDS = 1.0
"""How long one end may take to agree that the connection is over."""

_SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""Close codes that may be sent; the others are made up by who misses one."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where clients come to."""

    transport: Transport
    host: str = ""
    port: int = 0

    @classmethod
    def of(cls, text: str) -> Side:
        """Read ``stdio`` or ``ws://HOST:PORT``; raises ArgumentTypeError for anything else."""
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


class _End(Protocol):
    """One of the two ends that messages pass between."""

    async def receive(self) -> tuple[bytes, bool] | None:
        """The next message, and whether it is binary; None at the end."""
        ...

    async def send(self, data: bytes, *, is_binary: bool) -> None:
        """Pass a message on; one that cannot get there any more is lost."""
        ...

    async def close(self, how: tuple[int, str]) -> None:
        """End it as the other end did, with its code and reason."""
        ...

    @property
    def closing(self) -> tuple[int, str]:
        """With which code and reason it ended."""
        ...


class _WebSocketEnd:
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


class _PipeEnd:
    closing = (1000, "")

    def __init__(self, link: Link) -> None:
        self._link = link

    async def receive(self) -> tuple[bytes, bool] | None:
        data = await self._link.receive()
        return None if data is None else (data, False)

    async def send(self, data: bytes, *, is_binary: bool) -> None:
        # Within JSON, a line break is nothing but space.
        await self._link.send(data.replace(b"\n", b" "), binary=is_binary)

    async def close(self, how: tuple[int, str]) -> None:
        await self._link.close()


class Proxy:
    """Passes messages between clients and a server until one of them, or a signal, ends it.

    A server that listens serves every client; over pipes each client has a server of its own.
    """

    def __init__(
        self,
        target: Target,
        transport: Transport,
        side: Side,
        recordings: Recordings,
        tell: Callable[[str], None],
    ) -> None:
        self._target = target
        self._transport: Transport = transport
        self._side = side
        self._recordings = recordings
        self._tell = tell
        self._servers: list[Server] = []
        self._idle: list[Server] = []
        self._upstreams: dict[ServerConnection, tuple[_End, Server]] = {}
        self._carrying: set[asyncio.Task[None]] = set()
        self._has_broken_down = False

    def run(self) -> ExitCode:
        """Do so; returns the exit code, once what passed has been written."""
        return asyncio.run(self._run())

    async def _run(self) -> ExitCode:
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[signal.Signals] = loop.create_future()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, _resolve, stopped, signum)
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
                    self._tell(f"the server could not be run: {error}")
                    return ExitCode.NO_SERVER
                case ListenError() as error:
                    self._tell(f"exec-server-conformance record: {error}")
                    return ExitCode.USAGE
                case error:
                    raise error
        elif stopped.result() is signal.SIGINT:
            return ExitCode.INTERRUPTED
        is_whole = not self._has_broken_down and not self._recordings.failed
        return ExitCode.PASSED if is_whole else ExitCode.FAILED

    async def _serve(self) -> None:
        """Serve whoever comes, until the one client has gone or the one server has ended."""
        async with contextlib.AsyncExitStack() as stack:
            client = await _own_pipes() if self._side.transport == "stdio" else None
            stack.push_async_callback(self._stop_servers)
            self._idle.append(await self._start_server())
            stack.push_async_callback(self._recordings.finish)
            if client is None:
                await self._listen(stack)
            else:
                upstream, server = await self._connect({}, "/")
                await self._carry(client, upstream, server, {})

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Serve WebSocket clients until a server that serves all of them has ended."""
        if self._target.url is not None:
            with contextlib.suppress(InvalidStatus):  # there is somebody, who wants credentials
                upstream, _ = await self._connect({}, "/")
                await upstream.close((1000, ""))
        try:
            listener = await stack.enter_async_context(
                serve(
                    self._handle,
                    self._side.host,
                    self._side.port,
                    process_request=self._open_upstream,
                    compression=None,
                    max_size=None,
                    ping_interval=None,
                    close_timeout=_CLOSE_SECONDS,
                    server_header=None,
                )
            )
        except OSError as error:
            raise ListenError(f"cannot listen on {self._side}: {error.strerror}") from None
        stack.push_async_callback(self._stop_carrying)
        port = next(iter(listener.sockets)).getsockname()[1]
        print(Side("ws", self._side.host, port), flush=True)
        if self._transport == "ws" and self._target.url is None:
            await self._idle[0].wait()
            await self._note_end(self._idle[0])
        else:
            await asyncio.get_running_loop().create_future()

    async def _open_upstream(
        self, websocket: ServerConnection, request: Request
    ) -> Response | None:
        """Connect to the server as a client connects, and refuse the client as it does."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return None
        headers = {
            name: value
            for name, value in request.headers.raw_items()
            if name.lower() not in _OF_A_HOP
        }
        try:
            self._upstreams[websocket] = await self._connect(headers, request.path)
        except InvalidStatus as refusal:
            self._tell(f"a client was refused: {refusal}")
            return refusal.response
        except TargetError as error:
            self._tell(f"a client was refused: {error}")
            return websocket.respond(http.HTTPStatus.BAD_GATEWAY, f"{error}\n")
        return None

    async def _handle(self, websocket: ServerConnection) -> None:
        upstream, server = self._upstreams.pop(websocket)
        assert websocket.request is not None
        headers = dict(websocket.request.headers.raw_items())
        carrying = asyncio.create_task(
            self._carry(_WebSocketEnd(websocket), upstream, server, headers)
        )
        self._carrying.add(carrying)
        await asyncio.wait({carrying})
        self._carrying.discard(carrying)
        if not carrying.cancelled():
            carrying.result()

    async def _stop_carrying(self) -> None:
        carrying = list(self._carrying)
        for task in carrying:
            task.cancel()
        if carrying:
            await asyncio.wait(carrying)

    async def _start_server(self) -> Server:
        """Start a server, or take the one that runs; raises TargetError."""
        server = Server(self._target, self._transport)
        self._servers.append(server)
        await server.start([], {})
        return server

    async def _stop_servers(self) -> None:
        await asyncio.gather(*(server.stop() for server in self._servers))

    async def _connect(self, headers: dict[str, str], path: str) -> tuple[_End, Server]:
        """An end at the server, as a client asked for it; raises TargetError or InvalidStatus."""
        if self._transport == "stdio":
            server = self._idle.pop() if self._idle else await self._start_server()
            return _PipeEnd(await server.connect({})), server
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
        return _WebSocketEnd(websocket), server

    async def _carry(
        self, client: _End, upstream: _End, server: Server, headers: dict[str, str]
    ) -> None:
        """Pass on what both say until one of them ends; what the server says then still passes."""
        number = self._recordings.opened(time.monotonic(), headers)
        sending = asyncio.create_task(self._pass(number, "sent", client, upstream))
        receiving = asyncio.create_task(self._pass(number, "received", upstream, client))
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
        happening: Happening = "ended" if is_over else "closed"
        self._recordings.over(Event(number, happening, seconds=time.monotonic()))
        if is_over and self._transport == "stdio":
            await self._note_end(server)

    async def _pass(self, number: int, happening: Happening, source: _End, to: _End) -> None:
        try:
            while (message := await source.receive()) is not None:
                data, is_binary = message
                self._recordings.passed(Event(number, happening, data, is_binary, time.monotonic()))
                await to.send(data, is_binary=is_binary)
        except Failure as failure:
            self._tell(f"{'client' if happening == 'sent' else 'server'}: {failure}")

    async def _note_end(self, server: Server) -> None:
        """Tell of a server that has ended otherwise than well."""
        if await server.exit_status(STOP_SECONDS):
            self._has_broken_down = True
            self._tell(f"the server {await server.end()}")


class ListenError(ConformanceError):
    """Clients cannot come where they should."""


def _resolve(future: asyncio.Future[signal.Signals], signum: signal.Signals) -> None:
    if not future.done():
        future.set_result(signum)


async def _own_pipes() -> _End:
    """The client that has started this process; raises ListenError if it has no pipes for it."""
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
    transport.set_write_buffer_limits(0)  # nothing is left to write when a message has been sent
    return _PipeEnd(StdioLink(reader, asyncio.StreamWriter(transport, protocol, None, loop)))
