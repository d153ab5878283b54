"""Which server a command is for: options, environment variables, and the connection they make."""

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
    """What every command takes."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        help="ws://HOST:PORT, wss://HOST, unix:///PATH, stdio:COMMAND or in-process: "
        f"(default: ${URL_VARIABLE})",
    )
    where.add_argument("--cmd", metavar="COMMAND", help="start this server, and end it afterwards")
    parser.add_argument(
        "--session",
        metavar="ID",
        help=f"take up this session, as 'run --detach' names it (default: ${SESSION_VARIABLE})",
    )
    for name, variable, text in (
        ("--token-file", TOKEN_FILE_VARIABLE, "holds the bearer token that the server asks for"),
        ("--ca-file", CA_FILE_VARIABLE, "authorities to trust on wss:// instead of the system's"),
        ("--client-cert", CLIENT_CERT_VARIABLE, "certificate to show on wss://, and its key"),
        ("--client-key", CLIENT_KEY_VARIABLE, "the key, if it is not in the same file"),
    ):
        parser.add_argument(name, metavar="FILE", help=f"{text} (default: ${variable})")


def session_of(options: argparse.Namespace) -> str | None:
    """The session to take up, if one is named."""
    return options.session or os.environ.get(SESSION_VARIABLE) or None


def reach(options: argparse.Namespace) -> Connecting:
    """A client of the server that the options and the environment name."""
    target = f"stdio:{options.cmd}" if options.cmd else options.url or os.environ.get(URL_VARIABLE)
    if not target:
        raise CommandError(f"there is no server: give --url or --cmd, or set {URL_VARIABLE}")
    session_id = session_of(options)
    if not target.startswith(LISTENING):
        if session_id is not None:
            raise CommandError(
                f"{shown_url(target)} has no sessions that can be taken up; servers that listen do"
            )
        return connect(target, client_name=CLIENT_NAME)
    return connect_websocket(
        target,
        token=_token(options),
        tls=_tls(options) if target.startswith("wss://") else None,
        client_name=CLIENT_NAME,
        session_id=session_id,
    )


def _token(options: argparse.Namespace) -> str | None:
    """The token itself, or what is in the file; a file on the command line goes first."""
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
        raise CommandError(f"token file {path}: there is no token in it")
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
            # OpenSSL tells neither which file it means nor what is wrong with it.
            is_missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if is_missing else "a certificate and its key are expected"
            files = f"{cert} and {key}" if key else cert
            raise CommandError(f"client certificate in {files}: {reason}") from error
    elif key:
        raise CommandError("--client-key is of use with --client-cert alone")
    return context
