"""Connecting to a server over any transport."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final, get_args

from exec_server.client import arguments
from exec_server.client.client import Client
from exec_server.client.display import shown_url
from exec_server.client.errors import ConnectFailed
from exec_server.client.handshake import (
    CONNECT_SECONDS,
    INITIALIZE_SECONDS,
    RESUME_SECONDS,
    Options,
    RevisionName,
)
from exec_server.client.session import Session

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import TracebackType

    from exec_server.client.arguments import Text
    from exec_server.client.transports.channel import Dialer
    from exec_server.server.server import Server

LISTENING: Final = ("ws://", "wss://", "unix://")
"""URL schemes of listening servers."""

CLIENT_NAME: Final = "exec-server-client"


class Connecting:
    """A pending connection: await it for a Client, or use it in ``async with``."""

    def __init__(self, make_dialer: Callable[[], Dialer], options: Options) -> None:
        self._make_dialer = make_dialer
        self._options = options
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def _connect(self) -> Client:
        session = Session(self._make_dialer(), self._options)
        await session.open()
        return Client(session)

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._client is not None
        await self._client.aclose()


def connect(
    target: str,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    client_name: str = CLIENT_NAME,
    revision: RevisionName = "auto",
    session_id: str | None = None,
    connect_timeout: float = CONNECT_SECONDS,
    initialize_timeout: float = INITIALIZE_SECONDS,
    resume_timeout: float = RESUME_SECONDS,
    timeout: float | None = None,
    max_message_bytes: int | None = None,
) -> Connecting:
    """Connect to ``ws://HOST:PORT``, ``wss://…``, ``unix:///PATH``, ``stdio:…`` or ``in-process:``.

    The command of ``stdio:COMMAND`` is split with shell syntax. ``token``, ``tls`` and ``ca_file``
    apply to listening servers only. The other parameters are those of ``connect_websocket``.
    ``connect_stdio`` and ``connect_in_process`` have further parameters.

    Raises ConnectFailed for any other target, and if the connection fails; TypeError and ValueError
    for an invalid argument, or one that does not apply to the target.
    """
    arguments.string("target", target)
    if target.startswith(LISTENING):
        return connect_websocket(
            target,
            token=token,
            tls=tls,
            ca_file=ca_file,
            client_name=client_name,
            revision=revision,
            session_id=session_id,
            connect_timeout=connect_timeout,
            initialize_timeout=initialize_timeout,
            resume_timeout=resume_timeout,
            timeout=timeout,
            max_message_bytes=max_message_bytes,
        )
    for name, value in {
        "token": token,
        "tls": tls,
        "ca_file": ca_file,
        "session_id": session_id,
    }.items():
        if value is not None:
            raise ValueError(
                f"{name}: applies to listening servers only, not to {shown_url(target)!r}"
            )
    if target.startswith("stdio:"):
        try:
            argv = shlex.split(target.removeprefix("stdio:"))
        except ValueError as error:
            raise ConnectFailed(f"cannot split the command of 'stdio:': {error}") from None
        if not argv:
            raise ConnectFailed("cannot connect to 'stdio:': there is no command")
        return connect_stdio(
            argv,
            client_name=client_name,
            revision=revision,
            initialize_timeout=initialize_timeout,
            timeout=timeout,
            max_message_bytes=max_message_bytes,
        )
    if target == "in-process:":
        return connect_in_process(client_name=client_name, revision=revision, timeout=timeout)
    raise ConnectFailed(
        f"cannot connect to {shown_url(target)!r}: expected ws://HOST:PORT, wss://HOST, "
        "unix:///PATH, stdio:COMMAND or in-process:"
    )


def connect_websocket(
    url: str,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    client_name: str = CLIENT_NAME,
    revision: RevisionName = "auto",
    session_id: str | None = None,
    connect_timeout: float = CONNECT_SECONDS,
    initialize_timeout: float = INITIALIZE_SECONDS,
    resume_timeout: float = RESUME_SECONDS,
    timeout: float | None = None,
    max_message_bytes: int | None = None,
) -> Connecting:
    """Connect to a listening server: ``ws://HOST:PORT``, ``wss://HOST`` or ``unix:///PATH``.

    token: bearer token.
    ca_file: PEM file of the trusted certificate authorities, instead of the system's, for
        ``wss://``. A self-signed certificate of a server is its own authority.
    tls: TLS context for ``wss://``, for example with a client certificate.
    client_name: name of the client, which the server may log.
    revision: protocol revision; default: the newest one that the server supports.
    session_id: session to resume, which another client has left.
    connect_timeout, initialize_timeout: seconds for the connection and for the handshake.
    resume_timeout: seconds during which resuming a lost connection is tried; 0 disables it.
    timeout: default time limit, in seconds, of each call that waits for an answer of the server;
        default: no limit. Calls that wait for a process (``run``, ``wait``, ``communicate`` and
        reading output) are not affected, except for their requests.
    max_message_bytes: maximum length of a message from the server; a longer one ends the session.
        Default: 64 MiB, and 684 MiB for an answer that holds a whole file or HTTP body.

    Raises ConnectFailed, or ConnectTimedOut, when awaited.
    """

    arguments.string("url", url)
    secret = arguments.token(token)

    def dialer() -> Dialer:
        from exec_server.client.transports.websocket import WebSocketDialer  # noqa: PLC0415

        return WebSocketDialer(url, secret, tls=tls, ca_file=ca_file)

    options = _options(
        client_name=client_name,
        revision=revision,
        session_id=session_id,
        connect_timeout=connect_timeout,
        initialize_timeout=initialize_timeout,
        resume_timeout=resume_timeout,
        timeout=timeout,
        max_message_bytes=max_message_bytes,
    )
    return Connecting(dialer, options)


def connect_stdio(
    argv: Sequence[Text],
    *,
    cwd: Text | None = None,
    env: Mapping[str, Text] | Mapping[bytes, Text] | None = None,
    client_name: str = CLIENT_NAME,
    revision: RevisionName = "auto",
    initialize_timeout: float = INITIALIZE_SECONDS,
    timeout: float | None = None,
    max_message_bytes: int | None = None,
) -> Connecting:
    """Start a server on pipes, and end it with the client.

    argv: program and arguments of the server, such as ``["codex-exec-server"]``.
    cwd: working directory of the server; default: the current one.
    env: variables added to the environment of this process.

    The other parameters are those of ``connect_websocket``. The server is ended with SIGTERM to its
    process group, and with SIGKILL two seconds later. Its standard error is logged, and quoted when
    it fails. Raises ConnectFailed when awaited.
    """

    words = arguments.argv(argv)
    directory = None if cwd is None else arguments.path("cwd", cwd)
    variables = None if env is None else arguments.environment(env)

    def dialer() -> Dialer:
        from exec_server.client.transports.stdio import StdioDialer  # noqa: PLC0415

        return StdioDialer(words, cwd=directory, env=variables)

    options = _local_options(client_name, revision, initialize_timeout, timeout, max_message_bytes)
    return Connecting(dialer, options)


def connect_in_process(
    server: Server | None = None,
    *,
    client_name: str = CLIENT_NAME,
    revision: RevisionName = "auto",
    timeout: float | None = None,
) -> Connecting:
    """Use a server in this process and event loop, without a transport.

    server: existing server to share; default: a new one, which ends with the client.

    Its processes are children of this process, and end with the client. Starting one changes the
    working directory of this process for a moment.
    """

    def dialer() -> Dialer:
        from exec_server.client.transports.memory import MemoryDialer  # noqa: PLC0415

        if server is not None:
            return MemoryDialer(lambda: server, owns_server=False)
        return MemoryDialer(_own_server, owns_server=True)

    return Connecting(dialer, _local_options(client_name, revision, INITIALIZE_SECONDS, timeout))


def _own_server() -> Server:
    from exec_server.revisions.registry import revisions_of  # noqa: PLC0415
    from exec_server.server.server import Server  # noqa: PLC0415

    return Server(revisions_of("auto"))


def _local_options(
    client_name: str,
    revision: RevisionName,
    initialize_timeout: float,
    timeout: float | None,
    max_message_bytes: int | None = None,
) -> Options:
    return _options(
        client_name=client_name,
        revision=revision,
        session_id=None,
        connect_timeout=CONNECT_SECONDS,
        initialize_timeout=initialize_timeout,
        resume_timeout=0,
        timeout=timeout,
        max_message_bytes=max_message_bytes,
    )


def _options(
    *,
    client_name: str,
    revision: RevisionName,
    session_id: str | None,
    connect_timeout: float,
    initialize_timeout: float,
    resume_timeout: float,
    timeout: float | None,
    max_message_bytes: int | None,
) -> Options:
    arguments.string("client_name", client_name)
    arguments.choice("revision", revision, get_args(RevisionName))
    if session_id is not None:
        arguments.string("session_id", session_id)
    arguments.seconds("connect_timeout", connect_timeout)
    arguments.seconds("initialize_timeout", initialize_timeout)
    arguments.seconds("resume_timeout", resume_timeout)
    arguments.seconds("timeout", timeout)
    arguments.count("max_message_bytes", max_message_bytes, least=1)
    return Options(
        client_name=client_name,
        revision=revision,
        session_id=session_id,
        connect_timeout=connect_timeout,
        initialize_timeout=initialize_timeout,
        resume_timeout=resume_timeout,
        request_timeout=timeout,
        max_message_bytes=max_message_bytes,
    )
