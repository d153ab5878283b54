"""The server under test: how it is started, reached over each transport, and ended."""

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
LAST_WORDS_SECONDS = 0.5
STDERR_BYTES = 4096
"""What is kept of the server's stderr, for the message about its end."""
LINE_LIMIT = 256 * 1024 * 1024
"""No message of a server is refused for its size; this bounds a line of stdio."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server command, or the URL of a server that runs already.

    The command is run with ``--listen stdio`` or ``--listen ws://127.0.0.1:0`` appended unless it
    names a ``--listen`` itself; a command that listens prints its ``ws://`` URL on stdout.
    """

    command: str | None = None
    url: str | None = None

    def argv(self, transport: Transport) -> list[str]:
        """The command line for a transport."""
        try:
            argv = shlex.split(self.command or "")
        except ValueError as error:
            raise TargetError(f"the command cannot be read: {error}") from None
        if not argv:
            raise TargetError("the command is empty")
        if "--listen" in argv:
            return argv
        return [*argv, "--listen", "stdio" if transport == "stdio" else "ws://127.0.0.1:0"]


class Link(Protocol):
    """One connection to the server."""

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send one message."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None when the server has ended the connection.

        Raises Failure if it is too long for the transport.
        """
        ...

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send one message in several frames; a transport without frames joins them."""
        ...

    async def ping(self, data: bytes) -> bool:
        """Ping the server, and wait for its answer; False where there is nothing of the kind."""
        ...

    async def close(self) -> None:
        """End the connection from this side."""
        ...

    def cut(self) -> None:
        """End the connection at once, as a broken network would."""
        ...


_GONE = (ConnectionClosed, AttributeError)
"""What a connection raises that the server has ended. The latter is asyncio's: it cannot abort a
transport that was closed with something left to write."""


class WebSocketLink:
    """A WebSocket connection that offers no extension and has no size limit."""

    def __init__(self, websocket: Connection) -> None:
        self._websocket = websocket

    @classmethod
    async def open(cls, url: str, headers: dict[str, str]) -> WebSocketLink:
        """Connect; the headers are added to those of the handshake."""
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
        """Ping the server, and wait for its pong."""
        with contextlib.suppress(*_GONE):
            await (await self._websocket.ping(data))
            return True
        return False

    async def receive(self) -> bytes | None:
        """The next message."""
        try:
            message = await self._websocket.recv(decode=False)
        except ConnectionClosed:
            return None
        return message if isinstance(message, bytes) else message.encode()

    async def close(self) -> None:
        """Close with the closing handshake."""
        with contextlib.suppress(*_GONE):
            await self._websocket.close()

    def cut(self) -> None:
        """Close the socket alone."""
        with contextlib.suppress(*_GONE):
            self._websocket.transport.abort()


class StdioLink:
    """A pair of pipes, or a socket that is as good."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes, *, binary: bool = False) -> None:
        """Send one line; a line has no binary form."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data + b"\n")
            await self._writer.drain()

    async def send_fragments(self, parts: list[bytes]) -> None:
        """Send one line."""
        await self.send(b"".join(parts))

    async def ping(self, data: bytes) -> bool:
        """Nothing: pipes have no pings."""
        return False

    async def receive(self) -> bytes | None:
        """The next line."""
        try:
            line = await self._reader.readline()
        except ValueError:
            raise Failure(f"a line of more than {LINE_LIMIT:,} bytes came") from None
        except ConnectionError:
            return None  # ended with something unread
        return line.rstrip(b"\n") if line else None

    async def close(self) -> None:
        """End what is written to."""
        self._writer.close()

    def cut(self) -> None:
        """End what is written to, without what has not been written yet."""
        self._writer.transport.abort()


class Server:
    """A server for one session at a time: a process of the suite's, or one that runs already."""

    def __init__(self, target: Target, transport: Transport) -> None:
        self._target = target
        self._transport = transport
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = bytearray()
        self._listener: asyncio.Task[None] | None = None
        self.url = target.url
        self.has_served = False
        """Whether a session has been played on it before."""

    async def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Start the command; raises TargetError if it cannot be had.

        The arguments are added to the command's own, the variables to the suite's.
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
        """A connection, with headers of its own; over stdio there is one, without headers."""
        if self._transport == "stdio":
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            return StdioLink(self._process.stdout, self._process.stdin)
        assert self.url is not None
        return await WebSocketLink.open(self.url, headers)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the server's process alone."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def exit_status(self, patience: float) -> int | None:
        """How the server's process ended, as ``wait`` tells it; None if it still runs.

        What has ended its connections may take ``patience`` seconds to end itself.
        """
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    return await self.wait()
        return None

    async def end(self) -> str:
        """How the server's process ended, in words, with the last line that it said on stderr."""
        status = await self.exit_status(STOP_SECONDS)
        if status is None:
            return "ended the connection"
        how = f"ended with {ending(status)}"
        if self._listener is not None:
            with contextlib.suppress(TimeoutError):
                # A descendant may hold stderr open.
                await asyncio.wait_for(asyncio.shield(self._listener), LAST_WORDS_SECONDS)
        lines = bytes(self._stderr).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last[:300]}" if last else how

    async def _listen(self, stderr: asyncio.StreamReader | None) -> None:
        """Keep the end of what the server says on stderr."""
        assert stderr is not None
        while data := await stderr.read(STDERR_BYTES):
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]

    async def wait(self) -> int:
        """Wait for the server's process to end; returns its exit code, negative for a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End the server's whole process group and wait for it."""
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
            # Lets the event loop close the pipes before it ends itself.
            process._transport.close()  # type: ignore[attr-defined]


class Servers:
    """The servers of a run. One that listens serves session after session, each by itself."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[Server] = []

    async def take(
        self, transport: Transport, arguments: list[str], environment: dict[str, str]
    ) -> Server:
        """A server that nobody else uses, just started where arguments or variables ask for it.

        Raises TargetError if it cannot be had.
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
        """Take a server back that is as good as new."""
        self._idle.append(server)

    async def aclose(self) -> None:
        """End the servers that nobody uses."""
        while self._idle:
            await self._idle.pop().stop()


def ending(status: int) -> str:
    """An exit status in words."""
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
