"""HTTP requests that the server makes on the client's behalf."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from exec_server.client import arguments
from exec_server.client.display import HIDDEN, shown_url
from exec_server.client.errors import BodyTooFast, ClientError, ServerError, server_error
from exec_server.client.limits import (
    BLOCKED_BYTES,
    HELD_BYTES,
    HELD_EVENTS,
    PIECE_OVERHEAD_BYTES,
)
from exec_server.client.revisions.base import HttpExchange
from exec_server.client.session import BodyReceiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from exec_server.client.arguments import Data
    from exec_server.client.revisions.base import BodyPiece, HttpHead
    from exec_server.client.session import Session

Headers: TypeAlias = "Mapping[str, str] | Sequence[tuple[str, str]]"
"""Header lines; as pairs they may repeat a name."""

SECRET_CHARACTERS: Final = 4
"""A shorter value is not looked for in texts: it occurs by chance, and is hardly a secret."""

BODY_BYTES: Final = 16 * 1024 * 1024
"""What is kept of a streamed body for a slow reader unless the caller says otherwise."""


class HttpResponse(msgspec.Struct, frozen=True):
    """A response. A status of 400 or more is a response like any other."""

    status: int
    """Status code."""
    headers: list[tuple[str, str]]
    """Header lines in their order, the names in lower case."""
    body: bytes
    """The body with its content encoding untouched."""

    def header(self, name: str) -> str | None:
        """The first header of that name, None without one."""
        return _header(self.headers, name)

    @property
    def text(self) -> str:
        """The body as UTF-8 text; what is none appears as U+FFFD."""
        return self.body.decode(errors="replace")


class Http:
    """HTTP requests from where the server is. ``Client.http`` makes it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._requests = 0

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: Data | None = None,
        timeout: float | None = None,
        follow_redirects: bool = True,
    ) -> HttpResponse:
        """Make a request and return the whole response.

        timeout: seconds for connecting, headers and body together; no limit unless given.
        follow_redirects: v1 always does.

        Raises TimeoutError, and ServerError if no response can be had.
        """
        exchange = self._exchange(
            method=method,
            url=url,
            headers=headers,
            body=body,
            timeout=timeout,
            follow_redirects=follow_redirects,
            stream=False,
        )
        head = await self._head(exchange, timeout)
        return HttpResponse(head.status, head.headers, head.body)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: Data | None = None,
        timeout: float | None = None,
        follow_redirects: bool = True,
        buffer_bytes: int | None = BODY_BYTES,
        overflow: Literal["fail", "block"] = "fail",
    ) -> AsyncIterator[HttpStream]:
        """Make a request and iterate over the body of the response as it comes.

            async with client.http.stream("GET", url) as response:
                async for piece in response:
                    …

        buffer_bytes: what is kept for a slow reader; None is no limit.
        overflow: what happens beyond that: the body fails with BodyTooFast, or nothing is read
            from the server until there is room, on the whole connection.

        The protocol has no way to cancel a request: the rest of a body that is not read to its end
        is still sent.
        """
        exchange = self._exchange(
            method=method,
            url=url,
            headers=headers,
            body=body,
            timeout=timeout,
            follow_redirects=follow_redirects,
            stream=True,
        )
        arguments.count("buffer_bytes", buffer_bytes, least=1)
        arguments.choice("overflow", overflow, ("fail", "block"))
        pieces = Body(self._session, exchange, buffer_bytes, blocks=overflow == "block")
        with self._session.receiving_body(exchange.request_id, pieces):
            try:
                yield HttpStream(await self._head(exchange, timeout), pieces)
            finally:
                pieces.end()

    def _exchange(
        self,
        *,
        method: str,
        url: str,
        headers: Headers,
        body: Data | None,
        timeout: float | None,
        follow_redirects: bool,
        stream: bool,
    ) -> HttpExchange:
        self._requests += 1
        arguments.seconds("timeout", timeout)
        return HttpExchange(
            method=arguments.string("method", method),
            url=arguments.string("url", url),
            headers=arguments.headers(headers),
            body=None if body is None else arguments.data("body", body),
            timeout_ms=None if timeout is None else max(1, round(timeout * 1000)),
            follow_redirects=follow_redirects,
            request_id=f"http-{self._requests}",
            stream=stream,
        )

    async def _head(self, exchange: HttpExchange, timeout: float | None) -> HttpHead:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            return await self._session.revision.http(exchange)
        except ServerError as error:
            clean = server_error(error.method, error.code, without_secrets(exchange, error.message))
            # Servers word it in several ways; that the time is over tells.
            if timeout is not None and loop.time() - started >= timeout:
                place = shown_url(exchange.url)
                raise TimeoutError(f"no response from {place} in {timeout:g} s") from clean
            raise clean from None


