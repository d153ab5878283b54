"""HTTP requests on behalf of a client: the engine of http/request.

Requests are sent as the client states them: the case of the method and headers and the order of
headers are kept, except that Host comes first. Only ``accept: */*``, ``host``, ``content-length``
for a body and, where bodies are decoded, ``accept-encoding`` are added. No cookies are stored.
Redirects are followed as browsers do, unless disabled. Proxies come from the environment, trusted
certificates from the system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from exec_server.engine.memory_budget import MemoryBudget
from exec_server.engine.native_text import environment
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from exec_server.engine.http.exchange import Exchange, Trust
    from exec_server.engine.http.request import GivenHeader


EXCHANGE_BYTES: Final = 384 * 1024
"""Memory per request in progress: data read from the network but not handed out yet, and the state
of the connection."""

_COPIES: Final = 2
"""A complete body exists twice while its pieces are joined."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A request as stated by the client."""

    method: str
    url: str
    headers: Sequence[GivenHeader] = msgspec.field(default_factory=list)
    """Name and value of each; an optional third item names an environment variable of this server
    whose value is appended."""
    body: bytes | None = None
    timeout_ms: int | None = None
    """Milliseconds for connecting, redirects, headers and body together; None for no limit."""
    redirect_policy: Literal["follow", "stop"] = "follow"
    """Follow redirects, or return them as responses."""


class HttpResponse(msgspec.Struct, frozen=True):
    """A complete response."""

    status: int
    headers: list[tuple[str, str]]
    """As in HttpStream."""
    body: bytes
    """Decoded if the client decodes content."""


class HttpClient:
    """Sends the requests of one connection; closing it aborts requests in progress."""

    def __init__(
        self,
        *,
        route_aware: bool = False,
        memory: MemoryBudget | None = None,
        max_seconds: float | None = None,
        decodes_content: bool = False,
    ) -> None:
        """Create a client; the HTTP library is imported by the first request.

        The memory of requests in progress counts in ``memory``, bodies for ``fetch`` included. No
        request takes longer than ``max_seconds``.

        With ``route_aware``, each redirect is treated as a request of its own, as in the releases
        that choose a proxy for each (v2, codex 0.169): Referer names only the origin if the
        redirect leads to another one, and an error names the URL that failed, not the first one.

        With ``decodes_content``, gzip and zstd bodies are decoded, and requests without an
        Accept-Encoding header get one (v2, codex 0.171).
        """
        self._route_aware = route_aware
        self._decodes_content = decodes_content
        self._memory = memory or MemoryBudget()
        self._max_ms = None if max_seconds is None else int(max_seconds * 1000)
        self._exchanges: set[Exchange] = set()
        self._trust: Trust | None = None

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send a request and return its response as soon as the headers have arrived.

        Raises InvalidArgument for an invalid method, URL or header before anything is sent, and
        OperationFailed if no response arrives. Cancelling closes the connection.
        """
        # Imported by the first request: many servers never send one.
        from exec_server.engine.http.exchange import Exchange, Trust  # noqa: PLC0415
        from exec_server.engine.http.request import prepare  # noqa: PLC0415

        prepared = prepare(
            request.method, request.url, request.headers, request.body, environment()
        )
        if self._decodes_content:
            prepared = prepared.accepting_encodings()
        self._memory.charge(EXCHANGE_BYTES)
        if self._trust is None:
            self._trust = Trust()
        exchange = Exchange(
            prepared,
            self._shorter(request.timeout_ms),
            self._trust,
            memory=self._memory,
            follow_redirects=request.redirect_policy == "follow",
            route_aware=self._route_aware,
            decodes_content=self._decodes_content,
        )
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._forget(exchange))
        try:
            return HttpStream(exchange, *await exchange.head)
        except BaseException:
            await exchange.aclose()
            raise

    def _forget(self, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)
        self._memory.release(EXCHANGE_BYTES)

    def _shorter(self, timeout_ms: int | None) -> int | None:
        if self._max_ms is None or (timeout_ms is not None and timeout_ms < self._max_ms):
            return timeout_ms
        return self._max_ms

    async def fetch(self, request: HttpRequest) -> HttpResponse:
        """Send a request and return the complete response.

        Raises as ``open``, and OperationFailed for an incomplete or too large body.
        """
        stream = await self.open(request)
        pieces: list[bytes] = []
        held = 0
        try:
            async for piece in stream:
                size = _COPIES * len(piece)
                self._memory.charge(size)
                held += size
                pieces.append(piece)
        except OperationFailed as error:
            raise OperationFailed(f"failed to read http/request response body: {error}") from error
        except InvalidRequest as error:
            raise OperationFailed(
                f"failed to read http/request response body: {error}; "
                "streamResponse has no such limit"
            ) from error
        finally:
            self._memory.release(held)
            await stream.aclose()
        return HttpResponse(stream.status, stream.headers, b"".join(pieces))

    async def aclose(self) -> None:
        """Close all connections; requests and streams in progress fail."""
        for exchange in list(self._exchanges):
            await exchange.aclose()


class HttpStream:
    """A response with a streamed body.

    An asynchronous iterator over the body in pieces of 1 to 65,536 bytes; at most one piece is read
    ahead. Raises OperationFailed ``error decoding response body`` if the body is incomplete,
    malformed or late, or the stream is closed.
    """

    def __init__(self, exchange: Exchange, status: int, headers: list[tuple[str, str]]) -> None:
        """Wrap an exchange; see HttpClient.open."""
        self._exchange = exchange
        self.status = status
        """HTTP status, 100 to 999; that of the last response if redirects were followed."""
        self.headers = headers
        """In order, with duplicates; names in lower case; without values that are not UTF-8."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the stream itself; the body can be iterated once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        piece = await self._exchange.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close the connection if the body has not ended. Idempotent."""
        await self._exchange.aclose()
