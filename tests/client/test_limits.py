"""Servers that flood, lie and never answer: what they can make the client hold is bounded."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import socket
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.client import (
    BadAnswer,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    Exited,
    Output,
    connect,
    connect_stdio,
    subscription,
)
from tests.support.fake_channel import GREETINGS, Peer, fake_server
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

V2 = GREETINGS["v2"]
MIB = 1024 * 1024


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("fragments", [1, 3], ids=["whole", "fragments"])
@pytest.mark.parametrize(
    ("limit", "size"), [(None, 64 * MIB + 1), (MIB, MIB + 1)], ids=["default", "chosen"]
)
async def test_a_message_beyond_the_limit_ends_the_session(
    limit: int | None, size: int, fragments: int
) -> None:
    """It is not resumed, because the server would send the message again."""
    handshakes = 0

    async def play(peer: Peer) -> None:
        nonlocal handshakes
        handshakes += 1
        await peer.request("fs/getMetadata")
        text = b"x" * size
        step = -(-size // fragments)
        with contextlib.suppress(Exception):
            await peer.websocket.send([text[at : at + step] for at in range(0, size, step)])

    async with fake_server(play, V2) as url, connect(url, max_message_bytes=limit) as client:
        with pytest.raises(ConnectionLost, match=f"the server broke the protocol: .*{limit or ''}"):
            await client.fs.stat("/")
    assert handshakes == 1


async def test_a_line_beyond_the_limit_ends_the_session() -> None:
    greeting = json.dumps({"id": 1, "result": V2})
    code = f"input(); print({greeting!r}, flush=True); input(); print('x' * 10**7); input()"
    argv = [sys.executable, "-c", code]
    async with connect_stdio(argv, max_message_bytes=MIB) as client:
        with pytest.raises(ConnectionLost, match=f"line exceeds {MIB} bytes"):
            await client.fs.stat("/")


async def test_answers_with_whole_files_may_be_longer() -> None:
    """The limit is higher as long as such an answer is due, and only then."""
    data = bytes(50 * MIB)

    async def play(peer: Peer) -> None:
        request = await peer.request("fs/readFile")
        await peer.answer(request, {"dataBase64": b64(data)})
        await peer.request("fs/getMetadata")
        with contextlib.suppress(Exception):
            await peer.websocket.send(b"x" * (64 * MIB + 1))

    async with fake_server(play, V2) as url, connect(url) as client:
        assert await client.fs.read_bytes("/file") == data
        with pytest.raises(ConnectionLost, match="the server broke the protocol"):
            await client.fs.stat("/")


async def test_a_whole_file_that_was_given_up_does_no_harm() -> None:
    """Its answer may still come, and is as long as it would have been."""

    is_asked = asyncio.Event()

    async def play(peer: Peer) -> None:
        request = await peer.request("fs/readFile")
        is_asked.set()
        other = await peer.request("fs/remove")
        await peer.answer(request, {"dataBase64": b64(bytes(50 * MIB))})
        await peer.answer(other, {})

    async with fake_server(play, V2) as url, connect(url) as client:
        reading = asyncio.create_task(client.fs.read_bytes("/file"))
        await is_asked.wait()
        reading.cancel()
        await client.fs.remove("/other")


@pytest.mark.parametrize(
    "text",
    ['{"id":2,"result":' + "[" * 100_000, '{"method":"x","params":' + '{"a":' * 100_000],
    ids=["answer", "notification"],
)
async def test_deep_nesting_is_no_message(text: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.receive()
        await peer.websocket.send(text)

    async with fake_server(play, V2) as url, connect(url) as client:
        with pytest.raises(ConnectionLost, match="something that is no message"):
            await client.fs.stat("/")


async def test_requests_of_the_server_are_refused_so_many_times() -> None:
    async def play(peer: Peer) -> None:
        await peer.receive()
        request = json.dumps({"id": 1, "method": "x" * 1000, "params": {}})
        with contextlib.suppress(Exception):
            for _ in range(1001):
                await peer.websocket.send(request)
            async for _ in peer.websocket:
                pass

    async with fake_server(play, V2) as url, connect(url) as client:
        with pytest.raises(ConnectionLost, match="more than 1000 requests"):
            await client.fs.stat("/")


# Sockets


@contextlib.asynccontextmanager
async def raw_server(
    play: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server that reads the head of one request, and then does what it likes."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            done.set()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        await done.wait()


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((0x80 | opcode, size)) if size < 126 else b""
    return (head or bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")) + payload


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The WebSocket handshake, and the session's."""
    request = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
    assert found is not None
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
    await writer.drain()
    await reader.read(65536)
    writer.write(frame(1, json.dumps({"id": 1, "result": V2}).encode()))


async def test_an_endless_head_is_refused() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 x\r\n")
        for _ in range(10_000):
            writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async with raw_server(play) as url:
        with pytest.raises(ConnectFailed, match="the head of its answer exceeds 65536 bytes"):
            await connect(url)


