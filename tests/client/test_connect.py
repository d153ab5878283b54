"""Connecting, shaking hands, and being refused; starting and ending servers."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from exec_server.client import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    connect,
    connect_in_process,
    connect_stdio,
    connect_websocket,
)
from exec_server_protocol.v2 import FsWalkParams
from tests.support.fake_channel import GREETINGS, SHELL, Peer, fake_server
from tests.support.targets import PROGRAM, listening
from tests.support.waiting import eventually, is_gone

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.targets import Target

GRACEFUL = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "print('last words', file=sys.stderr)\n"
)
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
GREETER = (
    "import os, json, time\n"
    "open({path!r}, 'w').write(str(os.getpid()))\n"
    "input(); print(json.dumps({{'id': 1, 'result': {greeting!r}}}), flush=True)\n"
)


def server_in_python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_revision_is_found_out(target: Target) -> None:
    """The newest revision that the server speaks is used; the same server can be told another."""
    async with target.connect() as client:
        assert client.revision == target.revision
        assert (client.session_id is None) == (target.revision == "v0")
        assert target.revision in repr(client)


@pytest.mark.ours
@pytest.mark.revisions("draft")
async def test_revision_is_chosen(target: Target) -> None:
    """A server that speaks every revision speaks the one that the client chooses."""
    for revision in ("v1", "v2", "draft"):
        async with target.connect(revision=revision) as client:
            assert client.revision == revision
            assert (await client.run(["pwd"], cwd="/usr")).stdout == b"/usr\n"


async def test_connecting_by_name() -> None:
    """One function reaches every kind of server."""
    async with connect(f"stdio:{shlex.quote(PROGRAM)} --protocol v1") as client:
        assert client.revision == "v1"
    async with connect("in-process:") as client:
        assert (await client.run(["echo", "hi"])).stdout == b"hi\n"
    client = await connect("in-process:")
    await client.aclose()
    await client.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "tcp://127.0.0.1:1",
            "expected ws://HOST:PORT, wss://HOST, unix:///PATH, stdio:COMMAND or in-process:",
        ),
        ("stdio:", "there is no command"),
        ("stdio:'", "No closing quotation"),
        ("stdio:/nowhere/server", "cannot start '/nowhere/server': No such file or directory"),
        ("ws://127.0.0.1:1", "cannot connect to ws://127.0.0.1:1: Connection refused"),
        ("ws://", "cannot connect to 'ws://'"),
        ("unix://tmp/socket", "cannot connect to 'unix://tmp/socket': expected unix:///PATH"),
        ("unix:///no/such", "cannot connect to unix:///no/such: No such file or directory"),
        ("wss://127.0.0.1:1", "cannot connect to wss://127.0.0.1:1: Connection refused"),
        ("ws://no.such.host.invalid:1", "cannot connect to ws://no.such.host.invalid:1"),
    ],
)
async def test_unusable_targets(url: str, reason: str) -> None:
    """What cannot be connected to is said, and why."""
    with pytest.raises(ConnectFailed, match=re.escape(reason)):
        await connect(url)


async def test_no_websocket_server() -> None:
    """A server of something else is told from a refusal."""

    async def speak_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak_ssh, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConnectFailed, match="refused the connection"):
            await connect(f"ws://127.0.0.1:{port}")


@pytest.mark.transports("ws")
async def test_refusal_is_quoted(target: Target) -> None:
    """The status and the words of an HTTP refusal are in the error."""
    assert target.servers is not None
    with pytest.raises(ConnectFailed, match="refused the connection: 404"):
        await connect_websocket(f"{target.servers.url(target)}/elsewhere")


async def test_token_is_sent() -> None:
    """The token comes as a bearer token; without it the server says what is missing."""
    tokens = []

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        tokens.append(re.findall(r"(?mi)^authorization: (.*)\r$", head))
        body = b"missing websocket bearer token"
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(door, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        for token in ("s3cret", None):
            with pytest.raises(ConnectFailed, match="401 missing websocket bearer token"):
                await connect(url, token=token)
    assert tokens == [["Bearer s3cret"], []]


async def test_connect_timeout() -> None:
    """A server that does not shake hands in time is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectTimedOut, match=r"no connection to .* within 0\.2 s"):
            await connect(url, connect_timeout=0.2)


