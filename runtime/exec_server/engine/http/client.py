"""Making HTTP requests for a client: the engine of http/request.

What goes over the wire is what the client asked for: the method's and the headers' letters and
the headers' order are kept (only Host goes first), nothing is added but ``accept: */*``, ``host``
and, with a body, ``content-length``. Nothing of the answer is decoded and no cookie is kept.
Redirects are followed as browsers do, unless told not to. Proxies come from the environment,
trusted certificates from the system.
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
"""Memory of a request under way: what has been read from the network and not been handed out, and
the state of the connection."""

_COPIES: Final = 2
"""A whole body is there twice while its pieces are joined."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A request as the client states it."""

    method: str
    url: str
    headers: Sequence[GivenHeader] = msgspec.field(default_factory=list)
    """Each a name and a value and, where a third is given, the environment variable of this
    server whose value goes behind that value."""
    body: bytes | None = None
    timeout_ms: int | None = None
    """Milliseconds for everything: connecting, redirects, headers and body; None for no limit."""
    redirect_policy: Literal["follow", "stop"] = "follow"
    """Whether to go where a redirect leads, or to hand it out as the answer."""


class HttpResponse(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: list[tuple[str, str]]
    """As in HttpStream."""
    body: bytes
    """Not decoded."""


class HttpClient:
    """Makes the requests of one connection; closing it drops whatever is under way."""

    def __init__(
        self,
        *,
        route_aware: bool = False,
        memory: MemoryBudget | None = None,
        max_seconds: float | None = None,
        decodes_content: bool = False,
    ) -> None:
        """Cheap: the HTTP library is loaded by the first request.

        What requests under way hold, bodies for ``fetch`` included, counts in ``memory``, and no
        request takes longer than ``max_seconds``.

        With ``route_aware`` each redirect counts as a request of its own, as in the releases that
        look for a proxy anew for each (v2, codex 0.169): another origin is told in Referer which
        origin it was reached from, not the whole URL, and a failure names the URL that failed,
        not the first one.

        With ``decodes_content``, bodies in gzip or zstd are decoded, and requests without an
        Accept-Encoding header say that these are accepted (v2, codex 0.171).
        """
        self._route_aware = route_aware
        self._decodes_content = decodes_content
        self._memory = memory or MemoryBudget()
        self._max_ms = None if max_seconds is None else int(max_seconds * 1000)
        self._exchanges: set[Exchange] = set()
        self._trust: Trust | None = None

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send a request and return once the answer's headers have come.

        Raises InvalidArgument for a bad method, URL or header before anything is sent, and
        OperationFailed if no answer comes. Cancelling it drops the connection.
        """
        # Loaded by the first request only: many servers never make one.
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
        """Send a request and return the whole answer.

        Raises as ``open``, and OperationFailed for a body that breaks off or is too large.
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
        """Drop all connections; requests and streams under way fail."""
        for exchange in list(self._exchanges):
            await exchange.aclose()


class HttpStream:
    """An answer whose body is still coming.

    An asynchronous iterator over the body as it comes, in pieces of 1 to 65,536 bytes, not
    decoded; the server is read no further than one piece ahead. Raises OperationFailed
    ``error decoding response body`` if the body breaks off, comes too late, or is closed
    meanwhile.
    """

    def __init__(self, exchange: Exchange, status: int, headers: list[tuple[str, str]]) -> None:
        """For HttpClient.open."""
        self._exchange = exchange
        self.status = status
        """The HTTP status, 100 to 999; of the last answer where redirects were followed."""
        self.headers = headers
        """In order, with duplicates; names in lower case, those whose value is not UTF-8 left
        out."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The stream itself; there is one body only."""
        return self

    async def __anext__(self) -> bytes:
        """The next piece."""
        piece = await self._exchange.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Drop the connection if the body has not ended; harmless when repeated."""
        await self._exchange.aclose()
