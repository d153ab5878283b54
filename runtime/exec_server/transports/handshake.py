"""The opening handshake of the WebSocket listener: an HTTP request head in, a decision out. No I/O.

The order of the checks is that of the released servers (v1 from 0.137): a request with an Origin
header is rejected first, so that no web page can reach the server from a browser; then the path,
the method, the upgrade headers and the credentials (v2 from 0.158) are checked. The Host header,
which the released servers ignore, is checked right after the Origin header.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from exec_server.transports.auth import Authenticator

MAX_HEAD_BYTES: Final = 16 * 1024
"""Maximum size of request line and headers together; a WebSocket client sends a few hundred
bytes."""

HANDSHAKE_SECONDS: Final = 10.0
"""Time for TLS and the request head together, unless an AdmissionPolicy says otherwise."""

END_OF_HEAD: Final = b"\r\n\r\n"

_PORT: Final = re.compile(r":\d*\Z")

_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64 (RFC 6455, section 4.1)."""

_FIRST_COUNTS: Final = frozenset({"authorization", "host"})
"""Headers of which only the first counts; the values of other repeated headers are joined."""

_USED: Final = _FIRST_COUNTS | {
    "connection",
    "content-length",
    "origin",
    "sec-websocket-key",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
}
"""Headers that are not ignored."""

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class HttpRejection(msgspec.Struct, frozen=True):
    """An HTTP response after which the connection is closed."""

    status: int
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """Return the whole response as bytes."""
        body = self.text.encode()
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if body:
            lines.append("content-type: text/plain; charset=utf-8")
        lines += [f"content-length: {len(body)}", "connection: close"]
        return "\r\n".join(lines).encode() + END_OF_HEAD + body


class Admission(msgspec.Struct, frozen=True):
    """An accepted upgrade request."""

    key: str
    """Value of Sec-WebSocket-Key, from which the response is derived."""
    expires_at: float | None = None
    """Unix time at which its credentials expire; None if they never do."""


class AdmissionPolicy(msgspec.Struct, frozen=True):
    """Rules by which a listener accepts connections."""

    authenticator: Authenticator | None = None
    """Check of the Authorization header; None to accept every client."""
    hosts: AbstractSet[str] | None = None
    """Names, in lower case, that are accepted in a Host header besides IP addresses and localhost;
    None for any. DNS rebinding can make a web page's own name point here, but not an address."""
    handshake_seconds: float = HANDSHAKE_SECONDS
    """Time for TLS and the request head together."""


OPEN: Final = AdmissionPolicy()

NO_HTTP: Final = HttpRejection(400, "expected a plain HTTP request")
"""Response to a first byte that begins no request, such as that of TLS: it would have no end."""

TOO_LARGE: Final = HttpRejection(431, f"request head exceeds {MAX_HEAD_BYTES} bytes")


def check_beginning(head: bytes) -> HttpRejection | None:
    """Check the first bytes of a head whose end has not arrived; None if it may still be valid."""
    if not head[:1].isalpha():
        return NO_HTTP
    return TOO_LARGE if len(head) >= MAX_HEAD_BYTES else None


def check_upgrade(head: bytes, policy: AdmissionPolicy = OPEN) -> Admission | HttpRejection:
    """Check a whole request head."""
    request, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    try:
        method, target, version = request.split(" ")
    except ValueError:
        return HttpRejection(400, "malformed request line")
    found: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _FIELD_NAME.fullmatch(name) or _BAD_IN_VALUE.search(value):
            return HttpRejection(400, "malformed header line")
        key = name.lower()
        if key in _USED:
            found.setdefault(key, []).append(value.strip(" \t"))
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return HttpRejection(400, "expected HTTP/1.1")
    headers = {
        name: values[0] if name in _FIRST_COUNTS else ", ".join(values)
        for name, values in found.items()
    }
    return _decide(policy, method, target.partition("?")[0], version, headers)


def _decide(
    policy: AdmissionPolicy, method: str, path: str, version: str, headers: dict[str, str]
) -> Admission | HttpRejection:
    if "origin" in headers:
        return HttpRejection(403)
    if policy.hosts is not None and not _is_own(headers.get("host"), policy.hosts):
        return HttpRejection(403, "Host header names another server")
    if path == "/readyz":
        if method in ("GET", "HEAD"):
            return HttpRejection(200)
        return HttpRejection(405, headers=(("allow", "GET,HEAD"),))
    if path != "/":
        return HttpRejection(404)
    if method != "GET":
        return HttpRejection(405, "Request method must be `GET`")
    if version == "HTTP/1.0":
        return HttpRejection(426, "WebSocket needs HTTP/1.1")
    if "upgrade" not in _tokens(headers, "connection"):
        return HttpRejection(400, "Connection header did not include 'upgrade'")
    if "websocket" not in _tokens(headers, "upgrade"):
        return HttpRejection(400, "`Upgrade` header did not include 'websocket'")
    if headers.get("sec-websocket-version") != "13":
        return HttpRejection(400, "`Sec-WebSocket-Version` header did not include '13'")
    if "sec-websocket-key" not in headers:
        return HttpRejection(400, "`Sec-WebSocket-Key` header missing")
    if not _KEY.fullmatch(headers["sec-websocket-key"]):
        return HttpRejection(400, "`Sec-WebSocket-Key` header is not 16 bytes in base64")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        return HttpRejection(400, "a request to upgrade has no body")
    return _authenticate(policy.authenticator, headers)


def _authenticate(
    authenticator: Authenticator | None, headers: dict[str, str]
) -> Admission | HttpRejection:
    expires_at = None
    if authenticator is not None:
        from exec_server.transports.auth import Unauthorized  # noqa: PLC0415 (imported if needed)

        try:
            expires_at = authenticator.expiry(headers.get("authorization"))
        except Unauthorized as error:
            return HttpRejection(401, str(error))
    return Admission(headers["sec-websocket-key"], expires_at)


def _is_own(host: str | None, names: AbstractSet[str]) -> bool:
    """Return True if a client that addresses this server may send such a Host header."""
    if host is None:  # browsers always send it
        return True
    name = _PORT.sub("", host).lower()
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _tokens(headers: dict[str, str], name: str) -> list[str]:
    return [token.strip().lower() for token in headers.get(name, "").split(",")]
