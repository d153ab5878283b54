"""HTTP requests that the server makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from exec_server.client import BodyTooFast, ClientError, ServerError, Unsupported
from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.targets import Target

pytestmark = pytest.mark.revisions("v1", "v2")

LARGE = 3_000_000


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request of a small web server."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    method, path, _ = head.split("\r\n")[0].split(" ")
    headers = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    body = await reader.readexactly(length)
    status, more, content = "200 OK", "", b""
    if path == "/echo":
        seen = {"method": method, "headers": headers, "body": body.decode()}
        content = json.dumps(seen).encode()
        more = "x-repeated: 1\r\nX-Repeated: 2\r\n"
    elif path == "/missing":
        status, content = "404 Not Found", b"nothing here"
    elif path == "/moved":
        status, more = "302 Found", "location: /missing\r\n"
    elif path == "/large":
        content = bytes(LARGE)
    elif path == "/cut":
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        writer.close()
        return
    elif path == "/never":
        await reader.read()
        writer.close()
        return
    writer.write(f"HTTP/1.1 {status}\r\n{more}content-length: {len(content)}\r\n".encode())
    writer.write(b"connection: close\r\n\r\n" + content)
    with contextlib.suppress(OSError):
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def web_server() -> AsyncIterator[str]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between a server in this process and the web server."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def test_request(target: Target) -> None:
    """Method, headers and body go there; status, headers and body come back."""
    async with web_server() as url, target.connect() as client:
        response = await client.http.request(
            "PUT", f"{url}/echo", headers={"X-One": "1"}, body=b"hello", timeout=PATIENCE
        )
        seen = json.loads(response.text)
        assert (response.status, seen["method"], seen["body"]) == (200, "PUT", "hello")
        assert ["x-one", "1"] in [[name.lower(), value] for name, value in seen["headers"]]
        assert [value for name, value in response.headers if name == "x-repeated"] == ["1", "2"]
        assert response.header("X-Repeated") == "1"
        assert response.header("nothing") is None
        repeated = await client.http.request(
            "GET", f"{url}/echo", headers=[("x-a", "1"), ("x-a", "2")]
        )
        names = [name.lower() for name, _ in json.loads(repeated.text)["headers"]]
        assert names.count("x-a") == 2


async def test_statuses_and_redirects(target: Target) -> None:
    """An error status is a response; redirects are followed unless they are not wanted."""
    async with web_server() as url, target.connect() as client:
        followed = await client.http.request("GET", f"{url}/moved")
        assert (followed.status, followed.body) == (404, b"nothing here")
        if target.revision == "v1":
            with pytest.raises(Unsupported, match="follows redirects"):
                await client.http.request("GET", f"{url}/moved", follow_redirects=False)
        else:
            stopped = await client.http.request("GET", f"{url}/moved", follow_redirects=False)
            assert (stopped.status, stopped.header("location")) == (302, "/missing")


async def test_failures(target: Target) -> None:
    """No response is an error, and none in time is a timeout."""
    async with web_server() as url, target.connect() as client:
        with pytest.raises(ServerError, match="http/request failed"):
            await client.http.request("GET", "http://127.0.0.1:1/")
        with pytest.raises(ServerError, match="only supports http and https") as unusable:
            await client.http.request("GET", "ftp://127.0.0.1/")
        assert unusable.value.code == -32602
        with pytest.raises(TimeoutError, match=r"no response from .* in 0\.3 s"):
            await client.http.request("GET", f"{url}/never", timeout=0.3)


async def test_streams(target: Target) -> None:
    """A body is iterated over as it comes, several at once, and requests are served meanwhile."""
    async with web_server() as url, target.connect() as client:
        async with (
            client.http.stream("GET", f"{url}/large") as one,
            client.http.stream("GET", f"{url}/large") as other,
        ):
            assert (one.status, one.header("content-length")) == (200, str(LARGE))
            assert (await client.run(["echo", "hi"])).stdout == b"hi\n"
            assert sum([len(piece) async for piece in one]) == LARGE
            assert await other.read() == bytes(LARGE)
            assert await other.read() == b""
        async with client.http.stream("GET", f"{url}/missing") as response:
            assert (response.status, await response.read()) == (404, b"nothing here")


async def test_broken_streams(target: Target) -> None:
    """A body that breaks off, or that comes faster than it is read, is an error."""
    async with web_server() as url, target.connect() as client:
        async with client.http.stream("GET", f"{url}/cut") as response:
            assert await anext(response) == b"only this"
            with pytest.raises(ClientError, match="broke off"):
                await response.read()
        async with client.http.stream("GET", f"{url}/large", buffer_bytes=100_000) as response:
            await anext(response)
            assert await eventually(lambda: response._body._failure is not None)
            with pytest.raises(BodyTooFast):
                await response.read()
        async with client.http.stream("GET", f"{url}/large") as response:
            pass
        assert (await client.run(["echo", "hi"])).stdout == b"hi\n"


async def test_blocking_stream(target: Target) -> None:
    """A body that must come whole slows its server down."""
    async with (
        web_server() as url,
        target.connect() as client,
        client.http.stream(
            "GET", f"{url}/large", buffer_bytes=100_000, overflow="block"
        ) as response,
    ):
        size = 0
        async for piece in response:
            size += len(piece)
            await asyncio.sleep(0.002)
        assert size == LARGE


@pytest.mark.revisions("v0")
async def test_without_http(target: Target) -> None:
    """Revision v0 makes no requests, and has no files, and says so."""
    async with target.connect() as client:
        with pytest.raises(Unsupported, match="HTTP requests"):
            await client.http.request("GET", "http://127.0.0.1/")
        with pytest.raises(Unsupported, match="files"):
            await client.fs.read_bytes("/etc/hostname")
        assert (await client.environment()).cwd is None
