"""Servers under measurement: start, connections, memory, termination."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from exec_server_conformance.bench.channel import BenchError, Channel, StdioLink, WebSocketLink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Transport: TypeAlias = Literal["ws", "stdio"]
Revision: TypeAlias = Literal["v1", "v2"]

REVISIONS: Final[tuple[Revision, ...]] = get_args(Revision)
"""Revisions that a server is measured in."""

WATCHDOG_SECONDS = 60.0
"""Time limit of one round; a server that exceeds it is killed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Column of the report: server command, transport and client variant."""

    label: str
    command: Sequence[str]
    environment: Mapping[str, str]
    transport: Transport
    revision: Revision
    quick_ack: bool = False

    def start(self) -> Server:
        """Start the server; return when it listens (ws) or its process exists (stdio)."""
        return Server(self)


@dataclass(slots=True)
class Memory:
    """Memory of a server, in bytes."""

    resident: int
    """Resident set size of the server process, including file pages."""

    anonymous: int
    """Anonymous memory of the server and its descendants, shared pages counted proportionally."""


class Server:
    """Running server process."""

    def __init__(self, target: Target) -> None:
        """Start the command; raise BenchError if it does not start or listen."""
        self._target = target
        listen = "ws://127.0.0.1:0" if target.transport == "ws" else "stdio"
        started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                [*target.command, "--listen", listen],
                env={**os.environ, **target.environment},
                stdin=subprocess.PIPE if target.transport == "stdio" else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{target.command[0]} cannot be run: {error.strerror}") from error
        self._address = ("", 0)
        if target.transport == "ws":
            with self.watched():
                self._address = self._read_address()
        self.seconds_to_listening = time.perf_counter() - started

    def _read_address(self) -> tuple[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        url = urlsplit(line.decode(errors="replace").strip())
        if url.scheme != "ws" or url.hostname is None or url.port is None:
            self.close()
            raise BenchError(f"{self._target.label} printed {line!r} instead of a ws:// address")
        return url.hostname, url.port

    def connect(self) -> Channel:
        """Return an initialized connection; a stdio server has only one."""
        if self._target.transport == "ws":
            return Channel(WebSocketLink(*self._address, quick_ack=self._target.quick_ack))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return Channel(StdioLink(self._process.stdin.fileno(), self._process.stdout.fileno()))

    def memory(self) -> Memory:
        """Return the current memory usage."""
        own = _smaps_rollup(self._process.pid)
        others = [_smaps_rollup(pid) for pid in _descendants(self._process.pid)]
        return Memory(
            resident=own["Rss"],
            anonymous=sum(each["Pss_Anon"] for each in (own, *others)),
        )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Context manager that kills the server when its time limit expires."""
        watchdog = threading.Timer(WATCHDOG_SECONDS, self._process.kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """Kill the server and wait for its exit."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.communicate()


@dataclass(slots=True)
class Subject:
    """Target during one measurement, with a server and a connection shared by all rounds."""

    target: Target
    scratch: Path
    _server: Server | None = field(default=None, init=False)
    _channel: Channel | None = field(default=None, init=False)
    _names: int = field(default=0, init=False)

    @property
    def server(self) -> Server:
        """Running server, started on first use."""
        if self._server is None:
            self._server = self.target.start()
        return self._server

    @property
    def channel(self) -> Channel:
        """Connection to the server, opened on first use."""
        if self._channel is None:
            self._channel = self.server.connect()
        return self._channel

    def path(self, path: Path) -> str:
        """Format an absolute path as the revision requires."""
        return str(path) if self.target.revision == "v1" else path.as_uri()

    def new_name(self) -> str:
        """Return a process id that has not been used on this subject."""
        self._names += 1
        return f"p{self._names}"

    def close(self) -> None:
        """Close the connection and the server."""
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            self._server.close()
        self._channel = self._server = None


def _smaps_rollup(pid: int) -> dict[str, int]:
    """Return the counters of /proc/PID/smaps_rollup in bytes; zeros if the process has exited."""
    counters = {"Rss": 0, "Pss_Anon": 0}
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return counters
    for line in text.splitlines()[1:]:
        name, _, amount = line.partition(":")
        if name in counters:
            counters[name] = int(amount.split()[0]) * 1024
    return counters


def _descendants(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += (new := [int(child) for child in children.read_text().split()])
                found += new
    return found
