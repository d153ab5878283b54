"""Making HTTP requests for a client: the engine of http/request.

What goes over the wire is what the client asked for: the method's and the headers' letters and
the headers' order are kept (only Host goes first), nothing is added but ``accept: */*``, ``host``
and, with a body, ``content-length``. Nothing of the answer is decoded and no cookie is kept.
Redirects are followed as browsers do. One connection per request: a server that closes an idle
connection at the wrong moment cannot make the next request fail.

Each request is carried by a task of its own, which owns the connection from the first byte to the
last; whoever asked only waits for it. However a request ends, its connection ends with it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exec_server.engine.http_proxy import UnsupportedProxy, proxy_for
from exec_server.engine.http_url import HttpUrl, UnsupportedScheme, UrlError, parse, resolve
from exec_server.errors import InvalidArgument, OperationFailed

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    import httpcore

PIECE_BYTES: Final = 64 * 1024
"""Largest piece of a body that is sent or handed out at once."""

MAX_REDIRECTS: Final = 10
"""Redirects followed for one request (v1 http/request)."""

BODY_ERROR: Final = "error decoding response body"
"""What is said of a body that broke off or came too late (v1 http/request/bodyDelta)."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PLAIN_LOCATION: Final = re.compile(rb"[\x21-\x7e]*")

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BODY_HEADERS: Final = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"transfer-encoding"}
)
_ORIGIN_HEADERS: Final = frozenset(
    {
        b"authorization",
        b"cookie",
        b"cookie2",
        b"host",
        b"proxy-authorization",
        b"www-authenticate",
    }
)
"""Headers meant for one server alone; another one that it redirects to must not see them."""

_Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as the client states it."""

    method: str
    url: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None
    timeout_ms: int | None = None
    """Milliseconds for everything: connecting, redirects, headers and body; None for no limit."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer."""

    status: int
    headers: list[tuple[str, str]]
    """As in HttpStream."""
    body: bytes
    """Not decoded."""


class HttpClient:
    """Makes the requests of one connection; closing it drops whatever is under way."""

    def __init__(self) -> None:
        """Cheap: the HTTP library is loaded by the first request."""
        self._exchanges: set[_Exchange] = set()
        self._trust = _Trust()

    async def open(self, request: HttpRequest) -> HttpStream:
        """Send a request and return once the answer's headers have come.

        Raises InvalidArgument for a bad method, URL or header before anything is sent, and
        OperationFailed if no answer comes. Cancelling it drops the connection.
        """
        exchange = _Exchange(_prepare(request), request.timeout_ms, self._trust)
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        try:
            return HttpStream(exchange, *await exchange.head)
        except BaseException:
            await exchange.aclose()
            raise

    async def fetch(self, request: HttpRequest) -> HttpResponse:
        """Send a request and return the whole answer. Raises as ``open``."""
        stream = await self.open(request)
        try:
            body = b"".join([piece async for piece in stream])
        except OperationFailed as error:
            raise OperationFailed(f"failed to read http/request response body: {error}") from error
        finally:
            await stream.aclose()
        return HttpResponse(stream.status, stream.headers, body)

    async def aclose(self) -> None:
        """Drop all connections; requests and streams under way fail."""
        for exchange in list(self._exchanges):
            await exchange.aclose()


