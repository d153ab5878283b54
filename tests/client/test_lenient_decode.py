"""What servers of another age may say, and what no server should."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.client import (
    BadAnswer,
    Closed,
    ConnectionLost,
    Exited,
    MethodUnknown,
    Output,
    ServerError,
    connect,
)
from tests.support.fake_channel import GREETINGS, Peer, fake_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

V2 = GREETINGS["v2"]

READ = {"chunks": [], "nextSeq": 1, "exited": False, "exitCode": None, "closed": False}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def started(peer: Peer) -> str:
    """Answer a start with the id of the process."""
    request = await peer.request("process/start")
    process_id: str = request["params"]["processId"]
    await peer.answer(request, {"processId": process_id, "sandboxType": "moonbase", "new": [1]})
    return process_id


async def end(peer: Peer, process_id: str, seq: int) -> None:
    """The last two events."""
    await peer.notify("process/exited", processId=process_id, seq=seq, exitCode=0, reason="new")
    await peer.notify("process/closed", processId=process_id, seq=seq + 1, new=None)


async def talk(play: Callable[[Peer], Awaitable[None]]) -> Any:
    """What ``run`` returns against a server that plays its part."""
    async with fake_server(play, V2) as url, connect(url) as client:
        return await client.run(["program"])


async def test_unknown_members_and_choices() -> None:
    """Unknown members, streams and kinds are ignored."""

    async def play(peer: Peer) -> None:
        process_id = await started(peer)
        await peer.notify(
            "process/output", processId=process_id, seq=1, stream="stdout", chunk=b64(b"a"), x=1
        )
        await peer.notify(
            "process/output", processId=process_id, seq=2, stream="trace", chunk=b64(b"b")
        )
        await end(peer, process_id, 3)

    greeting = {**V2, "motd": "hello", "limits": {}}
    async with fake_server(play, greeting) as url, connect(url) as client:
        process = await client.start(["program"])
        events = [event async for event in process]
    assert events == [
        Output(1, "stdout", b"a"),
        Output(2, "trace", b"b"),
        Exited(3, 0),
        Closed(4),
    ]


async def test_unknown_messages() -> None:
    """Unknown notifications are ignored and unknown requests refused."""
    refusals = []

    async def play(peer: Peer) -> None:
        await peer.notify("weather/changed", sky="blue")
        await peer.send({"id": "later", "result": {}})
        await peer.send({"jsonrpc": "2.0", "method": "bare"})
        process_id = await started(peer)
        await peer.send({"id": 7, "method": "client/askPerson", "params": {}})
        refusals.append(await peer.receive())
        await peer.notify("process/output", processId="nobody", seq=1, stream="stdout", chunk="")
        await end(peer, process_id, 1)

    done = await talk(play)
    assert done.returncode == 0
    text = "exec-server client does not implement `client/askPerson`"
    assert refusals == [{"error": {"code": -32601, "message": text}, "id": 7}]


async def test_order_of_events() -> None:
    """Events that overtake each other, and the answer to the start, come in their order."""

    async def play(peer: Peer) -> None:
        request = await peer.request("process/start")
        process_id = request["params"]["processId"]
        for seq in (2, 1, 1, 4, 3, 2):
            await peer.notify(
                "process/output",
                processId=process_id,
                seq=seq,
                stream="stdout",
                chunk=b64(b"%d" % seq),
            )
        await peer.notify("process/closed", processId=process_id, seq=6)
        await peer.notify("process/exited", processId=process_id, seq=5, exitCode=9)
        await peer.answer(request, {"processId": process_id})

    done = await talk(play)
    assert (done.stdout, done.returncode) == (b"1234", 9)


async def test_lost_event_is_read_again() -> None:
    """When an event never comes, the output is read again rather than waited for."""

    async def play(peer: Peer) -> None:
        process_id = await started(peer)
        outputs = {seq: b64(b"%d " % seq) for seq in range(1, 101)}
        for seq, chunk in outputs.items():
            if seq != 3:
                await peer.notify(
                    "process/output", processId=process_id, seq=seq, stream="stdout", chunk=chunk
                )
        await end(peer, process_id, 101)
        while True:
            request = await peer.request("process/read")
            after = request["params"]["afterSeq"]
            chunks = [
                {"seq": seq, "stream": "stdout", "chunk": chunk}
                for seq, chunk in outputs.items()
                if seq > after
            ]
            state = {"exited": True, "exitCode": 0, "closed": True, "failure": None}
            await peer.answer(request, {"chunks": chunks, "nextSeq": 103, **state})
            if not chunks and after <= 102:
                return

    done = await talk(play)
    assert done.stdout == b"".join(b"%d " % seq for seq in range(1, 101))


async def test_unreadable_notification() -> None:
    """A notification that cannot be read is missed, and what it told is read."""

    async def play(peer: Peer) -> None:
        process_id = await started(peer)
        await peer.notify("process/output", processId=process_id, seq=1, stream=["new", "form"])
        await end(peer, process_id, 2)
        chunks = [{"seq": 1, "stream": "stdout", "chunk": b64(b"told")}]
        state = {"nextSeq": 4, "exited": True, "exitCode": 0, "closed": True, "failure": None}
        while True:
            request = await peer.request("process/read")
            after = request["params"]["afterSeq"]
            await peer.answer(request, {"chunks": chunks if after < 1 else [], **state})
            if 1 <= after < 4:
                return

    assert (await talk(play)).stdout == b"told"


async def test_answers_of_the_wrong_shape() -> None:
    """An answer that cannot be read fails its request alone."""

    async def play(peer: Peer) -> None:
        await peer.answer(
            await peer.request("fs/getMetadata"), {"isDirectory": False, "isFile": "perhaps"}
        )
        error = {"code": -32050, "message": "new kind", "data": {"more": 1}}
        await peer.send({"id": (await peer.request("fs/getMetadata"))["id"], "error": error})
        error = {"code": -32601, "message": "no such method"}
        await peer.send({"id": (await peer.request("fs/getMetadata"))["id"], "error": error})
        await peer.answer(await peer.request("fs/remove"), {"removed": 3})

    async with fake_server(play, V2) as url, connect(url) as client:
        with pytest.raises(BadAnswer, match=r"fs/getMetadata: .*isFile"):
            await client.fs.stat("/")
        with pytest.raises(ServerError, match="new kind") as failed:
            await client.fs.stat("/")
        assert failed.value.code == -32050
        with pytest.raises(MethodUnknown):
            await client.fs.stat("/")
        await client.fs.remove("/file")


async def test_server_that_cannot_read() -> None:
    """When the server says that it could not read a message, who waits for an answer is told."""

    async def play(peer: Peer) -> None:
        await peer.receive()
        await peer.receive()
        await peer.send({"id": -1, "error": {"code": -32600, "message": "failed to parse"}})
        await peer.answer(await peer.request("fs/remove"), {})

    async with fake_server(play, V2) as url, connect(url) as client:
        waiting = [asyncio.create_task(client.fs.stat(path)) for path in ("/a", "/b")]
        for task in waiting:
            with pytest.raises(ServerError, match="failed to parse"):
                await task
        await client.fs.remove("/c")


@pytest.mark.parametrize("text", ["not json", "[1, 2]", '{"id": 1.5, "result": {}}', '"\\ud800"'])
async def test_what_is_no_message(text: str) -> None:
    """What is no message ends the connection, as an answer may be lost with it."""

    async def play(peer: Peer) -> None:
        await peer.receive()
        await peer.websocket.send(text)

    async with fake_server(play, V2) as url, connect(url, resume_timeout=0) as client:
        with pytest.raises(ConnectionLost, match="something that is no message"):
            await client.fs.stat("/")


@pytest.mark.parametrize(("code", "reason"), [(1001, "going away"), (1008, "")])
async def test_close_frame_is_quoted(code: int, reason: str) -> None:
    """The server's reason for the end is in the error."""

    async def play(peer: Peer) -> None:
        await peer.receive()
        await peer.websocket.close(code, reason)

    async with fake_server(play, V2) as url, connect(url, resume_timeout=0) as client:
        with pytest.raises(ConnectionLost, match=reason or f"close code {code}"):
            await client.fs.stat("/")


