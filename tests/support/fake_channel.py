"""A WebSocket server that says whatever a test wants it to say."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SHELL = {"name": "sh", "path": "/bin/sh"}

GREETINGS: dict[str, dict[str, Any]] = {
    "v0": {"protocolVersion": "exec-server.v0"},
    "v1": {"sessionId": "s"},
    "v2": {"sessionId": "s", "environmentInfo": {"shell": SHELL, "cwd": "file:///"}},
}
"""Answer to initialize."""


class Peer:
    """One connection of a client."""

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket

    async def send(self, message: object) -> None:
        await self.websocket.send(json.dumps(message))

    async def notify(self, method: str, **params: Any) -> None:
        await self.send({"method": method, "params": params})

    async def answer(self, request: dict[str, Any], result: object) -> None:
        await self.send({"id": request["id"], "result": result})

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.websocket.recv())
        return message

    async def request(self, method: str) -> dict[str, Any]:
        """The next message, which must be a request for this method."""
        message = await self.receive()
        assert message.get("method") == method, message
        return message

    async def shake_hands(self, greeting: dict[str, Any]) -> None:
        """The handshake, and the question for v2 where the greeting leaves it open."""
        await self.answer(await self.request("initialize"), greeting)
        await self.request("initialized")
        if "sessionId" in greeting and "environmentInfo" not in greeting:
            probe = await self.request("fs/walk")
            error = {"code": -32601, "message": "exec-server stub does not implement it yet"}
            await self.send({"id": probe["id"], "error": error})


@contextlib.asynccontextmanager
async def fake_server(
    play: Callable[[Peer], Awaitable[None]], greeting: dict[str, Any] | None = None
) -> AsyncIterator[str]:
    """The URL of a server that shakes hands and then plays a part; it fails if the part does."""
    failures: list[BaseException] = []

    async def handle(websocket: ServerConnection) -> None:
        peer = Peer(websocket)
        try:
            if greeting is not None:
                await peer.shake_hands(greeting)
            await play(peer)
            await websocket.wait_closed()
        except AssertionError as error:
            failures.append(error)
            await websocket.close()

    async with serve(handle, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"ws://{host}:{port}"
    if failures:
        raise failures[0]