class HttpStream:
    """An answer whose body is still coming.

    An asynchronous iterator over the body as it comes, in pieces of 1 to 65,536 bytes, not
    decoded; the server is read no further than one piece ahead. Raises OperationFailed
    (BODY_ERROR) if the body breaks off, comes too late, or is closed meanwhile.
    """

    def __init__(self, exchange: _Exchange, status: int, headers: list[tuple[str, str]]) -> None:
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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A checked request, ready for the wire; the next one where a redirect leads."""

    method: bytes
    url: HttpUrl
    headers: _Headers
    """Without Host and Content-Length where those follow from the rest."""
    body: bytes

    def wire_headers(self) -> _Headers:
        """All headers to send, completed."""
        given = {name.lower() for name, _ in self.headers}
        headers = list(self.headers)
        if b"host" not in given:
            headers.append((b"host", self.url.authority.encode()))
        if self.body and not given & {b"content-length", b"transfer-encoding"}:
            headers.append((b"content-length", b"%d" % len(self.body)))
        return headers

    def redirected(self, status: int, url: HttpUrl) -> _Prepared:
        """The request to make after an answer that says to go to ``url``."""
        method, headers, body = self.method, self.headers, self.body
        drop: set[bytes] = {b"referer"}
        if status == 303 or (status in (301, 302) and method == b"POST"):
            method = b"HEAD" if method == b"HEAD" else b"GET"
            body = b""
            drop |= _BODY_HEADERS
        if url.origin != self.url.origin:
            drop |= _ORIGIN_HEADERS
        headers = [(name, value) for name, value in headers if name.lower() not in drop]
        if not (self.url.scheme == "https" and url.scheme == "http"):
            headers.append((b"referer", self.url.without_fragment.encode()))
        return _Prepared(method, url, headers, body)


def _prepare(request: HttpRequest) -> _Prepared:
    """Check a request. Raises InvalidArgument."""
    if not _TOKEN.fullmatch(request.method):
        raise InvalidArgument("http/request method is invalid: invalid HTTP method")
    try:
        url = parse(request.url)
    except UnsupportedScheme as error:
        raise InvalidArgument(
            f"http/request only supports http and https URLs, got {error.scheme}"
        ) from None
    except UrlError as error:
        raise InvalidArgument(f"http/request url is invalid: {error}") from None
    headers: _Headers = []
    for name, value in request.headers:
        if not _TOKEN.fullmatch(name):
            raise InvalidArgument("http/request header name is invalid: invalid HTTP header name")
        if _BAD_VALUE.search(value):
            raise InvalidArgument(
                f"http/request header value is invalid for {name}: failed to parse header value"
            )
        # White space around a value is no part of it, and the HTTP library refuses it.
        headers.append((name.encode(), value.strip(" \t").encode()))
    given = {name.lower() for name, _ in headers}
    if _has_user(url) and b"authorization" not in given:
        headers.insert(0, (b"authorization", _basic_credentials(url)))
    if b"accept" not in given:
        headers.append((b"accept", b"*/*"))
    return _Prepared(request.method.encode(), url, headers, request.body or b"")


class _Trust:
    """The system's certificate store, read when the first https request needs it."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Reading the store takes tens of milliseconds: not on the event loop's thread."""
        if self._context is None:
            import ssl  # noqa: PLC0415

            self._context = await asyncio.to_thread(ssl.create_default_context)
        return self._context


class _Exchange:
    """One request, its redirects and its answer, carried by ``task``."""

    def __init__(self, request: _Prepared, timeout_ms: int | None, trust: _Trust) -> None:
        loop = asyncio.get_running_loop()
        self._url = request.url
        self._trust = trust
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._given_up = False
        self.head: asyncio.Future[tuple[int, list[tuple[str, str]]]] = loop.create_future()
        self.task = loop.create_task(self._run(request, timeout_ms))
        self.task.add_done_callback(self._note_end)

    async def next_piece(self) -> bytes | None:
        """The next piece of the body, None at its end. Raises OperationFailed."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.task.done():
                return None
            await self._wait_for_change()
        piece = self._pieces.popleft()
        self._changed.set()
        return piece

    async def aclose(self) -> None:
        """Give up what has not ended, and wait until the connection is closed."""
        if not self._given_up:
            # Once only: a second cancellation would cut short the closing of the connection.
            self._given_up = True
            self.task.cancel()
        await asyncio.wait([self.task])
        self._pieces.clear()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Wake whoever waits; also if the task was cancelled before its first step."""
        self._failure = self._transport_failure() if task.cancelled() else task.exception()
        self._changed.set()
        if self._failure is not None and not self.head.done():
            self.head.set_exception(self._failure)

    def _transport_failure(self) -> OperationFailed:
        """What there is to say when the connection failed or time ran out."""
        if self.head.done():
            return OperationFailed(BODY_ERROR)
        return OperationFailed(f"http/request failed: error sending request for url ({self._url})")

    async def _wait_for_change(self) -> None:
        """Until the other side has put in or taken out a piece, or the task has ended."""
        self._changed.clear()
        await self._changed.wait()

    async def _run(self, request: _Prepared, timeout_ms: int | None) -> None:
        # Loaded by the first request only: many servers never make one.
        import httpcore  # noqa: PLC0415

        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                await self._converse(request)
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.TimeoutException,
            OSError,  # among them TimeoutError and what TLS and name resolution raise
            UnicodeError,  # a host name that the name system cannot know
            UnsupportedProxy,
        ) as error:
            raise self._transport_failure() from error

    async def _converse(self, request: _Prepared) -> None:
        """Send the request, follow redirects, hand out the answer."""
        for _ in range(MAX_REDIRECTS):
            redirected = await self._ask(request)
            if redirected is None:
                return
            request = redirected
        if await self._ask(request) is not None:
            raise OperationFailed(
                f"http/request failed: error following redirect for url ({request.url})"
            )

    async def _ask(self, request: _Prepared) -> _Prepared | None:
        """Send one request; return the next one if redirected, else hand out the answer."""
        proxy = proxy_for(request.url, os.environ)
        async with await self._open_pool(request.url, proxy) as pool:
            response = await pool.handle_async_request(_wire_request(request, proxy))
            onward = _redirect_target(request.url, response)
            if onward is not None:
                return request.redirected(response.status, onward)
            if not self.head.done():  # it is if whoever asked was cancelled a moment ago
                self.head.set_result((response.status, _readable_headers(response)))
            await self._deliver(response)
            return None

    async def _open_pool(self, url: HttpUrl, proxy: HttpUrl | None) -> httpcore.AsyncConnectionPool:
        """What makes the one connection for a request, and closes it."""
        import httpcore  # noqa: PLC0415

        context = None
        if url.scheme == "https" or (proxy is not None and proxy.scheme == "https"):
            context = await self._trust.context()
        tunnel = None
        if proxy is not None and url.scheme == "https":
            tunnel = httpcore.Proxy(
                _wire_url(proxy, proxy.target),
                auth=(proxy.username, proxy.password) if _has_user(proxy) else None,
                ssl_context=context if proxy.scheme == "https" else None,
            )
        return httpcore.AsyncConnectionPool(
            ssl_context=context, proxy=tunnel, max_connections=1, max_keepalive_connections=0
        )

    async def _deliver(self, response: httpcore.Response) -> None:
        """Hand out the body, one piece after the other is taken."""
        body = response.aiter_stream()
        try:
            async for data in body:
                for start in range(0, len(data), PIECE_BYTES):
                    while self._pieces:
                        await self._wait_for_change()
                    self._pieces.append(data[start : start + PIECE_BYTES])
                    self._changed.set()
        except BaseException:
            # Given up between two pieces. The library's nested generators would be left for the
            # event loop to finish at some later time; reading on in a closed connection ends them.
            await response.aclose()
            with contextlib.suppress(Exception):
                async for _ in body:
                    pass
            raise


class _BodyPieces:
    """A request body in pieces, so that only little of it is copied ahead of the network."""

    def __init__(self, body: bytes) -> None:
        self._left = memoryview(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        piece, self._left = self._left[:PIECE_BYTES], self._left[PIECE_BYTES:]
        return bytes(piece)


def _wire_request(request: _Prepared, proxy: HttpUrl | None) -> httpcore.Request:
    """The request as the HTTP library takes it."""
    import httpcore  # noqa: PLC0415

    url = request.url
    headers = request.wire_headers()
    target = url.target if request.method != b"CONNECT" else url.authority
    address = url
    if proxy is not None and url.scheme == "http":
        # A proxy for http is asked for the whole URL; one for https is only tunnelled through.
        address, target = proxy, url.without_fragment
        given = {name.lower() for name, _ in headers}
        if _has_user(proxy) and b"proxy-authorization" not in given:
            headers.append((b"proxy-authorization", _basic_credentials(proxy)))
    return httpcore.Request(
        request.method,
        _wire_url(address, target),
        headers=headers,
        content=_BodyPieces(request.body),
    )


def _wire_url(address: HttpUrl, target: str) -> httpcore.URL:
    """Where to connect, and what to ask for there."""
    import httpcore  # noqa: PLC0415

    return httpcore.URL(
        scheme=address.scheme, host=address.host, port=address.effective_port, target=target
    )


def _has_user(url: HttpUrl) -> bool:
    return bool(url.username or url.password)


def _basic_credentials(url: HttpUrl) -> bytes:
    return b"Basic " + base64.b64encode(url.username + b":" + url.password)


def _redirect_target(url: HttpUrl, response: httpcore.Response) -> HttpUrl | None:
    """Where an answer sends the client on to; None if it is to be handed out as it is.

    A Location that cannot be read makes the redirect itself the answer. Raises OperationFailed
    for one that leads out of http and https.
    """
    if response.status not in _REDIRECTS:
        return None
    for name, value in response.headers:
        if name.lower() == b"location":
            if not _PLAIN_LOCATION.fullmatch(value):
                return None
            location = value.decode("ascii")
            try:
                return resolve(url, location)
            except UnsupportedScheme:
                raise OperationFailed(
                    f"http/request failed: builder error for url ({location})"
                ) from None
            except UrlError:
                return None
    return None


def _readable_headers(response: httpcore.Response) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for name, value in response.headers:
        with contextlib.suppress(UnicodeDecodeError):
            headers.append((name.decode("ascii").lower(), value.decode("utf-8")))
    return headers
