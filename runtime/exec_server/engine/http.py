"""Making HTTP requests for a client: the engine of http/request.

What goes over the wire is what the client asked for: the method's and the headers' letters and
the headers' order are kept (only Host goes first), nothing is added but ``accept: */*``, ``host``
and, with a body, ``content-length``. Nothing of the answer is decoded and no cookie is kept.
Redirects are followed as browsers do, unless told not to. Proxies come from the environment,
trusted certificates from the system.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal

import msgspec

from exec_server.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from exec_server.engine.http_exchange import Exchange, Trust
    from exec_server.engine.http_request import GivenHeader


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
        max_body_bytes: int = sys.maxsize,
        max_seconds: float | None = None,
    ) -> None:
        """Cheap: the HTTP library is loaded by the first request.

        What ``fetch`` holds of all answers together is bounded by ``max_body_bytes``, and no
        request takes longer than ``max_seconds``.

        With ``route_aware`` each redirect counts as a request of its own, as in the releases that
        look for a proxy anew for each (v2, codex 0.169): another origin is told in Referer which
        origin it was reached from, not the whole URL, and a failure names the URL that failed,
        not the first one.
        """
        self._route_aware = route_aware
        self._max_body_bytes = max_body_bytes
        self._held_bytes = 0
        self._max_ms = None if max_seconds is None else int(max_seconds * 1000)
        self._exchanges: set[Exchange] = set()
        self._trust: Trust | None = None

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send a request and return once the answer's headers have come.

        Raises InvalidArgument for a bad method, URL or header before anything is sent, and
        OperationFailed if no answer comes. Cancelling it drops the connection.
        """
        # Loaded by the first request only: many servers never make one.
        from exec_server.engine.http_exchange import Exchange, Trust  # noqa: PLC0415
        from exec_server.engine.http_request import prepare  # noqa: PLC0415

        prepared = prepare(request.method, request.url, request.headers, request.body, os.environ)
        if self._trust is None:
            self._trust = Trust()
        exchange = Exchange(
            prepared,
            self._shorter(request.timeout_ms),
            self._trust,
            follow_redirects=request.redirect_policy == "follow",
            route_aware=self._route_aware,
        )
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        try:
            return HttpStream(exchange, *await exchange.head)
        except BaseException:
            await exchange.aclose()
            raise

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
                pieces.append(piece)
                held += len(piece)
                self._hold(len(piece))
        except OperationFailed as error:
            raise OperationFailed(f"failed to read http/request response body: {error}") from error
        finally:
            self._held_bytes -= held
            await stream.aclose()
        return HttpResponse(stream.status, stream.headers, b"".join(pieces))

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        if self._held_bytes > self._max_body_bytes:
            raise OperationFailed(
                f"at most {self._max_body_bytes} bytes of whole bodies are held at a time; "
                "streamResponse has no such limit"
            )

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
