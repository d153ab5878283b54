"""A server process and blocking clients of it, over stdio and WebSocket."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from tests.support.waiting import PATIENCE, is_gone, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["PATIENCE", "is_gone", "wait_until"]

PROGRAM = str(Path(sys.executable).with_name("codex-exec-server"))


_UNLIMITED: Final[dict[str, Any]] = {
    "compression": None,
    "max_size": None,
    "close_timeout": 5,
    "ping_interval": None,  # a busy machine may take longer than its answer is waited for
}
"""Options of connections: only the server limits and ends them."""


class Ended(Exception):
    """The server ended the connection."""


class Client:
    """Client that sorts received messages: answers by id, notifications in order."""

    def __init__(self) -> None:
        self.answers: dict[Any, list[dict[str, Any]]] = {}
        self.notifications: list[dict[str, Any]] = []
        self.arrivals: list[dict[str, Any]] = []
        self._next_id = 0

    def send_text(self, text: str | bytes) -> None:
        raise NotImplementedError

    def receive_text(self, timeout: float) -> str:
        """The next message; raises TimeoutError, or Ended."""
        raise NotImplementedError

    def send(self, message: dict[str, Any]) -> None:
        self.send_text(json.dumps(message, ensure_ascii=False))

    def request(self, method: str, params: Any = None, *, identifier: Any = None) -> Any:
        """Send a request; returns its id."""
        if identifier is None:
            self._next_id += 1
            identifier = self._next_id
        self.send({"id": identifier, "method": method, "params": params})
        return identifier

    def take(self, timeout: float = PATIENCE) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.receive_text(timeout))
        self.arrivals.append(message)
        if "method" in message:
            self.notifications.append(message)
        else:
            self.answers.setdefault(message["id"], []).append(message)
        return message

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Take messages until the condition holds; returns what it returned."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            self.take(max(0.001, deadline - time.monotonic()))
        return found

    def answer(self, identifier: Any) -> dict[str, Any]:
        """The answer to a request."""
        waiting: list[dict[str, Any]] = self.wait(lambda: self.answers.get(identifier))
        return waiting.pop(0)

    def call(self, method: str, params: Any = None) -> Any:
        """The result of a request that must succeed."""
        answer = self.answer(self.request(method, params))
        assert "result" in answer, answer
        return answer["result"]

    def error(self, method: str, params: Any = None) -> dict[str, Any]:
        """The error of a request that must fail."""
        answer = self.answer(self.request(method, params))
        assert "error" in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def initialize(self, **params: Any) -> str:
        """The whole handshake; returns the session id."""
        result = self.call("initialize", {"clientName": "test", **params})
        self.send({"method": "initialized", "params": {}})
        session_id: str = result.get("sessionId", "")
        return session_id

    def start(self, process_id: str, *argv: str, **options: Any) -> None:
        """Start a process that must start."""
        self.call("process/start", start_params(process_id, *argv, **options))

    def events(self, process_id: str) -> list[dict[str, Any]]:
        """The notifications of a process so far."""
        return [
            message
            for message in self.notifications
            if message["params"].get("processId") == process_id
        ]

    def closed(self, process_id: str) -> list[dict[str, Any]]:
        """All notifications of a process, once it is closed."""
        self.wait(
            lambda: any(event["method"] == "process/closed" for event in self.events(process_id))
        )
        return self.events(process_id)

    def is_alive(self) -> bool:
        """Return True if the connection still serves requests."""
        result = self.call("process/terminate", {"processId": "nobody"})
        return bool(result == {"running": False})

    def wait_for_end(self) -> None:
        """Take messages until the server ends the connection."""
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                self.take(max(0.001, deadline - time.monotonic()))
        except Ended:
            return


def start_params(process_id: str, *argv: str, **options: Any) -> dict[str, Any]:
    """Params of process/start with a usual environment."""
    return {
        "processId": process_id,
        "argv": list(argv),
        "cwd": "/",
        "env": {"PATH": "/usr/bin:/bin"},
        "tty": False,
        **options,
    }


class StdioClient(Client):
    """The one client of a server on pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        self.process = process
        self._buffer = b""

    def send_text(self, text: str | bytes) -> None:
        assert self.process.stdin is not None
        data = text.encode() if isinstance(text, str) else text
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def receive_text(self, timeout: float) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = max(0, deadline - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("no message came")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise Ended
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


class WebSocketClient(Client):
    """One of the clients of a listening server."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__()
        self._exits = ExitStack()
        if url.startswith("unix://"):
            options |= {"path": url.removeprefix("unix://")}
            opened = unix_connect(**_UNLIMITED, **options)
        else:
            opened = connect(url, **_UNLIMITED, **options)
        self.websocket = self._exits.enter_context(opened)

    def send_text(self, text: str | bytes) -> None:
        self.websocket.send(text if isinstance(text, str) else text.decode())

    def receive_text(self, timeout: float) -> str:
        try:
            text = self.websocket.recv(timeout)
        except ConnectionClosed as error:
            raise Ended from error
        assert isinstance(text, str)
        return text

    def close(self) -> None:
        self._exits.close()


@contextmanager
def running(
    *arguments: str, program: Sequence[str] = (PROGRAM,), **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, ended whatever happens; it speaks v1 unless told what to speak."""
    if "--protocol" not in arguments:
        arguments = ("--protocol", "v1", *arguments)
    process = subprocess.Popen(
        [*program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        **{"stderr": subprocess.DEVNULL, **options},
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def stdio(*arguments: str) -> Iterator[StdioClient]:
    """A server on pipes and its client, before the handshake."""
    with running(*arguments) as process:
        yield StdioClient(process)


class Listening:
    """A server that listens, and the clients made from it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = process.stdout.readline().decode().strip()
        self._clients: list[WebSocketClient] = []

    def client(self) -> WebSocketClient:
        """A new connection, before the handshake."""
        client = WebSocketClient(self.url)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextmanager
def listening(*arguments: str) -> Iterator[Listening]:
    """A server that listens on a free loopback port."""
    with running("--listen", "ws://127.0.0.1:0", *arguments) as process:
        server = Listening(process)
        try:
            yield server
        finally:
            server.close()


class Servers:
    """Servers that many tests have connections to, each test its own; one for each protocol."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._listening: dict[str, Listening] = {}

    @contextmanager
    def client(self, transport: str, protocol: str) -> Iterator[Client]:
        """A connection before the handshake; over stdio it has a server to itself."""
        if transport == "stdio":
            with stdio("--protocol", protocol) as client:
                yield client
            return
        if protocol not in self._listening:
            server = self._exits.enter_context(listening("--protocol", protocol))
            self._listening[protocol] = server
        connection = WebSocketClient(self._listening[protocol].url)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        self._exits.close()
