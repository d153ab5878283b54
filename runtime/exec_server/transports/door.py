"""The HTTP door of the WebSocket listener: who is let in, and what everybody else is told.

The order of checks is the real servers' (v1 from 0.137): an Origin header is refused before
anything else, so that no web page can reach the server from a browser; then the path; then the
method; then the upgrade headers; last, who it is (v2 from 0.158). Right after the Origin comes the
Host, which the real servers do not look at.
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
"""Request line and headers together; a WebSocket client sends a few hundred bytes."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take to send its request head, unless a gate says otherwise."""

END_OF_HEAD: Final = b"\r\n\r\n"

_PORT: Final = re.compile(r":\d*\Z")

_SINGLE: Final = frozenset({"authorization", "host"})
"""Headers of which the first counts."""

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


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that ends the connection."""

    status: int
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """The whole answer as bytes."""
        body = self.text.encode()
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if body:
            lines.append("content-type: text/plain; charset=utf-8")
        lines += [f"content-length: {len(body)}", "connection: close"]
        return "\r\n".join(lines).encode() + END_OF_HEAD + body


class Gate(msgspec.Struct, frozen=True):
    """Who is let in."""

    authenticator: Authenticator | None = None
    """Decides by the Authorization header; None lets in whoever reaches the server."""
    hosts: AbstractSet[str] | None = None
    """Names, in lower case, that a Host header may give besides IP addresses and localhost; None
    for any. A web page can make its own name point here (DNS rebinding), but not an address."""
    handshake_seconds: float = HANDSHAKE_SECONDS


OPEN: Final = Gate()

NO_HTTP: Final = Answer(400, "expected a plain HTTP request")
"""For a first byte that begins none, such as that of TLS, whose head would never end."""

TOO_LARGE: Final = Answer(431, f"request head exceeds {MAX_HEAD_BYTES} bytes")


def examine_beginning(head: bytes) -> Answer | None:
    """Judge the first bytes of a head without its end; None if there may be one yet."""
    if not head[:1].isalpha():
        return NO_HTTP
    return TOO_LARGE if len(head) >= MAX_HEAD_BYTES else None


def examine(head: bytes, gate: Gate = OPEN) -> Answer | None:
    """Judge a request head; None lets the WebSocket handshake go on."""
    try:
        lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = lines[0].split(" ")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                return Answer(400, "malformed header line")
            key = name.lower()
            value = value.strip(" \t")
            if key not in headers:
                headers[key] = value
            elif key not in _SINGLE:
                headers[key] += f", {value}"
    except ValueError:
        return Answer(400, "malformed request line")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return Answer(400, "expected HTTP/1.1")
    return _judge(gate, method, target.partition("?")[0], version, headers)


def _judge(
    gate: Gate, method: str, path: str, version: str, headers: dict[str, str]
) -> Answer | None:
    if "origin" in headers:
        return Answer(403)
    if gate.hosts is not None and not _is_own(headers.get("host"), gate.hosts):
        return Answer(403, "Host header names another server")
    if path == "/readyz":
        if method in ("GET", "HEAD"):
            return Answer(200)
        return Answer(405, headers=(("allow", "GET,HEAD"),))
    if path != "/":
        return Answer(404)
    if method != "GET":
        return Answer(405, "Request method must be `GET`")
    if version == "HTTP/1.0":
        return Answer(426, "WebSocket needs HTTP/1.1")
    if "upgrade" not in _tokens(headers, "connection"):
        return Answer(400, "Connection header did not include 'upgrade'")
    if "websocket" not in _tokens(headers, "upgrade"):
        return Answer(400, "`Upgrade` header did not include 'websocket'")
    if headers.get("sec-websocket-version") != "13":
        return Answer(400, "`Sec-WebSocket-Version` header did not include '13'")
    if "sec-websocket-key" not in headers:
        return Answer(400, "`Sec-WebSocket-Key` header missing")
    if gate.authenticator is not None:
        refusal = gate.authenticator.refusal(headers.get("authorization"))
        if refusal is not None:
            return Answer(401, refusal)
    return None


def _is_own(host: str | None, names: AbstractSet[str]) -> bool:
    """Whether a Host header can come from somebody who meant this server."""
    if host is None:  # no browser leaves it out
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
