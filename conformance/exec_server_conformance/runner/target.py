"""Server under test: start, connections over each transport, termination."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from exec_server_conformance.errors import Failure, TargetError

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

    from exec_server_conformance.runner.session import Transport

START_SECONDS = 10.0
STOP_SECONDS = 3.0
STDERR_DRAIN_SECONDS = 0.5
STDERR_BYTES = 4096
"""Maximum number of stderr bytes kept for the message about the server's exit."""
LINE_LIMIT = 256 * 1024 * 1024
"""Maximum length of a line over stdio; the suite refuses no message for its size."""


@dataclass(frozen=True, slots=True)
class Target:
    """Server command, or URL of a running server.

    ``--listen stdio`` or ``--listen ws://127.0.0.1:0`` is appended to the command unless it
    contains ``--listen``; a server that listens prints its ``ws://`` URL on stdout.
    """

    command: str | None = None
    url: str | None = None

    def argv(self, transport: Transport) -> list[str]:
        """Return the command line for a transport."""
        try:
            argv = shlex.split(self.command or "")
        except ValueError as error:
            raise TargetError(f"the command cannot be parsed: {error}") from None
        if not argv:
            raise TargetError("the command is empty")
        if "--listen" in argv:
            return argv
        return [*argv, "--listen", "stdio" if transport == "stdio" else "ws://127.0.0.1:0"]


