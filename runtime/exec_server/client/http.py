"""HTTP requests made by the server on behalf of the client."""

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
"""Header lines; a sequence of pairs may repeat a name."""

SECRET_CHARACTERS: Final = 4
"""Minimum length of a value that is removed from error messages. Shorter values occur by chance and
are unlikely to be secrets."""

BODY_BYTES: Final = 16 * 1024 * 1024
"""Default buffer of a streamed body for a slow reader."""

ANSWER_SECONDS: Final = 0.25
"""Time after a timeout for the answer of the server, which keeps the timeout itself. A timeout is
kept within 0.5 seconds even if the server does not answer."""


class HttpResponse(msgspec.Struct, frozen=True):
    """A response with any status, errors of the HTTP server included."""

    status: int
    """Status code."""
    headers: list[tuple[str, str]]
    """Header lines in order of reception, with names in lower case."""
    body: bytes
    """Body, in its content encoding."""

    def header(self, name: str) -> str | None:
        """Return the first header of that name, or None."""
        return _header(self.headers, name)

    @property
    def text(self) -> str:
        """Body as UTF-8 text; invalid bytes appear as U+FFFD."""
        return self.body.decode(errors="replace")


class Http:
    """HTTP requests made by the server: ``Client.http``."""

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

        timeout: seconds for connection, headers and body together; default: that of the client,
            which is unlimited unless set.
        follow_redirects: follow redirects; v1 always does.

        Raises TimeoutError, and ServerError if the request failed without a response.
        """
        timeout = self._session.time_limit(timeout)
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
        """Make a request and iterate over the body of the response as it arrives.

            async with client.http.stream("GET", url) as response:
                async for piece in response:
                    …

        buffer_bytes: buffer for a slow reader; None is no limit.
        overflow: policy for a full buffer: ``fail`` ends the body with BodyTooFast, ``block``
            stops reading from the server until there is room, on the whole connection.

        The protocol cannot cancel a request: the rest of an abandoned body is still sent.
        """
        timeout = self._session.time_limit(timeout)
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
        pieces.end_by(timeout)
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
        give_up_at = None if timeout is None else started + timeout + ANSWER_SECONDS
        place = shown_url(exchange.url)
        try:
            async with asyncio.timeout_at(give_up_at) as scope:
                return await self._session.revision.http(exchange)
        except TimeoutError:
            if timeout is None or not scope.expired():
                raise
            raise TimeoutError(f"no response from {place} in {timeout:g} s") from None
        except ServerError as error:
            clean = server_error(error.method, error.code, without_secrets(exchange, error.message))
            # Servers word a timeout in several ways, so the clock decides.
            if timeout is not None and loop.time() - started >= timeout:
                raise TimeoutError(f"no response from {place} in {timeout:g} s") from clean
            raise clean from None


class HttpStream:
    """A response whose body is being received. ``Http.stream`` yields it."""

    def __init__(self, head: HttpHead, body: Body) -> None:
        self._head = head
        self._body = body

    @property
    def status(self) -> int:
        """Status code."""
        return self._head.status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Header lines in order of reception, with names in lower case."""
        return self._head.headers

    def header(self, name: str) -> str | None:
        """Return the first header of that name, or None."""
        return _header(self._head.headers, name)

    async def read(self) -> bytes:
        """Return the rest of the body."""
        return b"".join([piece async for piece in self])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece of the body.

        Raises ClientError if the body broke off, BodyTooFast, TimeoutError or ConnectionLost.
        """
        piece = await self._body.next()
        if piece is None:
            raise StopAsyncIteration
        return piece


class Body(BodyReceiver):
    """Buffer of a streamed body."""

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
        self._give_up_at: float | None = None

    def end_by(self, timeout: float | None) -> None:
        """Fail reads that wait beyond ``timeout`` seconds from now."""
        if timeout is not None:
            self._give_up_at = asyncio.get_running_loop().time() + timeout + ANSWER_SECONDS

    async def next(self) -> bytes | None:
        """Return the next piece, or None after the last one; raise the error that ended it."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return None
            self._news.clear()
            try:
                async with asyncio.timeout_at(self._give_up_at) as scope:
                    await self._news.wait()
            except TimeoutError:
                if scope.expired():
                    place = shown_url(self._exchange.url)
                    self.fail(TimeoutError(f"the body of {place} did not arrive in time"))
                else:
                    raise
        piece = self._pieces.popleft()
        self._queued_bytes -= len(piece) + PIECE_OVERHEAD_BYTES
        if self._blocks and 2 * self._queued_bytes <= (self._buffer_bytes or 0):
            self._session.resume_reading(self)
        return piece

    def take(self, piece: BodyPiece) -> None:
        """Take a piece, in any order."""
        if self._is_over or self._failure is not None or piece.seq < self._next_seq:
            return
        self._held[piece.seq] = piece
        self._held_bytes += len(piece.data)
        while (following := self._held.pop(self._next_seq, None)) is not None:
            self._held_bytes -= len(following.data)
            self._next_seq += 1
            self._take_following(following)
        if len(self._held) > HELD_EVENTS or self._held_bytes > HELD_BYTES:
            self.fail(ClientError("the body broke off: a piece of it is missing"))
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
                self._session.pause_reading(self)
            else:
                self.fail(BodyTooFast(f"{self._queued_bytes} bytes arrived without being read"))

    def fail(self, error: Exception) -> None:
        """End the body with an error."""
        if not self._is_over:
            self._failure = self._failure or error
        self._held.clear()
        self._news.set()

    def end(self) -> None:
        """Discard the body: it is no longer read."""
        self._is_over = True
        self._pieces.clear()
        self._held.clear()
        self._session.resume_reading(self)


def without_secrets(exchange: HttpExchange, text: str) -> str:
    """Return a message of the server without the values in the URL and headers of the request."""
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
