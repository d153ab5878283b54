"""Handler of http/request in v1: redirects are followed, header values are sent as given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.engine.http.client import HttpRequest
from exec_server.revisions.http_requests import HttpRequests
from exec_server_protocol.v1.http import (
    HttpHeader,
    HttpRequestBodyDeltaParams,
    HttpRequestParams,
    HttpRequestResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exec_server.revisions.interface import ConnectionContext


class HttpV1:
    """Handler of http/request."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._requests = HttpRequests(connection, _result, HttpRequestBodyDeltaParams)

    async def request(self, params: HttpRequestParams) -> HttpRequestResult:
        """Make a request; the body is in the result, or follows it in notifications."""
        request = HttpRequest(
            method=params.method,
            url=params.url,
            headers=[(header.name, header.value) for header in params.headers],
            body=params.body_base64,
            timeout_ms=params.timeout_ms,
        )
        stream_as = params.request_id if params.stream_response else None
        return await self._requests.answer(request, stream_as)

    async def aclose(self) -> None:
        """Cancel pending requests."""
        await self._requests.aclose()


def _result(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> HttpRequestResult:
    """Return the result of http/request."""
    return HttpRequestResult(
        status=status,
        headers=[HttpHeader(name=name, value=value) for name, value in headers],
        body_base64=body,
    )