async def test_initialize_timeout(tmp_path: Path) -> None:
    """A server that does not answer initialize is given up, and ended if it was started here."""

    async def stay_silent(peer: Peer) -> None:
        await peer.request("initialize")

    async with fake_server(stay_silent) as url:
        with pytest.raises(ConnectTimedOut, match=r"did not answer initialize within 0\.2 s"):
            await connect(url, initialize_timeout=0.2)
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    with pytest.raises(ConnectTimedOut):
        await connect_stdio(server_in_python(f"{code}; time.sleep(600)"), initialize_timeout=2)
    assert is_gone(int((tmp_path / "pid").read_text()))


async def test_no_exec_server() -> None:
    """A JSON-RPC server of something else is said to be none."""

    async def greet(peer: Peer) -> None:
        await peer.answer(await peer.request("initialize"), {"hello": "world"})

    async with fake_server(greet) as url:
        with pytest.raises(ConnectFailed, match="is not an exec-server"):
            await connect(url)


@pytest.mark.parametrize("revision", sorted(GREETINGS))
async def test_greetings(revision: str) -> None:
    """The answer to initialize tells the revision, and an unknown method tells v1 from early v2."""

    async def play(peer: Peer) -> None:
        return

    async with fake_server(play, GREETINGS[revision]) as url, connect(url) as client:
        assert client.revision == revision


async def test_early_v2() -> None:
    """A server that greets like v1 but knows a method of v2 speaks v2 (codex 0.143 to 0.149)."""

    async def play(peer: Peer) -> None:
        await peer.answer(await peer.request("initialize"), {"sessionId": "s"})
        await peer.request("initialized")
        probe = await peer.request("fs/walk")
        msgspec.convert(probe["params"], FsWalkParams)
        await peer.answer(probe, {"entries": [], "errors": [], "truncated": True})

    async with fake_server(play) as url, connect(url) as client:
        assert client.revision == "v2"


async def test_everything_at_once() -> None:
    """A server that answers with what every revision wants speaks the newest."""
    greeting = {**GREETINGS["v0"], **GREETINGS["v2"]}

    async def play(peer: Peer) -> None:
        return

    async with fake_server(play, greeting) as url, connect(url) as client:
        assert client.revision == "v2"
        assert client.session_id == "s"


# A server process


async def test_server_is_ended(tmp_path: Path) -> None:
    """A started server gets SIGTERM, and is gone when the client is closed."""
    code = GREETER.format(path=str(tmp_path / "pid"), greeting=GREETINGS["v0"])
    client = await connect_stdio(server_in_python(f"{GRACEFUL}{code}time.sleep(600)"))
    pid = int((tmp_path / "pid").read_text())
    assert not is_gone(pid)
    await client.aclose()
    assert is_gone(pid)


async def test_stubborn_server_is_killed(tmp_path: Path) -> None:
    """A server that ignores SIGTERM and the end of its input is killed after two seconds."""
    code = GREETER.format(path=str(tmp_path / "pid"), greeting=GREETINGS["v0"])
    client = await connect_stdio(server_in_python(f"{STUBBORN}{code}time.sleep(600)"))
    pid = int((tmp_path / "pid").read_text())
    loop = asyncio.get_running_loop()
    started = loop.time()
    await client.aclose()
    assert is_gone(pid)
    assert 1.9 < loop.time() - started < 10


async def test_server_that_fails() -> None:
    """The exit code and the last words of a server that does not start are in the error."""
    with pytest.raises(ConnectFailed, match="exited with 1: Error: unsupported --listen URL"):
        await connect_stdio([PROGRAM, "--listen", "bogus"])


@pytest.mark.transports("stdio")
async def test_server_that_is_killed(target: Target) -> None:
    """When the server dies, everybody who waits is told how."""
    client = await target.connect()
    env = {"PATH": "/usr/bin:/bin"}
    process = await client.start(["sh", "-c", "echo $PPID; exec sleep 600"], env=env)
    server = int(await process.stdout.readline())
    waiting = asyncio.create_task(process.wait())
    running = asyncio.create_task(client.run(["sleep", "600"], env=env))
    await client.run(["true"], env=env)
    os.kill(server, signal.SIGKILL)
    for task in (waiting, running):
        with pytest.raises(ConnectionLost, match="killed by SIGKILL"):
            await task
    with pytest.raises(ConnectionLost):
        await client.start(["true"], env=env)
    await client.aclose()


