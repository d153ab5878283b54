"""Servers behind TLS: who is trusted, and that nothing else is different."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from exec_server.client import ConnectFailed, Exited, Output, connect, connect_websocket, sync
from exec_server.client.transports import websocket
from tests.support.lossy_proxy import CuttingProxy
from tests.support.targets import listening
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.targets import Target

pytestmark = [pytest.mark.transports("ws"), pytest.mark.revisions("v1", "v2")]

SCRIPT = str(Path(sys.executable).with_name("exec-server"))


class Authority:
    """Who vouches for servers and clients."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.client_cert = folder / "client.pem"
        self.client_key = folder / "client.key"
        own = self.ca.issue_cert("client.test")
        own.cert_chain_pems[0].write_to_path(self.client_cert)
        own.private_key_pem.write_to_path(self.client_key)

    def server(self, name: str = "127.0.0.1", *, asks: bool = False) -> ssl.SSLContext:
        """A server of that name; ``asks``: only for clients that have a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        if asks:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    return Authority(tmp_path_factory.mktemp("authority"))


def url_of(target: Target) -> str:
    assert target.servers is not None
    return target.servers.url(target)


async def test_everything_passes_through(target: Target, authority: Authority) -> None:
    """Output, input, large files and many requests at once, as without TLS."""
    data = hashlib.shake_128(b"seed").digest(5_000_000)
    async with (
        CuttingProxy(url_of(target), tls=authority.server()) as proxy,
        connect(proxy.url, ca_file=authority.ca_file) as client,
    ):
        assert client.target.startswith("wss://")
        done = await client.run(["sha256sum"], input=data)
        assert done.text.split()[0] == hashlib.sha256(data).hexdigest()
        done = await client.run(["head", "-c", "20000000", "/dev/zero"])
        assert done.stdout == bytes(20_000_000)
        runs = [client.run(["echo", str(number)]) for number in range(20)]
        assert [run.text for run in await asyncio.gather(*runs)] == [f"{n}\n" for n in range(20)]


async def test_files_of_many_frames(
    target: Target, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that are longer than a frame, and than what waits on the way."""
    monkeypatch.setattr(websocket, "FRAME_BYTES", 100_000)
    data = hashlib.shake_128(b"file").digest(10_000_000)
    async with (
        CuttingProxy(url_of(target), tls=authority.server()) as proxy,
        connect(proxy.url, ca_file=authority.ca_file) as client,
    ):
        await client.fs.write_bytes(tmp_path / "file", data)
        assert await client.fs.read_bytes(tmp_path / "file") == data


async def test_a_lost_connection_is_resumed(target: Target, authority: Authority) -> None:
    """The handshake is done anew, and no event is lost."""
    script = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 3"
    async with (
        CuttingProxy(url_of(target), tls=authority.server()) as proxy,
        connect_websocket(proxy.url, ca_file=authority.ca_file) as client,
    ):
        process = await client.start(["sh", "-c", script])
        output = b""
        codes = []
        async for event in process:
            if isinstance(event, Output):
                output += event.data
                if output.count(b"\n") in (20, 60):
                    proxy.cut()
            elif isinstance(event, Exited):
                codes.append(event.code)
        assert output.split() == [b"%d" % n for n in range(100)]
        assert codes == [3]
        assert proxy.connections > 1


async def test_a_context_of_ones_own(target: Target, authority: Authority) -> None:
    """A server may ask for a certificate of the client."""
    context = ssl.create_default_context(cafile=authority.ca_file)
    async with CuttingProxy(url_of(target), tls=authority.server(asks=True)) as proxy:
        with pytest.raises(ConnectFailed, match=r"TLS failed|refused the connection"):
            await connect(proxy.url, tls=context)
        context.load_cert_chain(authority.client_cert, authority.client_key)
        async with connect(proxy.url, tls=context) as client:
            assert (await client.run(["echo", "in"])).text == "in\n"


async def test_who_is_not_trusted(target: Target, authority: Authority) -> None:
    """Unknown authorities and other names are refused, in words."""
    async with CuttingProxy(url_of(target), tls=authority.server()) as proxy:
        with pytest.raises(ConnectFailed, match="certificate is not valid: unable to get local"):
            await connect(proxy.url)
    async with CuttingProxy(url_of(target), tls=authority.server("other.test")) as proxy:
        with pytest.raises(ConnectFailed, match="certificate is not valid: IP address mismatch"):
            await connect(proxy.url, ca_file=authority.ca_file)


async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_what_is_no_tls(target: Target, authority: Authority, tmp_path: Path) -> None:
    """Wrong schemes and wrong files are told."""
    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed, match="TLS failed: "):
            await connect(f"wss://127.0.0.1:{port}", ca_file=authority.ca_file)
    plain = url_of(target)
    with pytest.raises(ConnectFailed, match="TLS is for wss:// alone"):
        await connect(plain, ca_file=authority.ca_file)
    with pytest.raises(ConnectFailed, match="none: No such file or directory"):
        await connect("wss://127.0.0.1:1", ca_file=tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConnectFailed, match="empty: there is no certificate in it"):
        await connect("wss://127.0.0.1:1", ca_file=tmp_path / "empty")
    async with CuttingProxy(plain, tls=authority.server()) as proxy:
        with pytest.raises(ConnectFailed, match=r"refused the connection|broke"):
            await connect(proxy.url.replace("wss:", "ws:"))


