"""A proxy between a client and a WebSocket server that can lose connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from types import TracebackType


class CuttingProxy:
    """Proxy that passes bytes on, discards them, refuses connections or resets them."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: what the client's side is encrypted with."""
        self.upstream = upstream
        self._tls = tls
        self.refuses = False
        """True if new connections are reset at once."""
        self.is_mute = False
        """True if what the server sends is discarded."""
        self.connections = 0
        """Number of connections passed on so far."""
        self.refused = 0
        """Number of connections refused so far."""
        self.sent_by_client = 0
        """Number of pieces that clients have sent so far."""
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{'ws' if self._tls is None else 'wss'}://{host}:{port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._open:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        while self._passing:
            self.cut()
            await asyncio.wait(self._passing)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.refused += 1
            writer.transport.abort()
            return
        self.connections += 1
        parts = urlsplit(self.upstream)
        upstream_reader, upstream_writer = await asyncio.open_connection(parts.hostname, parts.port)
        self._open |= {writer, upstream_writer}
        try:
            await asyncio.gather(
                self._copy(reader, upstream_writer, from_server=False),
                self._copy(upstream_reader, writer, from_server=True),
            )
        except OSError:
            return
        finally:
            for end in (writer, upstream_writer):
                self._open.discard(end)
                end.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            self.sent_by_client += not from_server
            if not (from_server and self.is_mute):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