async def test_frames_of_any_kind() -> None:
    """Binary, fragmented and large frames, and pings in between, are taken."""

    async def play(peer: Peer) -> None:
        request = await peer.request("fs/readFile")
        text = json.dumps({"id": request["id"], "result": {"dataBase64": b64(bytes(3_000_000))}})
        await peer.websocket.send([text[:10], text[10:70_000], text[70_000:]])
        request = await peer.request("fs/readFile")
        await peer.websocket.ping()
        data = b'{"id": %d, "result": {"dataBase64": "eA=="}}' % request["id"]
        await peer.websocket.send(data)
        assert (await peer.request("fs/writeFile"))["params"]["dataBase64"] == b64(bytes(900_000))

    async with fake_server(play, V2) as url, connect(url, resume_timeout=0) as client:
        assert await client.fs.read_bytes("/large") == bytes(3_000_000)
        assert await client.fs.read_bytes("/small") == b"x"
        writing = asyncio.create_task(client.fs.write_bytes("/file", bytes(900_000)))
        with pytest.raises(ConnectionLost):
            await writing


async def test_many_requests_wait_their_turn() -> None:
    """No more than 96 requests are under way at once, and each gets its own answer."""
    most = 0

    async def play(peer: Peer) -> None:
        nonlocal most
        waiting: list[dict[str, Any]] = []
        answered = 0
        while answered < 300:
            try:
                async with asyncio.timeout(0.2):
                    waiting.append(await peer.receive())
            except TimeoutError:
                most = max(most, len(waiting))
                for request in reversed(waiting):
                    name = request["params"]["path"].removeprefix("file:///")
                    await peer.answer(request, {"path": f"file:///resolved/{name}"})
                    answered += 1
                waiting.clear()

    async with fake_server(play, V2) as url, connect(url) as client:
        resolved = await asyncio.gather(*(client.fs.resolve(f"/{n}") for n in range(300)))
    assert resolved == [f"/resolved/{n}" for n in range(300)]
    assert most == 96
