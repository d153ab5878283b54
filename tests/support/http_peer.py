"""A scripted web server on loopback that records its requests, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exec_server.engine.http.client import HttpClient, HttpRequest, HttpResponse
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from exec_server.engine.http.request import GivenHeader


@dataclass(frozen=True)
class Seen:
    """A request as received."""

    line: bytes
    headers: list[bytes]
    body: bytes

    @property
    def method(self) -> bytes:
        return self.line.split()[0]

    @property
    def target(self) -> bytes:
        return self.line.split()[1]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a header, in order."""
        pairs = [header.split(b": ", 1) for header in self.headers]
        return [pair[1] for pair in pairs if pair[0].lower() == name]


class Conversation:
    """One connection, as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def receive(self) -> Seen:
        """Return the next request; raise IncompleteReadError if the client has disconnected."""
        head = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        seen = Seen(head[0], head[1:], b"")
        length = int((seen.values(b"content-length") or [b"0"])[0])
        return Seen(head[0], head[1:], await self.reader.readexactly(length))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> bool:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass
        return True


def answer(
    body: bytes = b"", status: int = 200, headers: tuple[bytes, ...] = (), reason: bytes = b"OK"
) -> bytes:
    """Return a complete response with a Content-Length."""
    lines = [b"HTTP/1.1 %d %s" % (status, reason), *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def redirect(status: int, location: bytes) -> bytes:
    return answer(status=status, headers=(b"Location: " + location,))


class Peer:
    """The server; ``converse`` runs for each connection, with the server and the connection."""

    def __init__(self, converse: Callable[[Peer, Conversation], Awaitable[object]]) -> None:
        self._converse = converse
        self.requests: list[Seen] = []
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https_url(self) -> str:
        return f"https://localhost:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._converse(self, Conversation(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
        """Listen on a port of 127.0.0.1; close remaining connections at the end."""

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task: asyncio.Task[object] = asyncio.create_task(self._serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(start, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)


def answering(respond: bytes | Callable[[Seen], bytes]) -> Peer:
    """Return a server that responds to each request, with the same bytes or by a function."""

    async def converse(peer: Peer, conversation: Conversation) -> None:
        while True:
            seen = await conversation.receive()
            peer.requests.append(seen)
            await conversation.send(respond if isinstance(respond, bytes) else respond(seen))

    return Peer(converse)


def saying(data: bytes) -> Peer:
    """Return a server that sends these bytes after the first request and closes."""

    async def converse(peer: Peer, conversation: Conversation) -> None:
        peer.requests.append(await conversation.receive())
        await conversation.send(data)

    return Peer(converse)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine with a timeout."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def make(method: str, url: str, *headers: GivenHeader, **more: Any) -> HttpRequest:
    return HttpRequest(method, url, list(headers), **more)


async def fetch(request: HttpRequest, *, route_aware: bool = False) -> HttpResponse:
    """Make one request with a client of its own."""
    client = HttpClient(route_aware=route_aware)
    try:
        return await client.fetch(request)
    finally:
        await client.aclose()


def exchange(
    peer: Peer,
    method: str,
    path: str,
    *headers: GivenHeader,
    route_aware: bool = False,
    **more: Any,
) -> HttpResponse:
    """Make one request to a server."""

    async def go() -> HttpResponse:
        async with peer.listening():
            request = make(method, peer.url + path, *headers, **more)
            return await fetch(request, route_aware=route_aware)

    response: HttpResponse = run(go())
    return response


def sent(method: str, path: str, *headers: GivenHeader, **more: Any) -> Seen:
    """A request as it is on the wire."""
    peer = answering(answer())
    exchange(peer, method, path, *headers, **more)
    assert len(peer.requests) == 1
    return peer.requests[0]
