"""Arguments that are wrong, and secrets in those that are right."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.client import (
    ClientError,
    CommandFailed,
    CommandTimedOut,
    ConnectFailed,
    InputRefused,
    connect,
    connect_in_process,
    connect_stdio,
    connect_websocket,
)
from tests.support.fake_channel import GREETINGS, Peer, fake_server
from tests.support.targets import PROGRAM
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from exec_server.client import Client
    from tests.support.targets import Target

SECRET = "s3cr3t-0123456789"


def told(error: BaseException) -> str:
    """All that an exception shows of itself and of what caused it."""
    return "".join(traceback.format_exception(error)) + repr(error)


WRONG: list[tuple[str, Callable[[Client], Any], str]] = [
    ("argv str", lambda c: c.run("ls -l"), "argv: expected a sequence"),
    ("argv bytes", lambda c: c.run(b"ls"), "argv: expected a sequence"),
    ("argv path", lambda c: c.run(Path("/bin/ls")), "argv: expected a sequence"),
    ("argv empty", lambda c: c.run([]), "argv: expected a program"),
    ("argv number", lambda c: c.run(["ls", 5]), r"argv\[1\]: expected str, bytes or a path"),
    ("argv undecodable", lambda c: c.run(["ls", b"\xff"]), r"argv\[1\]: it is not UTF-8"),
    ("argv surrogate", lambda c: c.run(["ls", "\udcff"]), r"argv\[1\]: it is not UTF-8"),
    ("argv null", lambda c: c.run(["ls", "a\0b"]), r"argv\[1\]: it contains a null"),
    ("input", lambda c: c.run(["cat"], input="text"), "input: expected bytes, not str"),
    ("timeout", lambda c: c.run(["cat"], timeout="2"), "timeout: expected seconds"),
    ("timeout nan", lambda c: c.run(["cat"], timeout=float("nan")), "timeout: expected zero"),
    ("limit", lambda c: c.run(["cat"], limit=-1), "limit: expected 0 or more"),
    ("cwd", lambda c: c.run(["pwd"], cwd=5), "cwd: expected str, bytes or a path"),
    ("env", lambda c: c.run(["env"], env=["A=1"]), "env: expected a mapping"),
    ("env name", lambda c: c.run(["env"], env={"A=1": "2"}), "env: 'A' with '='"),
    ("env value", lambda c: c.run(["env"], env={"A": 5}), r"env\['A'\]: expected str"),
    ("inherit", lambda c: c.run(["env"], inherit="most"), "inherit: expected one of all, core"),
    ("size", lambda c: c.run(["tty"], size=(24, 80)), "size: only a process with a terminal"),
    ("size rows", lambda c: c.start(["tty"], tty=True, size=(0, 80)), r"size\[0\]: expected 1"),
    ("overflow", lambda c: c.start(["ls"], overflow="foo"), "overflow: expected one of block"),
    ("buffer", lambda c: c.start(["ls"], buffer_bytes=0), "buffer_bytes: expected 1 or more"),
    ("process id", lambda c: c.start(["ls"], process_id=5), "process_id: expected str"),
    ("attach", lambda c: c.attach(5), "process_id: expected str"),
    ("path", lambda c: c.fs.stat(5), "path: expected str, bytes or a path"),
    ("path relative", lambda c: c.fs.stat("here"), "path: paths on the server are absolute"),
    ("path null", lambda c: c.fs.stat("/a\0b"), "path: it contains a null"),
    ("data", lambda c: c.fs.write_bytes("/tmp/x", "text"), "data: expected bytes, not str"),
    ("url", lambda c: c.http.request("GET", 5), "url: expected str"),
    ("headers", lambda c: c.http.request("GET", "http://h", headers="a: b"), "headers: expected"),
    ("body", lambda c: c.http.request("GET", "http://h", body="text"), "body: expected bytes"),
]


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in WRONG], ids=[w[0] for w in WRONG])
async def test_a_wrong_argument_is_named(call: Callable[[Client], Any], words: str) -> None:
    """Nothing is sent, and nothing waits."""
    async with connect_in_process() as client, asyncio.timeout(PATIENCE):
        with pytest.raises((TypeError, ValueError), match=words):
            await call(client)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"revision": "v9"}, "revision: expected one of"),
        ({"token": SECRET}, "token: applies to listening servers only"),
        ({"session_id": "x"}, "session_id: applies to listening servers only"),
        ({"client_name": 5}, "client_name: expected str"),
        ({"initialize_timeout": -1}, "initialize_timeout: expected zero or more"),
        ({"max_message_bytes": 0}, "max_message_bytes: expected 1 or more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_of_connect_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        connect("stdio:server", **options)
    assert SECRET not in told(caught.value)


async def test_arguments_as_subprocess_takes_them(tmp_path: Path) -> None:
    (tmp_path / "ü").write_bytes(b"content")
    async with connect_in_process() as client:
        done = await client.run(["cat", b"\xc3\xbc"], cwd=tmp_path)
        assert done.stdout == b"content"
        done = await client.run([Path("/bin/cat"), tmp_path / "ü"], cwd=bytes(tmp_path))
        assert done.stdout == b"content"
        done = await client.run(["sh", "-c", "echo $A $B"], env={"A": b"x", "B": Path("/y")})
        assert done.stdout == b"x /y\n"
        done = await client.run(["cat"], input=bytearray(b"data"))
        assert done.stdout == b"data"
        await client.fs.write_bytes(bytes(tmp_path / "b"), memoryview(b"view"))
    assert (tmp_path / "b").read_bytes() == b"view"


async def test_a_revision_is_not_claimed() -> None:
    """A server that does not speak the chosen revision is told from one that does."""
    for arguments, revision in ((["--protocol", "v1"], "v2"), (["--protocol", "v2"], "draft")):
        with pytest.raises(ConnectFailed, match=f"does not support revision {revision}"):
            await connect_stdio([PROGRAM, *arguments], revision=revision)  # type: ignore[arg-type]


# OSError and input


async def test_the_file_name_of_an_error_is_the_path(target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = {"PATH": "/usr/bin:/bin"}
    async with target.connect() as client:
        for argv, cwd, name, code in (
            (["/nowhere/program"], None, "/nowhere/program", errno.ENOENT),
            (["no-such-program"], str(tmp_path), "no-such-program", errno.ENOENT),
            (["true"], "/nowhere", "/nowhere", errno.ENOENT),
            (["true"], str(tmp_path / "file"), str(tmp_path / "file"), errno.ENOTDIR),
        ):
            if target.revision == "v0" and name == cwd:
                continue  # it cannot be asked which of the two is missing
            with pytest.raises(OSError, match=r"No such file|Not a directory") as caught:
                await client.start(argv, cwd=cwd, env=path)
            assert (caught.value.filename, caught.value.errno) == (name, code)


async def test_input_after_its_end_is_refused() -> None:
    async with connect_in_process() as client:
        process = await client.start(["sleep", "60"], stdin=True)
        await process.close_stdin()
        with pytest.raises(InputRefused, match="was closed by close_stdin"):
            await process.write(b"more")
        await process.terminate()


# Secrets


@pytest.mark.parametrize(
    "token", [f"{SECRET}\nX: y", f"{SECRET}\x7f", f"{SECRET}ü"], ids=["line feed", "DEL", "umlaut"]
)
def test_an_unusable_token_is_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token: expected printable ASCII") as caught:
        connect("ws://127.0.0.1:1", token=token)
    assert SECRET not in told(caught.value)


async def test_white_space_around_a_token_is_stripped() -> None:
    async def play(peer: Peer) -> None:
        assert peer.websocket.request is not None
        assert peer.websocket.request.headers["Authorization"] == f"Bearer {SECRET}"

    async with fake_server(play, GREETINGS["v2"]) as url, connect(url, token=f" {SECRET}\n"):
        pass


@pytest.mark.parametrize(
    "url",
    [
        f"ws://me:{SECRET}@127.0.0.1:1",
        f"ws://127.0.0.1:1/?token={SECRET}",
        f"ws://127.0.0.1:{SECRET}",
        f"ws://me:{SECRET}@127.0.0.1:99999",
        f"ws://me:{SECRET}@[::1",
        f"ws://me:{SECRET}@[zz]:1",
        f"ws://{SECRET}@127.0.0.1",
        f"ws://127.0.0.1/#{SECRET}",
        f"ws://me:{SECRET}@{'x' * 70}.invalid:1",
        f"ws://me:{SECRET}@a..b:1",
        f"http://me:{SECRET}@127.0.0.1",
        f"stdio:server --token '{SECRET}",
        f"stdio:/nowhere/server --token {SECRET}",
        f"stdio:TOKEN={SECRET} server",
        f"stdio:false --token {SECRET}",
    ],
)
async def test_a_target_is_shown_without_secrets(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with it, it is ConnectFailed."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConnectFailed) as caught:
        await connect(url)
    if not url.endswith(f":{SECRET}"):  # a port is not where secrets are
        assert SECRET not in told(caught.value) + caplog.text


async def test_connections_are_named_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="exec_server")

    async def play(peer: Peer) -> None:
        await peer.receive()
        await peer.websocket.close(1011, "broken")

    async with fake_server(play, GREETINGS["v2"]) as url:
        secret = f"{url.replace('//', f'//me:{SECRET}@')}/?token={SECRET}"
        async with connect_websocket(secret, resume_timeout=0) as client:
            shown = repr(client) + client.target
            with pytest.raises(ClientError) as caught:
                await client.fs.stat("/")
    assert SECRET not in told(caught.value) + shown + caplog.text


async def test_arguments_and_variables_are_not_shown() -> None:
    async with connect_in_process() as client:
        process = await client.start(["sleep", SECRET], env={"TOKEN": SECRET})
        assert SECRET not in repr(process)
        with pytest.raises(CommandFailed) as failed:
            await client.run(["sh", "-c", "exit 3", SECRET], env={"T": SECRET}, check=True)
        with pytest.raises(CommandTimedOut) as late:
            await client.run(["sh", "-c", "exec sleep 60", SECRET], timeout=0.1)
        with pytest.raises(ValueError, match="env") as refused:
            await client.run(["true"], env={"TOKEN": f"{SECRET}\0"})
    for caught in (failed, late, refused):
        assert SECRET not in told(caught.value)
    assert failed.value.argv[-1] == SECRET


async def test_a_failed_http_request_is_told_without_its_secrets() -> None:
    url = f"http://me:{SECRET}@localhost:1/?token={SECRET}"

    async def play(peer: Peer) -> None:
        request = await peer.request("http/request")
        text = f"error sending request for url (http://localhost:1/?token={SECRET}): {SECRET}"
        error = {"code": -32603, "message": text}
        await peer.send({"id": request["id"], "error": error})

    async with fake_server(play, GREETINGS["v2"]) as place, connect(place) as client:
        with pytest.raises(ClientError, match="error sending request") as caught:
            await client.http.request("GET", url, headers={"X-Other": f"Bearer {SECRET}"})
    assert SECRET not in told(caught.value)


async def test_a_server_that_expects_tls_is_told() -> None:
    async def alert(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x15\x03\x01\x00\x02\x02\x46")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(alert, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match="it expects TLS; use wss://"):
            await connect(f"ws://127.0.0.1:{port}")


async def test_a_long_error_of_a_server_holds_nothing_up() -> None:
    """Searching it for a system error takes time in proportion to its length."""

    async def play(peer: Peer) -> None:
        request = await peer.request("fs/getMetadata")
        error = {"code": -32603, "message": "(os error " * 200_000}
        await peer.send({"id": request["id"], "error": error})

    async with fake_server(play, GREETINGS["v2"]) as url, connect(url) as client:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ClientError):
                await client.fs.stat("/")
