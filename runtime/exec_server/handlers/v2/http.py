"""http/request of v2: redirects can be left alone, header values can come from the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exec_server.engine import http
from exec_server_protocol.v2.http import HttpHeader, HttpRequestResult

if TYPE_CHECKING:
    from exec_server.engine.http_request import GivenHeader
    from exec_server.handlers.http_requests import HttpRequests
    from exec_server_protocol.v2.http import HttpRequestHeader, HttpRequestParams


class HttpV2:
    """http/request."""

    def __init__(self, requests: HttpRequests) -> None:
        self._requests = requests

    async def request(self, params: HttpRequestParams) -> HttpRequestResult:
        """Make a request; the body comes with the answer or as notifications after it."""
        request = http.HttpRequest(
            method=params.method,
            url=params.url,
            headers=[_given(header) for header in params.headers],
            body=params.body_base64,
            timeout_ms=params.timeout_ms,
            redirect_policy=params.redirect_policy,
        )
        if params.stream_response:
            stream = await self._requests.stream(params.request_id, request)
            return HttpRequestResult(
                status=stream.status, headers=_headers(stream.headers), body_base64=b""
            )
        response = await self._requests.fetch(request)
        return HttpRequestResult(
            status=response.status, headers=_headers(response.headers), body_base64=response.body
        )


def _given(header: HttpRequestHeader) -> GivenHeader:
    if header.value_env_var is None:
        return (header.name, header.value)
    return (header.name, header.value, header.value_env_var)


def _headers(headers: list[tuple[str, str]]) -> list[HttpHeader]:
    return [HttpHeader(name=name, value=value) for name, value in headers]
