"""Endpoints that a client under test connects to: WebSocket or pipes."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from websockets.asyncio.server import serve

from exec_server_conformance.errors import Failure
from exec_server_conformance.fake_server import stdio_bridge as bridge
from exec_server_conformance.runner.target import LINE_LIMIT, StdioLink, WebSocketLink

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request

    from exec_server_conformance.runner.session import Transport
    from exec_server_conformance.runner.target import Link


class ConnectionHandler(Protocol):
    """Owner of the accepted connections."""

    async def serve(self, link: Link) -> None:
        """Serve a connection until it is closed."""
        ...

    def refuse(self, failure: Failure) -> None:
        """Report a handshake that servers refuse."""
        ...


class Endpoint:
    """Listening endpoint for the client under test; a context manager."""

    def __init__(self, host: ConnectionHandler, transport: Transport) -> None:
        self._host = host
        self._transport = transport
        self._listener: Server | asyncio.Server | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="exec-server-conformance-"))
        self.address = ""
        """URL or command of the server, to be passed to the client."""

    async def __aenter__(self) -> Self:
        if self._transport == "ws":
            listener = await serve(
                self._websocket,
                "127.0.0.1",
                0,
                process_request=self._check_handshake,
                compression=None,
                max_size=None,
                ping_interval=None,
                close_timeout=1,
            )
            port = next(iter(listener.sockets)).getsockname()[1]
            self._listener, self.address = listener, f"ws://127.0.0.1:{port}"
        else:
            path = self._directory / "socket"
            self._listener = await asyncio.start_unix_server(self._pipes, path, limit=LINE_LIMIT)
            self.address = shlex.join([sys.executable, bridge.__file__, str(path)])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._listener.wait_closed()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _websocket(self, connection: ServerConnection) -> None:
        await self._host.serve(WebSocketLink(connection))

    async def _pipes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._host.serve(StdioLink(reader, writer))

    def _check_handshake(self, _: ServerConnection, request: Request) -> None:
        if "Origin" in request.headers:
            self._host.refuse(
                Failure(
                    "the WebSocket handshake has an Origin header, with which servers refuse it "
                    f"(HTTP 403): leave it out; got {request.headers['Origin']!r}"
                )
            )
