"""Lost connections: what goes on, what is repeated, and what fails."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.client import (
    Closed,
    ConnectFailed,
    ConnectionLost,
    Exited,
    Gap,
    Output,
    SessionLost,
    connect_websocket,
)
from exec_server.client.transports import websocket
from tests.support.lossy_proxy import CuttingProxy
from tests.support.targets import listening
from tests.support.waiting import eventually, is_gone

if TYPE_CHECKING:
    from tests.support.targets import Target

SCRIPT = str(Path(sys.executable).with_name("exec-server"))

pytestmark = [pytest.mark.transports("ws"), pytest.mark.revisions("v1", "v2")]


def url_of(target: Target) -> str:
    assert target.servers is not None
    return target.servers.url(target)


async def test_output_goes_on(target: Target) -> None:
    """Events come whole, once and in order over any number of lost connections."""
    script = "i=0; while [ $i -lt 150 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 3"
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        process = await client.start(["sh", "-c", script])
        output = b""
        codes = []
        async for event in process:
            assert not isinstance(event, Gap)
            if isinstance(event, Output):
                output += event.data
                if output.count(b"\n") in (20, 60, 61, 62, 110):
                    proxy.cut()
            elif isinstance(event, Exited):
                codes.append(event.code)
        assert output.split() == [b"%d" % n for n in range(150)]
        assert codes == [3]
        assert proxy.connections > 3


async def test_end_while_away(target: Target, tmp_path: Path) -> None:
    """An exit that happens while there is no connection is told afterwards."""
    script = f"echo here; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo there; exit 5"
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        process = await client.start(["sh", "-c", script])
        other = await client.start(["sh", "-c", script])
        waiting = asyncio.create_task(process.wait_closed())
        assert await process.stdout.readline() == b"here\n"
        proxy.refuses = True
        proxy.cut()
        (tmp_path / "go").touch()
        assert await eventually(lambda: proxy.refused > 1)
        assert not waiting.done()
        proxy.refuses = False
        assert await waiting == 5
        assert await process.stdout.read() == b"there\n"
        events = [event async for event in other]
        assert [event.code for event in events if isinstance(event, Exited)] == [5]
        assert isinstance(events[-1], Closed)
        assert b"".join(e.data for e in events if isinstance(e, Output)) == b"here\nthere\n"


@pytest.mark.revisions("v2")
async def test_write_is_done_once(target: Target, tmp_path: Path) -> None:
    """A write whose answer was lost is sent again, and done once."""
    received = tmp_path / "received"
    received.touch()
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        process = await client.start(["sh", "-c", f"exec cat >{received}"], stdin=True)
        await process.write(b"one ")
        proxy.is_mute = True
        writing = asyncio.create_task(process.write(b"two "))
        assert await eventually(lambda: received.read_bytes() == b"one two ")
        assert not writing.done()
        queued = asyncio.create_task(process.write(b"three"))
        proxy.is_mute = False
        proxy.cut()
        await writing
        await queued
        assert await eventually(lambda: received.read_bytes() == b"one two three")
        assert proxy.connections == 2


@pytest.mark.revisions("v1")
async def test_write_is_not_repeated(target: Target, tmp_path: Path) -> None:
    """Where writes have no names, one whose answer was lost fails and is not done twice."""
    received = tmp_path / "received"
    received.touch()
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url, revision="v1") as client,
    ):
        process = await client.start(["sh", "-c", f"exec cat >{received}"], stdin=True)
        await process.write(b"one ")
        proxy.is_mute = True
        writing = asyncio.create_task(process.write(b"two "))
        assert await eventually(lambda: received.read_bytes() == b"one two ")
        proxy.is_mute = False
        proxy.cut()
        with pytest.raises(ConnectionLost, match="process/write may have been carried out"):
            await writing
        await process.write(b"three")
        assert await eventually(lambda: received.read_bytes() == b"one two three")


async def test_start_is_done_once(target: Target, tmp_path: Path) -> None:
    """A start whose answer was lost is sent again, and the process is started once."""
    started = tmp_path / "started"
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        await client.run(["true"])
        proxy.is_mute = True
        starting = asyncio.create_task(
            client.start(["sh", "-c", f"echo early; echo x >>{started}; exec sleep 600"])
        )
        assert await eventually(started.exists)
        proxy.is_mute = False
        proxy.cut()
        process = await starting
        assert await process.stdout.readline() == b"early\n"
        await process.terminate()
        assert await process.wait() != 0
        assert started.read_text() == "x\n"


async def test_requests_wait(target: Target, tmp_path: Path) -> None:
    """What is asked while there is no connection is done when there is one again."""
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        proxy.refuses = True
        proxy.cut()
        assert await eventually(lambda: proxy.refused > 0)
        writing = asyncio.create_task(client.fs.write_text(tmp_path / "file", "text"))
        running = asyncio.create_task(client.run(["echo", "hi"]))
        refused = proxy.refused
        assert await eventually(lambda: proxy.refused > refused)
        proxy.refuses = False
        await writing
        assert (tmp_path / "file").read_text() == "text"
        assert (await running).stdout == b"hi\n"


async def test_change_is_not_repeated(target: Target, tmp_path: Path) -> None:
    """A change whose answer was lost fails, and says that it may have been carried out."""
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        proxy.is_mute = True
        making = asyncio.create_task(client.fs.mkdir(tmp_path / "new"))
        looking = asyncio.create_task(client.fs.listdir(tmp_path))
        assert await eventually((tmp_path / "new").exists)
        proxy.is_mute = False
        proxy.cut()
        with pytest.raises(ConnectionLost, match="fs/createDirectory may have been carried out"):
            await making
        assert [entry.name for entry in await looking] == ["new"]


async def test_unknown_session(target: Target) -> None:
    """Pending calls fail, and none hangs, if the server has forgotten the session."""
    async with CuttingProxy(url_of(target)) as proxy:
        with listening(target) as other:
            client = await connect_websocket(proxy.url)
            process = await client.start(["sh", "-c", "echo here; exec sleep 600"])
            assert await process.stdout.readline() == b"here\n"
            waiting = asyncio.create_task(process.wait())
            proxy.upstream = other
            proxy.cut()
            with pytest.raises(SessionLost, match="could not be resumed: unknown session id"):
                await waiting
            with pytest.raises(SessionLost):
                await process.stdout.read()
            with pytest.raises(SessionLost):
                await client.run(["true"])
            with pytest.raises(SessionLost):
                await client.fs.listdir("/")
            await client.aclose()


async def test_unreachable_server(target: Target) -> None:
    """When the server stays away, the session is lost after the time allowed."""
    async with CuttingProxy(url_of(target)) as proxy:
        client = await connect_websocket(proxy.url, resume_timeout=0.3)
        process = await client.start(["sleep", "600"])
        running = asyncio.create_task(client.run(["sleep", "600"]))
        await client.run(["true"])
        proxy.refuses = True
        proxy.cut()
        for waiting in (process.wait(), process.wait_closed(), running, process.stdout.read()):
            with pytest.raises(SessionLost, match="could not be resumed"):
                await waiting
        await client.aclose()


async def test_without_resuming(target: Target) -> None:
    """A client that does not resume fails everybody at once."""
    async with CuttingProxy(url_of(target)) as proxy:
        client = await connect_websocket(proxy.url, resume_timeout=0)
        process = await client.start(["cat"], stdin=True)
        waiting = [
            asyncio.create_task(process.wait()),
            asyncio.create_task(process.wait_closed()),
            asyncio.create_task(process.read(wait=60)),
            asyncio.create_task(anext(process)),
            asyncio.create_task(client.run(["sleep", "600"])),
        ]
        await client.run(["true"])
        proxy.cut()
        for task in waiting:
            with pytest.raises(ConnectionLost, match=re.escape(proxy.url)):
                await task
        with pytest.raises(ConnectionLost):
            await process.write(b"x")
        with pytest.raises(ConnectionLost):
            await client.start(["true"])
        await client.aclose()


async def test_leaving_and_taking_up(target: Target) -> None:
    """A session that one client leaves is taken up by another, processes, output and input."""
    url = url_of(target)
    client = await connect_websocket(url)
    process = await client.start(["cat"], stdin=True, process_id="mine")
    await process.write(b"first ")
    assert await process.stdout.readexactly(6) == b"first "
    session_id = client.session_id
    await client.aclose(detach=True)
    async with connect_websocket(url, session_id=session_id) as other:
        assert other.session_id == session_id
        taken = await other.attach("mine")
        await taken.write(b"second")
        assert await taken.stdout.readexactly(12) == b"first second"
        with pytest.raises(Exception, match="unknown process id theirs"):
            await other.attach("theirs")
    with pytest.raises(ConnectFailed, match="refused the session: unknown session id nobody"):
        await connect_websocket(url, session_id="nobody")


async def test_closing_ends_processes(target: Target, tmp_path: Path) -> None:
    """Closing a client kills what it started, although the session would be kept."""
    async with connect_websocket(url_of(target)) as client:
        process = await client.start(["sh", "-c", "echo $$; exec sleep 600"])
        pid = int(await process.stdout.readline())
    assert await eventually(lambda: is_gone(pid))
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await client.run(["true"])
    await client.aclose()


@pytest.mark.revisions("v2")
async def test_open_file_is_lost(target: Target, tmp_path: Path) -> None:
    """An open file is gone with its connection, and says so."""
    (tmp_path / "file").write_bytes(bytes(10_000_000))
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url) as client,
    ):
        file = await client.fs.open_read(tmp_path / "file")
        assert len(await file.read(10)) == 10
        proxy.cut()
        await client.run(["true"])
        with pytest.raises(ConnectionLost, match="on a connection that was lost"):
            await file.read()
        await file.aclose()


async def test_the_command_goes_on(target: Target) -> None:
    """``exec-server run`` shows everything and exits as it would, over lost connections."""
    script = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 3"
    async with CuttingProxy(url_of(target)) as proxy:
        process = await asyncio.create_subprocess_exec(
            *(SCRIPT, "run", "--url", proxy.url, "--", "sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        output = []
        async for line in process.stdout:
            output.append(int(line))
            if output[-1] in (20, 60):
                proxy.cut()
        assert output == list(range(100))
        assert await process.wait() == 3
        assert proxy.connections > 1


async def test_silent_connection(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing arrives, not even an answer to a ping, is lost."""
    monkeypatch.setattr(websocket, "KEEPALIVE_SECONDS", 0.3)
    async with (
        CuttingProxy(url_of(target)) as proxy,
        connect_websocket(proxy.url, initialize_timeout=1) as client,
    ):
        greeted = proxy.sent_by_client
        # Without an answer, the connection would have been given up after the second ping.
        assert await eventually(lambda: proxy.sent_by_client > greeted + 2)
        assert proxy.connections == 1, "answers to pings count"
        proxy.is_mute = True
        assert await eventually(lambda: proxy.connections > 1)
        proxy.is_mute = False
        assert (await client.run(["echo", "hi"])).stdout == b"hi\n"
