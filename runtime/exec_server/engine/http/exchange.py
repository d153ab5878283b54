"""One HTTP request and its response, over httpcore.

Each exchange runs in a task of its own, which owns the connection; callers only wait for it. The
connection is closed when the exchange ends, for whatever reason. Connections are not reused, so a
server that closes an idle one cannot make the next request fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

import httpcore

from exec_server.engine.http.content_decoding import BODY_ERROR, decoder_for
from exec_server.engine.http.proxy import UnsupportedProxy, proxy_for
from exec_server.engine.http.request import basic_credentials
from exec_server.engine.http.url import HttpUrl, UnsupportedScheme, UrlError, resolve
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from exec_server.engine.http.content_decoding import ContentDecoder
    from exec_server.engine.http.request import PreparedRequest
    from exec_server.engine.memory_budget import MemoryBudget

PIECE_BYTES: Final = 64 * 1024
"""Maximum size of a piece of a body, sent or received."""

MAX_REDIRECTS: Final = 10
"""Maximum number of redirects per request (v1 http/request)."""

_LOCATION: Final = re.compile(rb"[\x21-\x7e]*")
_ROUTE_AWARE_LOCATION: Final = re.compile(rb"[\t\x20-\x7e]*")
"""Characters of a Location header that is followed."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_ENCODING_HEADERS: Final = frozenset({"content-encoding", "content-length"})
"""Headers that no longer hold for a decoded body."""

_TRANSPORT_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    OSError,  # includes TimeoutError, TLS and name resolution errors
    UnicodeError,  # a host name that DNS cannot represent
    UnsupportedProxy,
)


