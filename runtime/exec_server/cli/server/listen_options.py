"""Options of a listening server: its socket, its encryption, and the clients it admits.

An admitted client can run any command as the server's user. The server therefore listens beyond
its own machine only with authentication, or if the operator says that something else decides.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from exec_server.cli import option_types
from exec_server.cli.server.auth_options import AuthOptions, add_auth_options
from exec_server.errors import UsageError
from exec_server.server.listener import (
    MAX_PENDING,
    WebSocketServer,
    listen_on_ip,
    listen_on_path,
)
from exec_server.transports.handshake import HANDSHAKE_SECONDS, AdmissionPolicy

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Collection

    from exec_server.cli.server.listen_url import Address
    from exec_server.server.server import Server
    from exec_server.transports.auth import Authenticator

DEFAULT_SOCKET_MODE: Final = 0o600

_ANY_HOST: Final = "*"
"""Value of --allow-host that turns the check of the Host header off."""


def add_listen_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a listening server."""
    group = parser.add_argument_group("options of a listening server")
    add_auth_options(group)
    group.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen on addresses other than loopback ones without --ws-auth: a firewall or proxy "
        "decides who can connect",
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
        "--tls-cert",
        metavar="PATH",
        type=option_types.path,
        help="certificate chain for wss://, in PEM; read again on SIGHUP",
    )
    group.add_argument(
        "--tls-key",
        metavar="PATH",
        type=option_types.path,
        help="private key of the certificate for wss://, in PEM; read again on SIGHUP",
    )
    group.add_argument(
        "--socket-mode",
        metavar="OCTAL",
        type=option_types.file_mode,
        help="permission bits of the Unix socket, as for chmod "
        f"(default: {DEFAULT_SOCKET_MODE:03o}, the server's user alone)",
    )
    group.add_argument(
        "--handshake-seconds",
        metavar="N",
        type=option_types.positive_seconds,
        help="seconds that a client may take for TLS and its HTTP request together; beyond it the "
        f"connection is dropped (default: {HANDSHAKE_SECONDS:g})",
    )
    group.add_argument(
        "--max-pending-connections",
        metavar="COUNT",
        type=option_types.count,
        help="maximum number of connections whose handshake is not complete; beyond it the oldest "
        f"of them is dropped (default: {MAX_PENDING})",
    )


class ListenConfig(NamedTuple):
    """Configuration of a listener, checked, with the files it names read."""

    address: Address
    policy: AdmissionPolicy
    tls: ssl.SSLContext | None
    tls_files: tuple[str, str] | None
    """Certificate chain and private key."""
    auth: AuthOptions
    socket_mode: int
    max_pending: int

    @classmethod
    def given(cls, address: Address | None, options: argparse.Namespace) -> ListenConfig | None:
        """Return the configuration that a command line asks for; None for stdio.

        Raises UsageError.
        """
        if options.ws_auth is not None:
            from exec_server.secret_memory import forbid_inspection  # noqa: PLC0415

            # Before a secret is read. Tokens of clients pass through the memory later, too.
            forbid_inspection()
        auth = AuthOptions.given(options)
        authenticator = auth.authenticator()
        if authenticator is not None and address is None:
            raise UsageError("WebSocket auth requires a WebSocket listener, not stdio")
        if options.socket_mode is not None and (address is None or address.path is None):
            raise UsageError("--socket-mode requires `--listen unix:///PATH`")
        tls_files = _tls_files(address, options)
        if address is None:
            return None
        return cls(
            address,
            _policy(address, authenticator, options),
            _tls_context(tls_files),
            tls_files,
            auth,
            DEFAULT_SOCKET_MODE if options.socket_mode is None else options.socket_mode,
            options.max_pending_connections or MAX_PENDING,
        )

    def listen(self, server: Server) -> WebSocketServer:
        """Start listening. Raises OSError if the address cannot be used."""
        address = self.address
        if address.path is None:
            listening = listen_on_ip(address.host, address.port)
        else:
            listening = listen_on_path(address.path, self.socket_mode)
        return WebSocketServer(
            server, listening, policy=self.policy, tls=self.tls, max_pending=self.max_pending
        )

    def reload(self, listener: WebSocketServer) -> None:
        """Read the files of secrets and certificates again, for connections from now on.

        Changes nothing if one of them cannot be used. Raises UsageError.
        """
        _tls_context(self.tls_files)
        if self.auth.has_file:
            authenticator = self.auth.authenticator()
            listener.policy = msgspec.structs.replace(self.policy, authenticator=authenticator)
        if self.tls is not None and self.tls_files is not None:
            self.tls.load_cert_chain(*self.tls_files)


def _policy(
    address: Address, authenticator: Authenticator | None, options: argparse.Namespace
) -> AdmissionPolicy:
    """Return the rules for connections to an address. Raises UsageError."""
    import ipaddress  # noqa: PLC0415 (stdio does not need it)

    seconds = options.handshake_seconds or HANDSHAKE_SECONDS
    if address.path is not None:
        # Web pages cannot connect to a Unix socket.
        return AdmissionPolicy(authenticator, handshake_seconds=seconds)
    hosts = _own_names(options.allow_host)
    is_local = ipaddress.ip_address(address.host).is_loopback
    if authenticator is None and not is_local and not options.allow_unauthenticated:
        raise UsageError(
            f"refusing to listen on {address.host} without authentication: every client could run "
            "any command; use --ws-auth, or --allow-unauthenticated if a firewall or proxy decides "
            "who can connect"
        )
    return AdmissionPolicy(authenticator, hosts, seconds)


def _own_names(allowed: Collection[str]) -> frozenset[str] | None:
    """Return the host names that clients may use for this server; None for any."""
    if _ANY_HOST in allowed:
        return None
    # The author of a web page has no influence on the machine's own name.
    own = os.uname().nodename
    return frozenset(name.lower() for name in (*allowed, own) if name)


def _tls_files(address: Address | None, options: argparse.Namespace) -> tuple[str, str] | None:
    """Return the files of the certificate and its key; None without encryption."""
    files = (options.tls_cert, options.tls_key)
    if address is None or not address.is_encrypted:
        if files != (None, None):
            raise UsageError("--tls-cert and --tls-key require `--listen wss://IP:PORT`")
        return None
    if None in files:
        raise UsageError("`--listen wss://IP:PORT` requires --tls-cert and --tls-key")
    return files


def _tls_context(files: tuple[str, str] | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    from exec_server.transports.tls import server_context  # noqa: PLC0415 (slow to load)

    return server_context(*files)
