"""HTTP requests of one connection, with bodies in the response or in notifications after it."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from exec_server import jsonrpc
from exec_server.engine.http import client as http
from exec_server.errors import EngineError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from exec_server.revisions.interface import ConnectionContext

R = TypeVar("R")


class BodyDelta(Protocol):
    """A revision's model of http/request/bodyDelta."""

    def __call__(
        self, *, request_id: str, seq: int, delta_base64: bytes, done: bool, error: str | None
    ) -> msgspec.Struct:
        """Create the params."""
        ...


class HttpRequests(Generic[R]):
    """Pending requests, answered with ``R``, a revision's model of the result."""

    def __init__(
        self,
        connection: ConnectionContext,
        result: Callable[[int, Sequence[tuple[str, str]], bytes], R],
        body_delta: BodyDelta,
        *,
        route_aware: bool = False,
        decodes_content: bool = False,
    ) -> None:
        """``result`` creates a result from a status, headers and a body.

        ``body_delta`` is the model for pieces of streamed bodies. For ``route_aware`` see
        HttpClient.
        """
        self._connection = connection
        self._result = result
        self._body_delta = body_delta
        self._route_aware = route_aware
        self._decodes_content = decodes_content
        self._streams: dict[str, asyncio.Task[None] | None] = {}

    @cached_property
    def _client(self) -> http.HttpClient:
        """Client, created by the first request, when there is a session."""
        return http.HttpClient(
            route_aware=self._route_aware,
            decodes_content=self._decodes_content,
            memory=self._connection.session.memory,
            max_seconds=self._connection.settings.max_http_seconds,
        )

    async def answer(self, request: http.HttpRequest, stream_as: str | None) -> R:
        """Make a request; the body is in the result, or follows it in notifications.

        ``stream_as`` is the id in the notifications. Raises InvalidArgument if a body with that id
        is still being sent.
        """
        if stream_as is None:
            response = await self._client.fetch(request)
            return self._result(response.status, response.headers, response.body)
        stream = await self._open(stream_as, request)
        return self._result(stream.status, stream.headers, b"")

    async def _open(self, request_id: str, request: http.HttpRequest) -> http.HttpStream:
        if request_id in self._streams:
            raise InvalidArgument(
                f"http/request streamResponse requestId `{request_id}` is already active"
            )
        self._streams[request_id] = None
        try:
            stream = await self._client.open(request)
        except BaseException:
            del self._streams[request_id]
            raise
        # The task starts after the response is queued, so the first delta follows it.
        pump = asyncio.create_task(self._pump(request_id, stream))
        self._streams[request_id] = pump
        self._connection.track(pump)
        return stream

    async def _pump(self, request_id: str, stream: http.HttpStream) -> None:
        seq = 0
        error: str | None = None
        try:
            async for piece in stream:
                seq += 1
                self._send(request_id, seq, piece, done=False, error=None)
                await self._connection.wait_writable()
        except EngineError as failure:
            error = str(failure)
        finally:
            await stream.aclose()
            del self._streams[request_id]
        self._send(request_id, seq + 1, b"", done=True, error=error)

    def _send(
        self, request_id: str, seq: int, data: bytes, *, done: bool, error: str | None
    ) -> None:
        params = self._body_delta(
            request_id=request_id, seq=seq, delta_base64=data, done=done, error=error
        )
        self._connection.notify((jsonrpc.notification("http/request/bodyDelta", params),))

    async def aclose(self) -> None:
        """Close all upstream connections."""
        tasks = [task for task in self._streams.values() if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if "_client" in vars(self):
            await self._client.aclose()
