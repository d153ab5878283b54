"""Addresses that the server can listen on, as URLs."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from exec_server.errors import UsageError

_WEBSOCKET_URL: Final = re.compile(
    r"wss?://(?:(?P<name>localhost|\d{1,3}(?:\.\d{1,3}){3})|\[(?P<v6>[0-9A-Fa-f:.]+)\])"
    r":(?P<port>\d{1,5})/?"
)
_UNIX: Final = "unix://"


class Address(NamedTuple):
    """Address of a WebSocket listener: an IP address and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    is_encrypted: bool = False
    path: str | None = None


def parse_listen_url(url: str) -> Address | None:
    """Parse ``ws://IP:PORT``, ``wss://IP:PORT`` or ``unix:///PATH``; return None for ``stdio``.

    ``localhost`` stands for 127.0.0.1. Raises UsageError, with codex's texts, for anything else.
    """
    if url in ("stdio", "stdio://"):
        return None
    if url.startswith(_UNIX):
        path = url.removeprefix(_UNIX)
        if not path.startswith("/"):
            raise UsageError(f"invalid unix --listen URL `{url}`; expected `unix:///PATH`")
        return Address(path=path)
    if not url.startswith(("ws://", "wss://")):
        raise UsageError(
            f"unsupported --listen URL `{url}`; expected `ws://IP:PORT`, `wss://IP:PORT`, "
            "`unix:///PATH` or `stdio`"
        )
    match = _WEBSOCKET_URL.fullmatch(url)
    host = _ip_address(match["name"] or match["v6"]) if match else None
    if match is None or host is None or int(match["port"]) > 65535:
        scheme = url.partition("://")[0]
        raise UsageError(f"invalid websocket --listen URL `{url}`; expected `{scheme}://IP:PORT`")
    return Address(host, int(match["port"]), url.startswith("wss://"))


def _ip_address(host: str) -> str | None:
    """Return the IP address that a host stands for; None if it is none."""
    import ipaddress  # noqa: PLC0415 (stdio does not need it)

    if host == "localhost":
        return "127.0.0.1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return host
