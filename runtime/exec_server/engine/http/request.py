"""HTTP requests: validation, completion and redirection."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

import msgspec

from exec_server.engine.http.content_decoding import ACCEPTED
from exec_server.engine.http.url import HttpUrl, UnsupportedScheme, UrlError, parse
from exec_server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

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
"""Headers for one origin only; they are dropped when a redirect leads to another one."""

FORBIDDEN_VARIABLES: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "CODEX_ACCESS_TOKEN",
        "CODEX_API_KEY",
        "CODEX_CONNECTORS_TOKEN",
        "CODEX_EXEC_SERVER_NOISE_AUTH_TOKEN",
        "CODEX_GUARDIAN_DECISIONS_API_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "OPENAI_API_KEY",
        "OPENAI_FEDERATION_RULE_ID",
        "OPENAI_IDENTITY_TOKEN_FILE",
        "OPENAI_WORKLOAD_IDENTITY_CONTEXT",
    }
)
"""Variables that no header may use, in any case (v2 http/request, as in codex 0.169): they are
credentials of the server's user."""

Headers = list[tuple[bytes, bytes]]

GivenHeader = tuple[str, str] | tuple[str, str, str | None]
"""Name, value, and an environment variable whose value is appended."""


class PreparedRequest(msgspec.Struct, frozen=True):
    """A validated request, ready to be sent."""

    method: bytes
    url: HttpUrl
    headers: Headers
    """Without Host and Content-Length if these follow from the other fields."""
    body: bytes
    from_variables: frozenset[bytes] = frozenset()
    """Names, in lower case, of headers with values of environment variables. They are sent only to
    the origin that the client named."""

    def wire_headers(self) -> Headers:
        """Return all headers to send."""
        given = {name.lower() for name, _ in self.headers}
        headers = list(self.headers)
        if b"host" not in given:
            headers.append((b"host", self.url.authority.encode()))
        if self.body and not given & {b"content-length", b"transfer-encoding"}:
            headers.append((b"content-length", b"%d" % len(self.body)))
        return headers

    def accepting_encodings(self) -> PreparedRequest:
        """Return the request with an Accept-Encoding header, the default unless it has one."""
        if any(name.lower() == b"accept-encoding" for name, _ in self.headers):
            return self
        headers = [*self.headers, (b"accept-encoding", ACCEPTED)]
        return msgspec.structs.replace(self, headers=headers)

    def redirected(self, status: int, url: HttpUrl, *, whole_referer: bool) -> PreparedRequest:
        """Return the request that follows a redirect to ``url``.

        ``whole_referer``: send the whole URL as Referer to another origin, not only the origin.
        """
        method, headers, body = self.method, self.headers, self.body
        drop: set[bytes] = {b"referer"}
        if status == 303 or (status in (301, 302) and method == b"POST"):
            method = b"HEAD" if method == b"HEAD" else b"GET"
            body = b""
            drop |= _BODY_HEADERS
        if url.origin != self.url.origin:
            drop |= _ORIGIN_HEADERS | self.from_variables
        headers = [(name, value) for name, value in headers if name.lower() not in drop]
        if not (self.url.scheme == "https" and url.scheme == "http"):
            whole = whole_referer or url.origin == self.url.origin
            referer = self.url.without_fragment if whole else self.url.origin_url
            headers.append((b"referer", referer.encode()))
        return PreparedRequest(method, url, headers, body, self.from_variables)


def prepare(
    method: str,
    url_text: str,
    given_headers: Iterable[GivenHeader],
    body: bytes | None,
    environment: Mapping[str, str],
) -> PreparedRequest:
    """Validate a request of a client. Raises InvalidArgument that names the fault."""
    if not _TOKEN.fullmatch(method):
        raise InvalidArgument("http/request method is invalid: invalid HTTP method")
    try:
        url = parse(url_text)
    except UnsupportedScheme as error:
        raise InvalidArgument(
            f"http/request only supports http and https URLs, got {error.scheme}"
        ) from None
    except UrlError as error:
        raise InvalidArgument(f"http/request url is invalid: {error}") from None
    headers: Headers = []
    from_variables: set[bytes] = set()
    for name, value, *variable in given_headers:
        if not _TOKEN.fullmatch(name):
            raise InvalidArgument("http/request header name is invalid: invalid HTTP header name")
        if variable and variable[0] is not None:
            value += _value_of(variable[0], name, environment)  # noqa: PLW2901
            from_variables.add(name.lower().encode())
        if _BAD_VALUE.search(value):
            raise InvalidArgument(
                f"http/request header value is invalid for {name}: failed to parse header value"
            )
        # White space around a value is not part of it, and the HTTP library rejects it.
        headers.append((name.encode(), value.strip(" \t").encode()))
    body = body or b""
    _check_content_length(headers, body)
    given = {name.lower() for name, _ in headers}
    if url.has_user and b"authorization" not in given:
        headers.insert(0, (b"authorization", basic_credentials(url)))
    if b"accept" not in given:
        headers.append((b"accept", b"*/*"))
    return PreparedRequest(method.encode(), url, headers, body, frozenset(from_variables))


def _check_content_length(headers: Headers, body: bytes) -> None:
    """Raise InvalidArgument if Content-Length differs from the length of the body.

    Otherwise a server could take the following bytes of the connection for part of the body.
    """
    for name, value in headers:
        if name.lower() == b"content-length" and value != b"%d" % len(body):
            raise InvalidArgument(
                f"http/request header {name.decode()} is `{value.decode()}`, but the body has "
                f"{len(body)} bytes"
            )


def _value_of(variable: str, header: str, environment: Mapping[str, str]) -> str:
    """Return the value of the variable that a header uses. Raises InvalidArgument."""
    if variable.upper() in FORBIDDEN_VARIABLES:
        raise InvalidArgument(
            f"http/request header {header} cannot use executor environment variable {variable}"
        )
    value = environment.get(variable)
    if value is None or not _is_text(value):
        raise InvalidArgument(
            f"http/request header {header} requires executor environment variable {variable}"
        )
    if not value:
        raise InvalidArgument(
            f"http/request header {header} requires a non-empty executor environment variable "
            f"{variable}"
        )
    return value


def _is_text(value: str) -> bool:
    """Return True if a variable is UTF-8: other bytes are surrogates in Python."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def basic_credentials(url: HttpUrl) -> bytes:
    """Return the Authorization header for the user and password of a URL."""
    return b"Basic " + base64.b64encode(url.username + b":" + url.password)
