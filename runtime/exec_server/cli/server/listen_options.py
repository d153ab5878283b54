"""Who may reach a listening server: the options of the command line, checked and carried out.

Whoever reaches this server can run any command as its user. So it does not listen beyond its own
machine without authentication, unless it is told that this is meant. Secrets come from files or
from the environment: what is on a command line, every user of the machine can read.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from exec_server.errors import UsageError, system_text

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Collection, Mapping

    from exec_server.server.listener import WebSocketServer
    from exec_server.server.server import Server
    from exec_server.transports.auth import Authenticator
    from exec_server.transports.handshake import AdmissionPolicy

_WEBSOCKET_URL: Final = re.compile(
    r"wss?://(?:(?P<v4>\d{1,3}(?:\.\d{1,3}){3})|\[(?P<v6>[0-9A-Fa-f:.]+)\]):(?P<port>\d{1,5})/?"
)
_UNIX: Final = "unix://"

_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")

DEFAULT_CLOCK_SKEW_SECONDS: Final = 30
DEFAULT_SOCKET_MODE: Final = 0o600

_ANY_HOST: Final = "*"
"""The value of --allow-host that turns the check of the Host header off."""


class Address(NamedTuple):
    """Where a WebSocket listener binds: an IP address, or a path."""

    host: str = ""
    port: int = 0
    is_encrypted: bool = False
    path: str | None = None


def parse_listen_url(url: str) -> Address | None:
    """An address for ``ws://IP:PORT``, ``wss://IP:PORT`` or ``unix:///PATH``; None for ``stdio``.

    Raises UsageError, in the words of the real servers, for anything else.
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
    host = (match["v4"] or match["v6"]) if match else ""
    if match is None or not _is_ip(host) or int(match["port"]) > 65535:
        scheme = url.partition("://")[0]
        raise UsageError(f"invalid websocket --listen URL `{url}`; expected `{scheme}://IP:PORT`")
    return Address(host, int(match["port"]), url.startswith("wss://"))