class Trust:
    """The system's certificate store, read by the first https request."""

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the TLS context. It is created in a thread, as this takes tens of milliseconds."""
        if self._context is None:
            self._context = await asyncio.to_thread(ssl.create_default_context)
        return self._context


class Exchange:
    """One request, its redirects and its response, run by ``task``."""

    def __init__(
        self,
        request: PreparedRequest,
        timeout_ms: int | None,
        trust: Trust,
        *,
        memory: MemoryBudget,
        follow_redirects: bool,
        route_aware: bool,
        decodes_content: bool,
    ) -> None:
        """Start the request; see HttpClient for the arguments."""
        loop = asyncio.get_running_loop()
        self._url = request.url
        self._trust = trust
        self._follow_redirects = follow_redirects
        self._route_aware = route_aware
        self._decodes_content = decodes_content
        self._memory = memory
        self._decoder: ContentDecoder | None = None
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._ended = False
        self._given_up = False
        self.head: asyncio.Future[tuple[int, list[tuple[str, str]]]] = loop.create_future()
        self.task = loop.create_task(self._run(request, timeout_ms))
        self.task.add_done_callback(self._note_end)

    async def next_piece(self) -> bytes | None:
        """Return the next piece of the body, None at its end. Raises OperationFailed."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            await self._wait_for_change()
        piece = self._pieces.popleft()
        self._changed.set()
        return piece

    async def aclose(self) -> None:
        """Abort the exchange if it is in progress, and wait until the connection is closed."""
        if not self._given_up:
            # Once only: a second cancellation would interrupt closing the connection.
            self._given_up = True
            self.task.cancel()
        await asyncio.wait([self.task])
        self._pieces.clear()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Wake the waiters, also if the task was cancelled before its first step."""
        self._ended = True
        if self._decoder is not None:
            self._memory.release(self._decoder.memory_bytes)
            self._decoder = None
        self._failure = self._transport_failure() if task.cancelled() else task.exception()
        self._changed.set()
        if self._failure is not None and not self.head.done():
            self.head.set_exception(self._failure)

    def _transport_failure(self) -> OperationFailed:
        """Return the error for a failed connection or a timeout."""
        if self.head.done():
            return OperationFailed(BODY_ERROR)
        return OperationFailed(f"http/request failed: error sending request for url ({self._url})")

    async def _wait_for_change(self) -> None:
        """Wait until a piece was added or taken, or the task has ended."""
        self._changed.clear()
        await self._changed.wait()

    async def _run(self, request: PreparedRequest, timeout_ms: int | None) -> None:
        if timeout_ms == 0 and self._route_aware:
            raise OperationFailed("http/request failed: route-aware request timed out")
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                await self._follow_redirects_from(request)
        except _TRANSPORT_ERRORS as error:
            raise self._transport_failure() from error

    async def _follow_redirects_from(self, request: PreparedRequest) -> None:
        """Send the request, follow redirects, and hand out the response."""
        for _ in range(MAX_REDIRECTS):
            redirected = await self._send(request)
            if redirected is None:
                return
            request = redirected
            if self._route_aware:
                self._url = request.url
        if await self._send(request) is not None:
            raise OperationFailed(
                "http/request failed: too many redirects"
                if self._route_aware
                else f"http/request failed: error following redirect for url ({request.url})"
            )

    async def _send(self, request: PreparedRequest) -> PreparedRequest | None:
        """Send one request; return the next one after a redirect, or hand out the response."""
        proxy = proxy_for(request.url, os.environ)
        async with (
            contextlib.aclosing(_Network()) as network,
            await self._open_pool(request.url, proxy, network) as pool,
        ):
            response = await pool.handle_async_request(_wire_request(request, proxy))
            onward = self._redirect_target(request.url, response)
            if onward is not None:
                return request.redirected(
                    response.status, onward, whole_referer=not self._route_aware
                )
            headers = self._prepare_decoder(response)
            if not self.head.done():  # already done if the caller was cancelled
                self.head.set_result((response.status, headers))
            await self._deliver(response)
            return None

    def _prepare_decoder(self, response: httpcore.Response) -> list[tuple[str, str]]:
        """Return the headers to hand out, with a decoder in place if the body is encoded.

        Raises OperationFailed if there is no memory for the decoder.
        """
        headers = _readable_headers(response)
        decoder = decoder_for(response.headers) if self._decodes_content else None
        if decoder is None:
            return headers
        try:
            self._memory.charge(decoder.memory_bytes)
        except InvalidRequest as error:
            raise OperationFailed(f"http/request failed: {error}") from None
        self._decoder = decoder
        return [(name, value) for name, value in headers if name not in _ENCODING_HEADERS]

    def _redirect_target(self, url: HttpUrl, response: httpcore.Response) -> HttpUrl | None:
        """Return the target of a redirect; None to hand out the response.

        A redirect with an invalid Location is handed out. Raises OperationFailed for a scheme other
        than http and https.
        """
        if response.status not in _REDIRECTS or not self._follow_redirects:
            return None
        for name, value in response.headers:
            if name.lower() == b"location":
                readable = _ROUTE_AWARE_LOCATION if self._route_aware else _LOCATION
                if not readable.fullmatch(value):
                    return None
                location = value.decode("ascii")
                try:
                    return resolve(url, location)
                except UnsupportedScheme as error:
                    reason = (
                        f"redirect target uses unsupported URL scheme: {error.scheme}"
                        if self._route_aware
                        else f"builder error for url ({location})"
                    )
                    raise OperationFailed(f"http/request failed: {reason}") from None
                except UrlError:
                    return None
        return None

    async def _open_pool(
        self, url: HttpUrl, proxy: HttpUrl | None, network: _Network
    ) -> httpcore.AsyncConnectionPool:
        """Return a pool that opens and closes the one connection of a request."""
        context = None
        if url.scheme == "https" or (proxy is not None and proxy.scheme == "https"):
            context = await self._trust.context()
        tunnel = None
        if proxy is not None and url.scheme == "https":
            tunnel = httpcore.Proxy(
                _wire_url(proxy, proxy.target),
                auth=(proxy.username, proxy.password) if proxy.has_user else None,
                ssl_context=context if proxy.scheme == "https" else None,
            )
        return httpcore.AsyncConnectionPool(
            ssl_context=context, proxy=tunnel, network_backend=network, max_connections=1
        )

    async def _deliver(self, response: httpcore.Response) -> None:
        """Hand out the body, each piece once the previous one was taken."""
        body = response.aiter_stream()
        try:
            async for data in body:
                for piece in self._pieces_of(data):
                    if not piece:  # the decoder worked without output: let others run
                        await asyncio.sleep(0)
                        continue
                    while self._pieces:
                        await self._wait_for_change()
                    self._pieces.append(piece)
                    self._changed.set()
            if self._decoder is not None:
                self._decoder.finish()
        except BaseException:
            # Aborted between two pieces. Reading from the closed connection ends the library's
            # nested generators now, instead of leaving them to the event loop.
            await response.aclose()
            with contextlib.suppress(Exception):
                async for _ in body:
                    pass
            raise

    def _pieces_of(self, data: bytes) -> Iterator[bytes]:
        """Split received data into pieces to hand out, decoded if necessary."""
        if self._decoder is not None:
            return self._decoder.decode(data, PIECE_BYTES)
        return (data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))


class _Network(httpcore.AnyIOBackend):
    """Opens connections and closes each of them.

    httpcore does not close a connection that is cancelled during the TLS handshake.
    """

    def __init__(self) -> None:
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        self._streams.append(stream)
        return stream

    async def aclose(self) -> None:
        for stream in self._streams:
            await stream.aclose()


class _BodyPieces:
    """A request body in pieces, so that only a small part is copied ahead of the network."""

    def __init__(self, body: bytes) -> None:
        self._left = memoryview(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        piece, self._left = self._left[:PIECE_BYTES], self._left[PIECE_BYTES:]
        return bytes(piece)


def _wire_request(request: PreparedRequest, proxy: HttpUrl | None) -> httpcore.Request:
    """Return the request for the HTTP library."""
    url = request.url
    headers = request.wire_headers()
    target = url.target if request.method != b"CONNECT" else url.authority
    address = url
    if proxy is not None and url.scheme == "http":
        # An http request asks the proxy for the whole URL; https is tunnelled through it.
        address, target = proxy, url.without_fragment
        given = {name.lower() for name, _ in headers}
        if proxy.has_user and b"proxy-authorization" not in given:
            headers.append((b"proxy-authorization", basic_credentials(proxy)))
    return httpcore.Request(
        request.method,
        _wire_url(address, target),
        headers=headers,
        content=_BodyPieces(request.body),
    )


def _wire_url(address: HttpUrl, target: str) -> httpcore.URL:
    """Return the address to connect to, with the request target."""
    return httpcore.URL(
        scheme=address.scheme, host=address.host, port=address.effective_port, target=target
    )


def _readable_headers(response: httpcore.Response) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for name, value in response.headers:
        with contextlib.suppress(UnicodeDecodeError):
            headers.append((name.decode("ascii").lower(), value.decode("utf-8")))
    return headers