class Link(Protocol):
    """Connection to the server."""

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send one message."""
        ...

    async def receive(self) -> bytes | None:
        """Return the next message; None when the server has closed the connection.

        Raises Failure if the message exceeds the limit of the transport.
        """
        ...

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send one message in several frames; transports without frames join them."""
        ...

    async def ping(self, data: bytes) -> bool:
        """Send a ping and wait for the pong; return False if the transport has none."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...

    def cut(self) -> None:
        """Abort the connection without a closing handshake."""
        ...


_GONE = (ConnectionClosed, AttributeError)
"""Exceptions raised by a closed connection. asyncio raises AttributeError when aborting a transport
that was closed with unsent data.
"""


class WebSocketLink:
    """WebSocket connection without extensions and without a size limit."""

    def __init__(self, websocket: Connection) -> None:
        self._websocket = websocket

    @classmethod
    async def open(cls, url: str, headers: dict[str, str]) -> WebSocketLink:
        """Connect with additional handshake headers; raise TargetError on failure."""
        try:
            websocket = await connect(
                url,
                additional_headers=headers,
                compression=None,
                max_size=None,
                open_timeout=START_SECONDS,
                proxy=None,
                ping_interval=None,
                close_timeout=1,
            )
        except (OSError, WebSocketException, TimeoutError) as error:
            raise TargetError(f"cannot connect to {url}: {error or type(error).__name__}") from None
        return cls(websocket)

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send one text or binary message."""
        with contextlib.suppress(*_GONE):
            await self._websocket.send(data if binary else data.decode("utf-8", "surrogatepass"))

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send one text message in several frames."""
        with contextlib.suppress(*_GONE):
            await self._websocket.send([part.decode() for part in parts])

    async def ping(self, data: bytes) -> bool:
        """Send a ping and wait for the pong."""
        with contextlib.suppress(*_GONE):
            await (await self._websocket.ping(data))
            return True
        return False

    async def receive(self) -> bytes | None:
        """Return the next message."""
        try:
            message = await self._websocket.recv(decode=False)
        except ConnectionClosed:
            return None
        return message if isinstance(message, bytes) else message.encode()

    async def close(self) -> None:
        """Close with a closing handshake."""
        with contextlib.suppress(*_GONE):
            await self._websocket.close()

    def cut(self) -> None:
        """Abort the TCP connection."""
        with contextlib.suppress(*_GONE):
            self._websocket.transport.abort()


class StdioLink:
    """Connection over a pair of pipes or a stream socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send one line; ``binary`` has no effect."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data + b"\n")
            await self._writer.drain()

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send one line."""
        await self.send(b"".join(parts))

    async def ping(self, data: bytes) -> bool:
        """Return False: pipes have no pings."""
        return False

    async def receive(self) -> bytes | None:
        """Return the next line."""
        try:
            line = await self._reader.readline()
        except ValueError:
            raise Failure(f"received a line of more than {LINE_LIMIT:,} bytes") from None
        except ConnectionError:
            return None  # The server exited with unread input.
        return line.rstrip(b"\n") if line else None

    async def close(self) -> None:
        """Close the write end."""
        self._writer.close()

    def cut(self) -> None:
        """Close the write end and discard unsent data."""
        self._writer.transport.abort()


class Server:
    """Server used by one session at a time: a child process, or a running server."""

    def __init__(self, target: Target, transport: Transport) -> None:
        self._target = target
        self._transport = transport
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = bytearray()
        self._listener: asyncio.Task[None] | None = None
        self.url = target.url
        self.has_served = False
        """True if a session has been run on it before."""

    async def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Start the command; raise TargetError on failure.

        ``arguments`` are appended to the command, ``environment`` is added to this process's.
        """
        if self._target.url is not None:
            return
        argv = [*self._target.argv(self._transport), *arguments]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE if self._transport == "stdio" else None,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **environment},
                start_new_session=True,
                limit=LINE_LIMIT,
            )
        except OSError as error:
            raise TargetError(f"cannot run {argv[0]!r}: {error.strerror}") from None
        self._listener = asyncio.create_task(self._listen(self._process.stderr))
        if self._transport == "ws":
            assert self._process.stdout is not None
            try:
                async with asyncio.timeout(START_SECONDS):
                    line = (await self._process.stdout.readline()).decode("utf-8", "replace")
            except TimeoutError:
                raise TargetError(
                    f"{argv[0]!r} printed no ws:// URL within {START_SECONDS:g} s"
                ) from None
            except ValueError:
                raise TargetError(
                    f"{argv[0]!r} printed no ws:// URL within {LINE_LIMIT:,} bytes"
                ) from None
            if not line.startswith("ws://"):
                came = f"printed {line.strip()[:200]!r}" if line else await self.end()
                raise TargetError(f"{argv[0]!r} was expected to print a ws:// URL, but {came}")
            self.url = line.strip()

    async def connect(self, headers: dict[str, str]) -> Link:
        """Return a connection with additional headers; stdio has one connection and no headers."""
        if self._transport == "stdio":
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            return StdioLink(self._process.stdout, self._process.stdin)
        assert self.url is not None
        return await WebSocketLink.open(self.url, headers)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the server process."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def exit_status(self, patience: float) -> int | None:
        """Return the exit status after at most ``patience`` seconds; None if the process is
        running.
        """
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    return await self.wait()
        return None

    async def end(self) -> str:
        """Describe the server's exit, including the last line of its stderr."""
        status = await self.exit_status(STOP_SECONDS)
        if status is None:
            return "closed the connection"
        how = f"exited with {describe_exit_status(status)}"
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                # A descendant may hold stderr open.
                await asyncio.wait_for(asyncio.shield(self._listener), STDERR_DRAIN_SECONDS)
        lines = bytes(self._stderr).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last[:300]}" if last else how

    async def _listen(self, stderr: asyncio.StreamReader | None) -> None:
        """Collect the tail of the server's stderr."""
        assert stderr is not None
        while data := await stderr.read(STDERR_BYTES):
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]

    async def wait(self) -> int:
        """Wait for the server's exit; return its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """Terminate the server's process group and wait for it."""
        process = self._process
        if process is not None:
            for signum in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signum)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_SECONDS):
                        await process.wait()
            if self._listener is not None:
                self._listener.cancel()
            # Lets the event loop close the pipes before the loop itself is closed.
            process._transport.close()  # type: ignore[attr-defined]


class Servers:
    """Pool of servers; a listening server is reused by sessions, one at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[Server] = []

    async def take(
        self, transport: Transport, arguments: list[str], environment: dict[str, str]
    ) -> Server:
        """Take a server from the pool, or start one, always for ``arguments`` or ``environment``.

        Raises TargetError if the server cannot be started.
        """
        if transport == "ws" and self._idle and not (arguments or environment):
            server = self._idle.pop()
            server.has_served = True
            return server
        server = Server(self._target, transport)
        try:
            await server.start(arguments, environment)
        except BaseException:
            await server.stop()
            raise
        return server

    def keep(self, server: Server) -> None:
        """Return a server without leftover state to the pool."""
        self._idle.append(server)

    async def aclose(self) -> None:
        """Stop the servers in the pool."""
        while self._idle:
            await self._idle.pop().stop()


def describe_exit_status(status: int) -> str:
    """Describe an exit status."""
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
