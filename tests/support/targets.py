"""Servers that the client is tried on: this project's, and real codex binaries."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exec_server.client import connect_in_process, connect_stdio, connect_websocket
from exec_server_conformance import codex_binaries
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.client import Connecting

PROGRAM = str(Path(sys.executable).with_name("codex-exec-server"))

Transport = Literal["stdio", "ws", "in-process"]


@dataclass(frozen=True)
class Target:
    """A server, and the way to it."""

    transport: Transport
    revision: Literal["v0", "v1", "v2", "draft"]
    """The newest revision that the server speaks."""
    codex: str | None = None
    """The release, of a real codex."""
    arguments: tuple[str, ...] = ()
    """Of this project's server."""
    servers: Servers | None = field(default=None, compare=False, repr=False)

    @property
    def family(self) -> str:
        """The released revision whose features it has, and perhaps more."""
        return "v2" if self.revision == "draft" else self.revision

    @property
    def name(self) -> str:
        server = f"codex{self.codex}" if self.codex else f"ours{self.revision}"
        return f"{server}-{self.transport}"

    def command(self) -> list[str]:
        """Return the command line that starts the server over stdio."""
        if self.codex is None:
            return [PROGRAM, *self.arguments]
        return [*codex_binaries.command(self.codex, _PEERS), "--listen", "stdio"]

    def connect(self, **options: Any) -> Connecting:
        """A client of it."""
        if self.transport == "in-process":
            return connect_in_process(**options)
        if self.transport == "stdio":
            return connect_stdio(self.command(), **options)
        assert self.servers is not None
        return connect_websocket(self.servers.url(self), **options)


_PEERS = ROOT / codex_binaries.DEFAULT_DIRECTORY

OURS = (
    Target("stdio", "draft"),
    Target("ws", "draft"),
    Target("in-process", "draft"),
    Target("stdio", "v2", arguments=("--protocol", "v2")),
    Target("ws", "v1", arguments=("--protocol", "v1")),
    Target("stdio", "v0", arguments=("--protocol", "v0")),
)

CODEX = (
    Target("stdio", "v1", codex="0.139.0"),
    Target("ws", "v1", codex="0.139.0"),
    Target("stdio", "v2", codex="0.169.0"),
    Target("ws", "v2", codex="0.169.0"),
)


def missing(target: Target) -> str | None:
    """Return the reason that a target cannot be tried; None if it can."""
    if target.codex is None:
        return None
    try:
        codex_binaries.binary(target.codex, _PEERS)
    except codex_binaries.BinaryMissing as error:
        return f"nothing proven on codex: {error}"
    return None


class Servers:
    """The WebSocket servers that tests share, one of each kind."""

    def __init__(self) -> None:
        self._exits = ExitStack()
        self._urls: dict[Target, str] = {}

    def url(self, target: Target) -> str:
        """Return the URL of a target's server, which is started when first asked for."""
        if target not in self._urls:
            self._urls[target] = self._exits.enter_context(listening(target))
        return self._urls[target]

    def close(self) -> None:
        self._exits.close()


@contextmanager
def listening(target: Target, *arguments: str, address: str = "ws://127.0.0.1:0") -> Iterator[str]:
    """A server of its own that listens, on a free loopback port unless told otherwise."""
    if target.codex is None:
        argv = [PROGRAM, "--listen", address, *target.arguments, *arguments]
    else:
        argv = [*codex_binaries.command(target.codex, _PEERS), "--listen", "ws://127.0.0.1:0"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith(("ws://", "wss://", "unix://")), (
            f"{shlex.join(argv)} printed {line!r}"
        )
        yield line
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