async def test_forgotten_client(tmp_path: Path) -> None:
    """A program that ends without closing its client leaves no server and no process behind."""
    script = (
        "import asyncio, os, sys\n"
        "from exec_server.client import connect_stdio\n"
        "async def main():\n"
        f"    client = await connect_stdio([{PROGRAM!r}])\n"
        "    process = await client.start(['sh', '-c', 'echo $$ $PPID; exec sleep 600'])\n"
        "    print((await process.stdout.readline()).decode(), flush=True)\n"
        "    if sys.argv[1] == 'kill': os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    for way in ("return", "kill"):
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, way, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await program.communicate()
        for pid in map(int, output.split()):
            assert await eventually(lambda pid=pid: is_gone(pid))


async def test_server_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A started server runs where and with what it is told to; what it says is logged."""
    code = (
        "import os, sys\n"
        "print(os.getcwd(), os.environ['GREETING'], file=sys.stderr, flush=True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    caplog.set_level(logging.DEBUG, "exec_server.client")
    argv = [sys.executable, "-c", code, PROGRAM]
    async with connect_stdio(argv, cwd=str(tmp_path), env={"GREETING": "hi"}) as client:
        done = await client.run(["sh", "-c", 'pwd; echo "$GREETING"'])
        assert done.text == f"{tmp_path}\nhi\n"
    assert f"{tmp_path} hi" in caplog.text


async def test_in_process_ends_processes() -> None:
    """Processes of a server in this process end with the client."""
    client = await connect_in_process()
    process = await client.start(["sh", "-c", "echo $$; exec sleep 600"])
    pid = int(await process.stdout.readline())
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await waiting
    assert is_gone(pid)


async def test_which_sessions_can_be_left(target: Target) -> None:
    """Those of servers that listen, where the revision has sessions."""
    async with target.connect() as client:
        assert client.can_detach == (target.transport == "ws" and target.revision != "v0")


@pytest.mark.ours
@pytest.mark.transports("ws")
@pytest.mark.revisions("v1", "v2")
async def test_a_socket_in_the_file_system(target: Target) -> None:
    """With sessions, as over TCP."""
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(target, address=f"unix://{folder}/socket") as url,
    ):
        assert url == f"unix://{folder}/socket"
        async with connect(url) as client:
            assert (await client.run(["echo", "hi"])).stdout == b"hi\n"
            process = await client.start(["sleep", "600"])
            await client.aclose(detach=True)
        async with connect(url, session_id=client.session_id) as second:
            assert await (await second.attach(process.id)).terminate()


@pytest.mark.parametrize("requested", ["v0", "v1", "v2", "draft"])
@pytest.mark.parametrize("spoken", ["v0", "v1", "v2", "auto"])
async def test_requested_revision_is_verified(spoken: str, requested: str) -> None:
    """A revision is used only if the server supports it."""
    connecting = connect_stdio([PROGRAM, "--protocol", spoken], revision=requested)
    if spoken in (requested, "auto"):
        async with connecting as client:
            assert client.revision == requested
            assert (await client.run(["true"], env={"PATH": "/usr/bin:/bin"})).returncode == 0
    else:
        with pytest.raises(ConnectFailed, match=f"does not support revision {requested}, only"):
            await connecting


async def test_null_members_of_the_environment() -> None:
    """codex reports a removed working directory as null; the client starts in ``/`` then."""
    info = {"shell": SHELL, "cwd": None, "userHomeDir": "file:///home", "capabilities": None}

    async def play(peer: Peer) -> None:
        start = await peer.request("process/start")
        assert start["params"]["cwd"] == "file:///"
        await peer.answer(start, {"processId": start["params"]["processId"]})

    greeting = {"sessionId": "s", "environmentInfo": info}
    async with fake_server(play, greeting) as url, connect(url) as client:
        environment = await client.environment()
        assert (environment.cwd, environment.home) == (None, "/home")
        await client.start(["true"])


async def test_v2_server_without_environment_info() -> None:
    """A v2 server that does not report its directory starts programs in ``/``."""

    async def play(peer: Peer) -> None:
        missing = {"code": -32601, "message": "no such method"}
        await peer.answer(await peer.request("initialize"), {"sessionId": "s"})
        await peer.request("initialized")
        await peer.answer(await peer.request("fs/walk"), {})
        asked = await peer.request("environment/info")
        await peer.send({"id": asked["id"], "error": missing})
        start = await peer.request("process/start")
        assert start["params"]["cwd"] == "file:///"
        await peer.answer(start, {"processId": start["params"]["processId"]})

    async with fake_server(play) as url, connect(url) as client:
        assert client.revision == "v2"
        await client.start(["true"])