async def test_pings_of_a_server_that_does_not_read_are_not_all_answered() -> None:
    pings = 100_000
    answered = 0
    flooded = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await accept(reader, writer)
        flood = frame(9, b"x" * 120) * 1000
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # what it has taken is small
        for _ in range(pings // 1000):
            writer.write(flood)
            await writer.drain()
        writer.write(frame(1, json.dumps({"id": 2, "result": {}}).encode()))
        await writer.drain()
        await flooded.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        while data := await reader.read(MIB):
            answered += len(data)

    async with raw_server(play) as url, connect(url) as client:
        await client.fs.remove("/file")
        flooded.set()
    assert 0 < answered < 8 * MIB < pings * 126


# Processes


def output(seq: int, data: bytes) -> str:
    params = {"processId": "p", "seq": seq, "stream": "stdout", "chunk": b64(data)}
    return json.dumps({"method": "process/output", "params": params})


def state(next_seq: int, chunks: list[Any], *, over: bool = True) -> dict[str, Any]:
    result = {"chunks": chunks, "nextSeq": next_seq, "exited": over, "closed": over}
    return {**result, "exitCode": 0 if over else None, "failure": None}


async def started(peer: Peer) -> None:
    await peer.answer(await peer.request("process/start"), {"processId": "p"})


async def ended(peer: Peer, seq: int) -> None:
    await peer.notify("process/exited", processId="p", seq=seq, exitCode=0)
    await peer.notify("process/closed", processId="p", seq=seq + 1)


async def test_events_that_wait_for_an_earlier_one_are_bounded() -> None:
    """Events beyond the limit are read again."""
    chunk = b"x" * 65536
    count = 1600
    is_sent = asyncio.Event()

    async def play(peer: Peer) -> None:
        await started(peer)
        for seq in range(2, count + 1):
            await peer.websocket.send(output(seq, chunk))
        is_sent.set()
        while True:
            request = await peer.request("process/read")
            after = request["params"]["afterSeq"]
            found = [
                {"seq": seq, "stream": "stdout", "chunk": b64(chunk)}
                for seq in range(after + 1, min(after + 17, count + 1))
            ]
            next_seq = found[-1]["seq"] + 1 if found else count + 3
            await peer.answer(request, state(next_seq, found))

    async with fake_server(play, V2) as url, connect(url) as client:
        tracemalloc.start()
        try:
            process = await client.start(["x"], process_id="p")
            await is_sent.wait()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        total = 0
        async for event in process:
            if isinstance(event, Output):
                total += len(event.data)
        assert total == count * len(chunk)
    assert peak < 40 * MIB


async def test_small_events_are_bounded_by_their_number() -> None:
    """A slow consumer has them read again, however little output they hold."""
    count = 20_000

    async def play(peer: Peer) -> None:
        await started(peer)
        for seq in range(1, count + 1):
            await peer.websocket.send(output(seq, b""))
        await ended(peer, count + 1)
        await peer.answer(await peer.request("fs/remove"), {})
        request = await peer.request("process/read")
        assert request["params"]["afterSeq"] == 16 * 1024
        await peer.answer(request, state(count + 3, []))

    async with fake_server(play, V2) as url, connect(url) as client:
        process = await client.start(["x"], process_id="p")
        await client.fs.remove("/until/all/has/come")
        async with asyncio.timeout(PATIENCE):
            events = [event async for event in process]
        assert len(events) < count


async def test_an_exit_is_told_once() -> None:
    async def play(peer: Peer) -> None:
        await started(peer)
        for seq in range(1, 2000):
            await peer.notify("process/exited", processId="p", seq=seq, exitCode=0)
        await peer.notify("process/closed", processId="p", seq=2000)

    async with fake_server(play, V2) as url, connect(url) as client:
        process = await client.start(["x"], process_id="p")
        events = [event async for event in process]
        assert [type(event) for event in events].count(Exited) == 1


async def test_output_ahead_of_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that blocks reads output again that came meanwhile, beyond a limit."""
    monkeypatch.setattr(subscription, "BLOCKED_BYTES", 4 * MIB)
    chunk = b"x" * 65536
    count = 200

    async def play(peer: Peer) -> None:
        await started(peer)
        request = await peer.request("fs/remove")
        for seq in range(1, count + 1):
            await peer.websocket.send(output(seq, chunk))
        await ended(peer, count + 1)
        await peer.answer(request, {})
        request = await peer.request("process/read")
        assert 64 < request["params"]["afterSeq"] < 100
        await peer.answer(request, state(count + 3, []))

    async with fake_server(play, V2) as url, connect(url) as client:
        process = await client.start(["x"], process_id="p", overflow="block")
        await client.fs.remove("/file")
        assert [event async for event in process]


async def test_events_of_processes_without_a_name_are_bounded() -> None:
    async def play(peer: Peer) -> None:
        await peer.request("command/exec")
        with contextlib.suppress(Exception):
            for number in range(2000):
                await peer.notify("command/exec/exited", sessionId=f"unknown-{number}", exitCode=0)

    async with fake_server(play, GREETINGS["v0"]) as url, connect(url) as client:
        with pytest.raises(ConnectionLost, match="about processes it has not named"):
            await client.start(["x"])


# Files and HTTP


async def test_a_block_is_no_longer_than_asked_for() -> None:
    async def play(peer: Peer) -> None:
        request = await peer.request("fs/open")
        await peer.answer(request, {"handleId": request["params"]["handleId"]})
        request = await peer.request("fs/readBlock")
        await peer.answer(request, {"chunk": b64(bytes(2 * MIB)), "eof": False})

    async with fake_server(play, V2) as url, connect(url) as client:
        file = await client.fs.open_read("/file")
        with pytest.raises(BadAnswer, match="2097152 bytes instead of up to 1048576"):
            await file.read()


async def test_pieces_of_a_body_that_wait_for_an_earlier_one_are_bounded() -> None:
    async def play(peer: Peer) -> None:
        request = await peer.request("http/request")
        name = request["params"]["requestId"]
        for seq in range(2, 1100):
            await peer.notify(
                "http/request/bodyDelta",
                requestId=name,
                seq=seq,
                deltaBase64="eA==",
                done=False,
                error=None,
            )
        await peer.answer(request, {"status": 200, "headers": [], "bodyBase64": ""})

    async with (
        fake_server(play, V2) as url,
        connect(url) as client,
        client.http.stream("GET", "http://localhost/") as response,
    ):
        with pytest.raises(ClientError, match="a piece of it is missing"):
            await response.read()