class HttpStream:
    """A response whose body is still coming. ``Http.stream`` makes it."""

    def __init__(self, head: HttpHead, body: Body) -> None:
        self._head = head
        self._body = body

    @property
    def status(self) -> int:
        """Status code."""
        return self._head.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Header lines in their order, the names in lower case."""
        return self._head.headers

    def header(self, name: str) -> str | None:
        """The first header of that name, None without one."""
        return _header(self._head.headers, name)

    async def read(self) -> bytes:
        """All of the body that is left."""
        return b"".join([piece async for piece in self])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece of the body.

        Raises ClientError if the body broke off, BodyTooFast, or ConnectionLost.
        """
        piece = await self._body.next()
        if piece is None:
            raise StopAsyncIteration
        return piece


class Body(BodyReceiver):
    """The pieces of a body between their coming and their being read."""

    def __init__(
        self, session: Session, exchange: HttpExchange, buffer_bytes: int | None, *, blocks: bool
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._buffer_bytes = buffer_bytes
        self._blocks = blocks
        self._pieces: deque[bytes] = deque()
        self._held: dict[int, BodyPiece] = {}
        self._held_bytes = 0
        self._next_seq = 1
        self._queued_bytes = 0
        self._is_over = False
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    async def next(self) -> bytes | None:
        """The next piece, None after the last one; raises what broke the body off."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return None
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._queued_bytes -= len(piece) + PIECE_OVERHEAD_BYTES
        if self._blocks and 2 * self._queued_bytes <= (self._buffer_bytes or 0):
            self._session.release(self)
        return piece

    def take(self, piece: BodyPiece) -> None:
        """Take the next piece, in whatever order they come."""
        if self._is_over or self._failure is not None or piece.seq < self._next_seq:
            return
        self._held[piece.seq] = piece
        self._held_bytes += len(piece.data)
        while (following := self._held.pop(self._next_seq, None)) is not None:
            self._held_bytes -= len(following.data)
            self._next_seq += 1
            self._take_following(following)
        if len(self._held) > HELD_EVENTS or self._held_bytes > HELD_BYTES:
            self.fail(ClientError("the body broke off: a piece of it never came"))
        self._news.set()

    def _take_following(self, piece: BodyPiece) -> None:
        if self._failure is not None:
            return
        if piece.data:
            self._pieces.append(piece.data)
            self._queued_bytes += len(piece.data) + PIECE_OVERHEAD_BYTES
        if piece.error is not None:
            reason = without_secrets(self._exchange, piece.error)
            self.fail(ClientError(f"the body broke off: {reason}"))
        elif piece.is_last:
            self._is_over = True
        elif self._buffer_bytes is not None and self._queued_bytes > self._buffer_bytes:
            if self._blocks and self._queued_bytes <= self._buffer_bytes + BLOCKED_BYTES:
                self._session.hold(self)
            else:
                self.fail(BodyTooFast(f"{self._queued_bytes} bytes came without being read"))

    def fail(self, error: Exception) -> None:
        """No more pieces will come."""
        if not self._is_over:
            self._failure = self._failure or error
        self._held.clear()
        self._news.set()

    def end(self) -> None:
        """Nobody reads any more."""
        self._is_over = True
        self._pieces.clear()
        self._held.clear()
        self._session.release(self)


def without_secrets(exchange: HttpExchange, text: str) -> str:
    """Words of a server without the values that the request has in its URL and its headers."""
    text = text.replace(exchange.url, shown_url(exchange.url))
    secrets = {value for _, value in exchange.headers}
    with contextlib.suppress(ValueError):
        parts = urlsplit(exchange.url)
        values = [value for _, value in parse_qsl(parts.query)]
        secrets |= {parts.query, parts.fragment, parts.password or "", *values}
        secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_CHARACTERS:
            text = text.replace(secret, HIDDEN)
    return text


def _header(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    lower = name.lower()
    return next((value for key, value in headers if key.lower() == lower), None)