def _is_ip(host: str) -> bool:
    import ipaddress  # noqa: PLC0415 (stdio does not need it)

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on who may reach a listening server."""
    group = parser.add_argument_group("options on who may reach a listening server")
    group.add_argument(
        "--ws-auth",
        choices=("capability-token", "signed-bearer-token"),
        help="ask for a token in the header `Authorization: Bearer TOKEN`: one that is agreed on, "
        "or a JSON Web Token signed with HS256",
    )
    group.add_argument(
        "--ws-token-file", metavar="PATH", type=_path, help="a file that holds the token agreed on"
    )
    group.add_argument(
        "--ws-token-env",
        metavar="NAME",
        type=_variable,
        help="the environment variable that holds the token agreed on; programs do not inherit it",
    )
    group.add_argument(
        "--ws-token-sha256", metavar="HEX", help="the SHA-256 digest of the token agreed on"
    )
    group.add_argument(
        "--ws-shared-secret-file",
        metavar="PATH",
        type=_path,
        help="a file that holds the secret that tokens are signed with, at least 32 bytes",
    )
    group.add_argument(
        "--ws-shared-secret-env",
        metavar="NAME",
        type=_variable,
        help="the environment variable that holds that secret; programs do not inherit it",
    )
    group.add_argument("--ws-issuer", metavar="NAME", help="what a signed token must have as `iss`")
    group.add_argument(
        "--ws-audience", metavar="NAME", help="what a signed token must have as or in `aud`"
    )
    group.add_argument(
        "--ws-max-clock-skew-seconds",
        metavar="N",
        type=_whole,
        help="how far the clocks of whoever signs and of this server may differ "
        f"(default: {DEFAULT_CLOCK_SKEW_SECONDS})",
    )
    group.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen beyond this machine without --ws-auth: something else decides who gets here",
    )
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that a client's Host header may give, besides IP addresses, localhost and "
        "this machine's own name; requests with other names are refused with 403, so that a web "
        "page cannot reach the server under a name of its own; `*` allows any (default: none; may "
        "be repeated)",
    )
    group.add_argument(
        "--tls-cert", metavar="PATH", type=_path, help="with wss://: the certificate chain, in PEM"
    )
    group.add_argument(
        "--tls-key", metavar="PATH", type=_path, help="with wss://: its private key, in PEM"
    )
    group.add_argument(
        "--socket-mode",
        metavar="OCTAL",
        type=_mode,
        help="with unix://: who may connect, as chmod has it "
        f"(default: {DEFAULT_SOCKET_MODE:03o}, this user alone)",
    )
    group.add_argument(
        "--handshake-seconds",
        metavar="N",
        type=_positive,
        help="seconds that a client may take for TLS and its HTTP request together; then it is "
        "dropped (default: 10)",
    )
    group.add_argument(
        "--max-pending-connections",
        metavar="COUNT",
        type=_count,
        help="maximum number of connections whose handshake is not complete; beyond it the oldest "
        "of them is dropped (default: 256)",
    )


class Access:
    """How a server listens and whom it lets in."""

    def __init__(self, address: Address | None, options: argparse.Namespace) -> None:
        """Check the options and read the files they name. Raises UsageError."""
        if options.ws_auth is not None:
            from exec_server.secret_memory import forbid_inspection  # noqa: PLC0415

            # Before anything secret is read. Tokens pass through the memory later, too.
            forbid_inspection()
        authenticator = _authenticator(options)
        if authenticator is not None and address is None:
            raise UsageError("WebSocket auth requires a WebSocket listener, not stdio")
        if options.socket_mode is not None and (address is None or address.path is None):
            raise UsageError("--socket-mode requires `--listen unix:///PATH`")
        self._options = options
        self._address = address
        self._tls = _tls(address, options)
        self._policy = None if address is None else _policy(address, authenticator, options)

    def listen(self, server: Server) -> WebSocketServer:
        """Start to listen. Raises OSError when the address cannot be had."""
        from exec_server.server.listener import (  # noqa: PLC0415 (stdio does not need it)
            MAX_PENDING,
            WebSocketServer,
            listen_on_ip,
            listen_on_path,
        )

        address, policy = self._address, self._policy
        assert address is not None
        assert policy is not None
        listening: socket.socket
        if address.path is None:
            listening = listen_on_ip(address.host, address.port)
        else:
            mode = self._options.socket_mode
            listening = listen_on_path(address.path, DEFAULT_SOCKET_MODE if mode is None else mode)
        return WebSocketServer(
            server,
            listening,
            policy=policy,
            tls=self._tls,
            max_pending=self._options.max_pending_connections or MAX_PENDING,
        )


def _policy(
    address: Address, authenticator: Authenticator | None, options: argparse.Namespace
) -> AdmissionPolicy:
    """Return the rules for connections to an address. Raises UsageError."""
    import ipaddress  # noqa: PLC0415 (stdio does not need it)

    from exec_server.transports.handshake import (  # noqa: PLC0415
        HANDSHAKE_SECONDS,
        AdmissionPolicy,
    )

    seconds = options.handshake_seconds or HANDSHAKE_SECONDS
    if address.path is not None:
        # A web page has no way to a socket in the file system.
        return AdmissionPolicy(authenticator, handshake_seconds=seconds)
    hosts = _own_names(options.allow_host)
    is_local = ipaddress.ip_address(address.host).is_loopback
    if authenticator is None and not is_local and not options.allow_unauthenticated:
        raise UsageError(
            f"refusing to listen on {address.host} without authentication: whoever reaches it "
            "could run any command; use --ws-auth, or --allow-unauthenticated if something else "
            "decides who gets here"
        )
    return AdmissionPolicy(authenticator, hosts, seconds)


def _own_names(allowed: Collection[str]) -> frozenset[str] | None:
    """Return the names that clients may call this server by; None if any will do."""
    if _ANY_HOST in allowed:
        return None
    # A network's own names for the machine; a page's author has no say in them.
    own = os.uname().nodename
    return frozenset(name.lower() for name in (*allowed, own) if name)


def _authenticator(options: argparse.Namespace) -> Authenticator | None:
    """What the options ask for; errors in the words of the released servers."""
    token_options = (options.ws_token_file, options.ws_token_sha256, options.ws_token_env)
    signed_options = (
        options.ws_shared_secret_file,
        options.ws_shared_secret_env,
        options.ws_issuer,
        options.ws_audience,
        options.ws_max_clock_skew_seconds,
    )
    has_token_options = any(option is not None for option in token_options)
    has_signed_options = any(option is not None for option in signed_options)
    if options.ws_auth is None:
        if has_token_options or has_signed_options:
            raise UsageError(
                "websocket auth flags require `--ws-auth capability-token` or "
                "`--ws-auth signed-bearer-token`"
            )
        return None
    if options.ws_auth == "capability-token":
        if options.ws_shared_secret_env is not None:
            raise UsageError(
                "`--ws-shared-secret-env` requires `--ws-auth signed-bearer-token`, "
                "not `capability-token`"
            )
        if has_signed_options:
            raise UsageError(
                "`--ws-shared-secret-file`, `--ws-issuer`, `--ws-audience`, and "
                "`--ws-max-clock-skew-seconds` require `--ws-auth signed-bearer-token`"
            )
        return _capability_token(*token_options)
    if options.ws_token_env is not None:
        raise UsageError(
            "`--ws-token-env` requires `--ws-auth capability-token`, not `signed-bearer-token`"
        )
    if has_token_options:
        raise UsageError(
            "`--ws-token-file` and `--ws-token-sha256` require `--ws-auth capability-token`, "
            "not `signed-bearer-token`"
        )
    return _signed_token(options)


def _capability_token(file: str | None, digest: str | None, variable: str | None) -> Authenticator:
    from exec_server.transports.auth import CapabilityToken  # noqa: PLC0415

    _refuse_two({"--ws-token-file": file, "--ws-token-sha256": digest, "--ws-token-env": variable})
    if digest is not None:
        if not _SHA256.fullmatch(digest.strip()):
            raise UsageError("--ws-token-sha256 must be a 64-character hex SHA-256 digest")
        return CapabilityToken(bytes.fromhex(digest.strip()))
    secret = _read_secret(file, variable)
    if secret is None:
        raise UsageError(
            "`--ws-token-file` or `--ws-token-sha256` is required when "
            "`--ws-auth capability-token` is set"
        )
    return CapabilityToken.of(secret.text)


def _signed_token(options: argparse.Namespace) -> Authenticator:
    from exec_server.transports.auth import MIN_SECRET_BYTES, SignedToken  # noqa: PLC0415

    file, variable = options.ws_shared_secret_file, options.ws_shared_secret_env
    _refuse_two({"--ws-shared-secret-file": file, "--ws-shared-secret-env": variable})
    if file is None and variable is None:
        raise UsageError(
            "`--ws-shared-secret-file` is required when `--ws-auth signed-bearer-token` is set"
        )
    skew = options.ws_max_clock_skew_seconds
    if skew is None:
        skew = DEFAULT_CLOCK_SKEW_SECONDS
    if skew >= 2**63:
        raise UsageError("websocket auth clock skew must fit in a signed 64-bit integer")
    secret = _read_secret(file, variable)
    assert secret is not None
    key = secret.text.encode()
    if len(key) < MIN_SECRET_BYTES:
        raise UsageError(
            f"signed websocket bearer secret {secret.source} must be at least "
            f"{MIN_SECRET_BYTES} bytes"
        )
    return SignedToken(key, options.ws_issuer or None, options.ws_audience or None, skew)


def _refuse_two(sources: Mapping[str, str | None]) -> None:
    """Raise UsageError if a secret is to come from two places."""
    given = [option for option, value in sources.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"`{given[0]}` and `{given[1]}` are mutually exclusive")


class _Secret(NamedTuple):
    text: str
    """Without white space around it; not empty."""
    source: str
    """Where it comes from, for messages."""


def _read_secret(file: str | None, variable: str | None) -> _Secret | None:
    """The secret in a file or a variable; None if neither is given. Raises UsageError."""
    if file is not None:
        source = os.path.abspath(file)
        try:
            with open(source, "rb") as opened:
                data = opened.read()
        except OSError as error:
            reason = system_text(error.errno or 0)
            raise UsageError(f"failed to read websocket auth secret {source}: {reason}") from None
    elif variable is not None:
        source = f"in the environment variable {variable}"
        from exec_server.secret_memory import take_variable  # noqa: PLC0415 (slow to load)

        # Programs are neither to inherit it nor to find it in /proc.
        value = take_variable(variable)
        if value is None:
            raise UsageError(f"failed to read websocket auth secret {source}: it is not set")
        data = value
    else:
        return None
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise UsageError(
            f"failed to read websocket auth secret {source}: stream did not contain valid UTF-8"
        ) from None
    if not text:
        raise UsageError(f"websocket auth secret {source} must not be empty")
    return _Secret(text, source)


def _tls(address: Address | None, options: argparse.Namespace) -> ssl.SSLContext | None:
    files = (options.tls_cert, options.tls_key)
    if address is None or not address.is_encrypted:
        if files != (None, None):
            raise UsageError("--tls-cert and --tls-key require `--listen wss://IP:PORT`")
        return None
    if None in files:
        raise UsageError("`--listen wss://IP:PORT` requires --tls-cert and --tls-key")
    from exec_server.transports.tls import server_context  # noqa: PLC0415 (slow to load)

    return server_context(*files)


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return text


def _variable(text: str) -> str:
    if not text or "=" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected the name of a variable, got {text!r}")
    return text


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not _whole(text):
        raise argparse.ArgumentTypeError("expected a whole number above 0, got 0")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return value


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"expected three octal digits such as 660, got {text!r}")
    return int(text, 8)