async def test_without_an_event_loop(target: Target, authority: Authority) -> None:
    """The synchronous client takes the same options."""
    async with CuttingProxy(url_of(target), tls=authority.server()) as proxy:

        def run() -> str:
            with sync.connect(proxy.url, ca_file=authority.ca_file) as client:
                return client.run(["echo", "sync"]).text

        assert await asyncio.to_thread(run) == "sync\n"


@pytest.mark.ours
async def test_this_projects_server(target: Target, authority: Authority, tmp_path: Path) -> None:
    """The server's own TLS, and what was left over it."""
    own = authority.ca.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    own.private_key_pem.write_to_path(tmp_path / "key")
    files = ("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"))
    with listening(target, *files, address="wss://127.0.0.1:0") as url:
        async with connect(url, ca_file=authority.ca_file) as client:
            assert (await client.run(["cat"], input=bytes(3_000_000))).stdout == bytes(3_000_000)
            process = await client.start(["sh", "-c", "echo left; exec sleep 600"])
            session_id = client.session_id
            assert await process.stdout.readline() == b"left\n"
            await client.aclose(detach=True)
        async with connect(url, ca_file=authority.ca_file, session_id=session_id) as client:
            process = await client.attach(process.id)
            assert await process.stdout.readline() == b"left\n"


async def script(url: str, *arguments: str, **variables: str) -> tuple[int, bytes, str]:
    """Exit code, output and errors of ``exec-server``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXEC_SERVER")}
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        *arguments,
        env={**kept, "EXEC_SERVER_URL": url, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout, stderr.decode()


async def test_the_command_trusts_a_file(target: Target, authority: Authority) -> None:
    """By an option or a variable; without one the certificate is refused."""
    run = ("run", "--", "echo", "in")
    ca_file = str(authority.ca_file)
    async with CuttingProxy(url_of(target), tls=authority.server()) as proxy:
        assert await script(proxy.url, *run, EXEC_SERVER_CA_FILE=ca_file) == (0, b"in\n", "")
        by_option = (run[0], "--ca-file", ca_file, *run[1:])
        assert await script(proxy.url, *by_option) == (0, b"in\n", "")
        code, output, errors = await script(proxy.url, *run)
        assert (code, output, errors.count("\n")) == (125, b"", 1)
        assert "certificate is not valid" in errors
    # A variable that is about TLS does not stand in the way of servers without.
    assert (await script(url_of(target), *run, EXEC_SERVER_CA_FILE=ca_file))[0] == 0


async def test_the_command_shows_a_certificate(target: Target, authority: Authority) -> None:
    """The client's certificate and its key are files too."""
    run = ("run", "--", "echo", "in")
    files = {
        "EXEC_SERVER_CA_FILE": str(authority.ca_file),
        "EXEC_SERVER_CLIENT_CERT": str(authority.client_cert),
        "EXEC_SERVER_CLIENT_KEY": str(authority.client_key),
    }
    async with CuttingProxy(url_of(target), tls=authority.server(asks=True)) as proxy:
        assert await script(proxy.url, *run, **files) == (0, b"in\n", "")
        for name, words in (
            ("EXEC_SERVER_CLIENT_CERT", "--client-key requires --client-cert"),
            ("EXEC_SERVER_CLIENT_KEY", "client.pem: a certificate and its key are expected"),
        ):
            code, output, errors = await script(proxy.url, *run, **{**files, name: ""})
            assert (code, output, errors.count("\n")) == (125, b"", 1)
            assert words in errors


@pytest.mark.ours
async def test_the_command_reads_the_token_from_a_file(
    target: Target, authority: Authority, tmp_path: Path
) -> None:
    """Not from the command line, where everybody on the machine could read it."""
    (tmp_path / "token").write_text("open sesame\n")
    (tmp_path / "empty").write_text("\n")
    auth = ("--ws-auth", "capability-token", "--ws-token-file", str(tmp_path / "token"))
    run = ("run", "--token-file", str(tmp_path / "token"), "--", "echo", "in")
    variable = {"EXEC_SERVER_CA_FILE": str(authority.ca_file)}
    with listening(target, *auth) as url:
        async with CuttingProxy(url, tls=authority.server()) as proxy:
            assert await script(proxy.url, *run, **variable) == (0, b"in\n", "")
            variable["EXEC_SERVER_TOKEN_FILE"] = str(tmp_path / "token")
            assert await script(proxy.url, run[0], *run[3:], **variable) == (0, b"in\n", "")
            for name, words in (("empty", "contains no token"), ("none", "No such file")):
                variable["EXEC_SERVER_TOKEN_FILE"] = str(tmp_path / name)
                code, output, errors = await script(proxy.url, run[0], *run[3:], **variable)
                assert (code, output, errors.count("\n")) == (125, b"", 1)
                assert words in errors
