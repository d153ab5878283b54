"""The HTTP door of the WebSocket listener: who is let in, and what everybody else is told.

The order of checks is the real servers' (v1 from 0.137): an Origin header is refused before
anything else, so that no web page can reach the server from a browser; then the path; then the
method; then the upgrade headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 16 * 1024
"""Request line and headers together; a WebSocket client sends a few hundred bytes."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take to send its request head."""

END_OF_HEAD: Final = b"\r\n\r\n"

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
}


@dataclass(frozen=True, slots=True)
class Answer:
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


TOO_LARGE: Final = Answer(431, f"request head exceeds {MAX_HEAD_BYTES} bytes")


def examine(head: bytes) -> Answer | None:
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
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
    except ValueError:
        return Answer(400, "malformed request line")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return Answer(400, "expected HTTP/1.1")
    return _judge(method, target.partition("?")[0], version, headers)


def _judge(method: str, path: str, version: str, headers: dict[str, str]) -> Answer | None:
    if "origin" in headers:
        return Answer(403)
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
    return None


def _tokens(headers: dict[str, str], name: str) -> list[str]:
    return [token.strip().lower() for token in headers.get(name, "").split(",")]
