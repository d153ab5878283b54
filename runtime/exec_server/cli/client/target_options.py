"""Options and environment variables that select the server, and the connection to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from exec_server.cli.client.exit_codes import CommandError, describe
from exec_server.client import Connecting, connect, connect_websocket
from exec_server.client.connecting import LISTENING
from exec_server.client.display import shown_url

if TYPE_CHECKING:
    import argparse
    import ssl

URL_VARIABLE: Final = "EXEC_SERVER_URL"
SESSION_VARIABLE: Final = "EXEC_SERVER_SESSION"
TOKEN_VARIABLE: Final = "EXEC_SERVER_TOKEN"  # noqa: S105 (a name)
TOKEN_FILE_VARIABLE: Final = "EXEC_SERVER_TOKEN_FILE"  # noqa: S105 (a name)
CA_FILE_VARIABLE: Final = "EXEC_SERVER_CA_FILE"
CLIENT_CERT_VARIABLE: Final = "EXEC_SERVER_CLIENT_CERT"
CLIENT_KEY_VARIABLE: Final = "EXEC_SERVER_CLIENT_KEY"

CLIENT_NAME: Final = "exec-server"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        help="server: ws://HOST:PORT, wss://HOST, unix:///PATH, stdio:COMMAND or in-process: "
        f"(default: ${URL_VARIABLE})",
    )
    where.add_argument(
        "--cmd", metavar="COMMAND", help="start COMMAND as the server, and end it with this command"
    )
    parser.add_argument(
        "--session",
        metavar="ID",
        help="id of a detached session to resume, as printed by 'run --detach' "
        f"(default: ${SESSION_VARIABLE}, or a new session)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the bearer token for a listening server "
        f"(default: ${TOKEN_FILE_VARIABLE}, or the token in ${TOKEN_VARIABLE})",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the certificate authorities trusted for wss:// "
        f"(default: ${CA_FILE_VARIABLE}, or those of the system)",
    )
    parser.add_argument(
        "--client-cert",
        metavar="FILE",
        help="PEM file of the client certificate for wss://, with or without its key "
        f"(default: ${CLIENT_CERT_VARIABLE}, or no certificate)",
    )
    parser.add_argument(
        "--client-key",
        metavar="FILE",
        help="PEM file of the key of the client certificate "
        f"(default: ${CLIENT_KEY_VARIABLE}, or the file of the certificate)",
    )


def session_of(options: argparse.Namespace) -> str | None:
    """Return the session to resume, if one is given."""
    return options.session or os.environ.get(SESSION_VARIABLE) or None


def reach(options: argparse.Namespace) -> Connecting:
    """Return a connection to the server of the options and the environment."""
    target = f"stdio:{options.cmd}" if options.cmd else options.url or os.environ.get(URL_VARIABLE)
    if not target:
        raise CommandError(f"no server: give --url or --cmd, or set {URL_VARIABLE}")
    session_id = session_of(options)
    _check_scheme(options, target)
    if not target.startswith(LISTENING):
        if session_id is not None:
            raise CommandError(
                f"{shown_url(target)} has no sessions to resume; listening servers do"
            )
        return connect(target, client_name=CLIENT_NAME)
    return connect_websocket(
        target,
        token=_token(options),
        tls=_tls(options) if target.startswith("wss://") else None,
        client_name=CLIENT_NAME,
        session_id=session_id,
    )


def _check_scheme(options: argparse.Namespace, target: str) -> None:
    """Raise CommandError for an option that the target would ignore.

    Variables are not checked: they may be meant for other servers.
    """
    for option, value, schemes in (
        ("--token-file", options.token_file, LISTENING),
        ("--ca-file", options.ca_file, ("wss://",)),
        ("--client-cert", options.client_cert, ("wss://",)),
        ("--client-key", options.client_key, ("wss://",)),
    ):
        if value is not None and not target.startswith(schemes):
            expected = " or ".join(schemes)
            raise CommandError(f"{option} applies to {expected} only, not to {shown_url(target)}")


def _token(options: argparse.Namespace) -> str | None:
    """Return the token of the options or the environment; the option takes precedence."""
    path = options.token_file
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        path = os.environ.get(TOKEN_FILE_VARIABLE)
        if token or not path:
            return token or None
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except OSError as error:
        raise CommandError(f"token file {describe(error)}") from error
    except UnicodeDecodeError:
        token = ""
    if not token:
        raise CommandError(f"token file {path}: the file contains no token")
    return token


def _tls(options: argparse.Namespace) -> ssl.SSLContext:
    from exec_server.client.transports.tls import default_context  # noqa: PLC0415 (when needed)

    ca_file = options.ca_file or os.environ.get(CA_FILE_VARIABLE)
    cert = options.client_cert or os.environ.get(CLIENT_CERT_VARIABLE)
    key = options.client_key or os.environ.get(CLIENT_KEY_VARIABLE)
    context = default_context(ca_file or None)
    if cert:
        try:
            context.load_cert_chain(cert, key or None)
        except OSError as error:
            # The error of OpenSSL names neither the file nor the problem.
            is_missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if is_missing else "a certificate and its key are expected"
            files = f"{cert} and {key}" if key else cert
            raise CommandError(f"client certificate in {files}: {reason}") from error
    elif key:
        raise CommandError("--client-key requires --client-cert")
    return context
