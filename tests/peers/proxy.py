"""A TCP proxy in front of a WebSocket server, which records what passes and can cut it."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.waiting import PATIENCE

from .wire import Tap, Wire

if TYPE_CHECKING:
    from types import TracebackType

CONNECT_SECONDS = 10.0
"""A listening server on the loopback interface accepts at once."""


@dataclass(slots=True)
class _Link:
    """One connection of a client and the one to the server behind it."""

    number: int
    client: socket.socket
    server: socket.socket
    muted: bool = False
    """True if messages of the server are recorded but not passed on."""

    awaited: Any = None
    """The id of the request whose answer is lost."""

    def cut(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class Proxy:
    """Listens on a free loopback port and passes bytes on to ``ws://HOST:PORT``.

    While it is *down* it takes connections and ends them before a byte has passed.
    """

    target: str
    wire: Wire = field(default_factory=Wire)

    _listener: socket.socket = field(init=False)
    _links: list[_Link] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _down: bool = False
    _refused: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _lost_method: str | None = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        """URL for clients."""
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """End every connection at once, without a closing handshake."""
        with self._lock:
            for link in self._links:
                link.cut()

    def take_down(self) -> None:
        """Cut all connections, and refuse new ones until the proxy is up again."""
        with self._lock:
            self._down = True
        self.cut()

    def bring_up(self) -> None:
        """Let clients connect again."""
        with self._lock:
            self._down = False

    def wait_refused(self, times: int) -> None:
        """Wait until clients came that often in vain."""
        for _ in range(times):
            assert self._refused.acquire(timeout=PATIENCE), "no client tried to connect"

    def lose_answer(self, method: str) -> None:
        """Pass on the next request of a method, lose its answer, and cut then."""
        with self._lock:
            self._lost_method = method

    def _spawn(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        host, _, port = self.target.removeprefix("ws://").rpartition(":")
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener is closed
                return
            with self._lock:
                down = self._down
            if down:
                client.close()
                self._refused.release()
                continue
            server = socket.create_connection((host, int(port)), CONNECT_SECONDS)
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(number, client, server)
            number += 1
            with self._lock:
                self._links.append(link)
                if self._down:
                    link.cut()
            self._spawn(self._carry, link)

    def _carry(self, link: _Link) -> None:
        answers = threading.Thread(target=self._pass_answers, args=(link,))
        answers.start()
        self._pass_requests(link)
        answers.join()
        link.client.close()
        link.server.close()

    def _pass_requests(self, link: _Link) -> None:
        tap = Tap(self.wire, link.number, "client")
        with contextlib.suppress(OSError):
            while data := link.client.recv(1 << 18):
                for message in tap.feed(data):
                    with self._lock:
                        if message.get("method") == self._lost_method and "id" in message:
                            link.awaited, link.muted = message["id"], True
                            self._lost_method = None
                link.server.sendall(data)
        with contextlib.suppress(OSError):
            link.server.shutdown(socket.SHUT_WR)

    def _pass_answers(self, link: _Link) -> None:
        tap = Tap(self.wire, link.number, "server")
        with contextlib.suppress(OSError):
            while data := link.server.recv(1 << 18):
                messages = tap.feed(data)
                if not link.muted:
                    link.client.sendall(data)
                elif any(message.get("id") == link.awaited for message in messages):
                    link.cut()
        with contextlib.suppress(OSError):
            link.client.shutdown(socket.SHUT_WR)
