"""HTTP requests on behalf of a client (v1 http/request)."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.http.client import HttpClient, HttpRequest, HttpResponse
from exec_server.errors import InvalidArgument, OperationFailed
from tests.support.http_peer import (
    Conversation,
    Peer,
    Seen,
    answer,
    answering,
    exchange,
    fetch,
    make,
    redirect,
    run,
    saying,
    sent,
)
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_proxies")

BODY_ERROR = "error decoding response body"


class TestRequests:
    """Requests on the wire."""

    def test_only_what_is_needed_is_added(self) -> None:
        """No user agent, no accepted encodings, no length without a body."""
        peer = answering(answer())
        exchange(peer, "GET", "/a")
        seen = peer.requests[0]
        assert seen.line == b"GET /a HTTP/1.1"
        assert seen.headers == [b"host: 127.0.0.1:%d" % peer.port, b"accept: */*"]

    @pytest.mark.parametrize("method", ["GET", "get", "pOsT", "M-X!", "!#$%&'*+-.^_`|~", "TRACE"])
    def test_methods_keep_their_letters(self, method: str) -> None:
        """Any token."""
        assert sent(method, "/").method == method.encode()

    def test_headers_keep_order_letters_and_duplicates(self) -> None:
        """Values as UTF-8; only Host goes first; defaults only where nothing is given."""
        seen = sent(
            "GET",
            "/",
            ("X-B", "1"),
            ("x-a", "ü\t☃"),
            ("ACCEPT", "text/html"),
            ("x-b", "2"),
            ("X-Empty", ""),
            ("Host", "example.com"),
            ("accept", "text/plain"),
            ("User-Agent", "me"),
        )
        assert seen.headers == [
            b"Host: example.com",
            b"X-B: 1",
            "x-a: ü\t☃".encode(),
            b"ACCEPT: text/html",
            b"x-b: 2",
            b"X-Empty: ",
            b"accept: text/plain",
            b"User-Agent: me",
        ]

    def test_white_space_around_a_value_is_no_part_of_it(self) -> None:
        """RFC 9110, section 5.5."""
        assert sent("GET", "/", ("a", " \tx y\t ")).values(b"a") == [b"x y"]

    @pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
    def test_a_body_goes_with_its_length(self, method: str) -> None:
        """For any method."""
        seen = sent(method, "/", body=b"hello")
        assert (seen.body, seen.values(b"content-length")) == (b"hello", [b"5"])

    @pytest.mark.parametrize("body", [None, b""])
    def test_no_body_no_length(self, body: bytes | None) -> None:
        """Also for methods that usually have one."""
        assert sent("POST", "/", body=body).values(b"content-length") == []

    def test_a_given_length_is_used(self) -> None:
        """And not repeated."""
        seen = sent("POST", "/", ("Content-Length", "2"), body=b"hi")
        assert (seen.body, seen.values(b"content-length")) == (b"hi", [b"2"])

    @pytest.mark.parametrize(
        ("values", "body", "wrong"),
        [
            (["5"], b"hi", "5"),
            (["1"], b"hi", "1"),
            (["x"], b"hi", "x"),
            (["-1"], b"hi", "-1"),
            (["2, 2"], b"hi", "2, 2"),
            (["2", "3"], b"hi", "3"),
            (["5"], None, "5"),
            (["9" * 5000], b"", "9" * 5000),
        ],
    )
    def test_another_length_than_that_of_the_body(
        self, values: list[str], body: bytes | None, wrong: str
    ) -> None:
        """Is refused before anything is sent."""
        peer = answering(answer())
        headers = [("Content-Length", value) for value in values]
        with pytest.raises(InvalidArgument) as caught:
            exchange(peer, "POST", "/", *headers, body=body)
        assert peer.connections == 0
        assert str(caught.value) == (
            f"http/request header Content-Length is `{wrong}`, but the body has "
            f"{len(body or b'')} bytes"
        )

    @pytest.mark.parametrize(
        "headers",
        [
            [("Transfer-Encoding", "gzip")],
            [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "gzip")],
            [("Host", "a"), ("Host", "b")],
            [("Host", "a b\u00e9")],
            [("Expect", "100-continue")],
            [("Connection", "upgrade"), ("Upgrade", "websocket")],
            [("Connection", "close, keep-alive"), ("Keep-Alive", "x")],
            [("TE", "trailers"), ("Trailer", "x")],
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "CONNECT", "PRI"])
    def test_headers_of_the_connection(self, method: str, headers: list[tuple[str, str]]) -> None:
        """Are sent, or the request fails in words of its own; it is never a fault of the server."""
        peer = answering(answer())
        failure = None
        try:
            exchange(peer, method, "/", *headers, body=b"hi", timeout_ms=5000)
        except OperationFailed as error:
            failure = str(error)
        failed = "http/request failed: error sending request for url ("
        assert failure.startswith(failed) if failure else peer.requests

    def test_a_given_transfer_encoding_is_used(self) -> None:
        """The body goes in chunks then."""

        async def converse(peer: Peer, conversation: Conversation) -> None:
            peer.requests.append(await conversation.receive())
            assert await conversation.reader.readuntil(b"0\r\n\r\n") == b"2\r\nhi\r\n0\r\n\r\n"
            await conversation.send(answer(b"got it"))

        response = exchange(
            Peer(converse), "POST", "/", ("Transfer-Encoding", "chunked"), body=b"hi"
        )
        assert response.body == b"got it"

    def test_a_large_body(self) -> None:
        """Arrives whole."""
        body = os.urandom(1024) * 5000
        assert sent("PUT", "/", body=body).body == body

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("us%20er:p%3Aw", b"us er:p:w"),
            ("user", b"user:"),
            (":pw", b":pw"),
            ("ü@x:", "ü@x:".encode()),
        ],
    )
    def test_a_user_in_the_url_becomes_basic_authorization(
        self, user: str, expected: bytes
    ) -> None:
        """Percent-decoded; the URL goes without."""
        peer = answering(answer())

        async def go() -> None:
            async with peer.listening():
                await fetch(make("GET", f"http://{user}@127.0.0.1:{peer.port}/x"))

        run(go())
        assert peer.requests[0].target == b"/x"
        assert peer.requests[0].values(b"authorization") == [b"Basic " + base64.b64encode(expected)]

    def test_a_given_authorization_counts_more(self) -> None:
        """All of it."""
        peer = answering(answer())

        async def go() -> None:
            async with peer.listening():
                url = f"http://user:pw@127.0.0.1:{peer.port}/"
                await fetch(make("GET", url, ("Authorization", "a"), ("authorization", "b")))

        run(go())
        assert peer.requests[0].values(b"authorization") == [b"a", b"b"]

    def test_the_fragment_stays_here(self) -> None:
        """And what needs encoding is encoded."""
        assert sent("GET", "/a b/../ü?q=ö#frag").target == b"/%C3%BC?q=%C3%B6"


class TestAnswers:
    """Responses."""

    def test_status_headers_and_body(self) -> None:
        """Names in lower case, order and duplicates kept, what is not UTF-8 left out."""
        response = exchange(
            answering(
                answer(
                    b"body",
                    headers=(
                        b"Set-Cookie: a",
                        b"X-Z:  1 ",
                        b"set-cookie: b",
                        b"X-Bad: \xff",
                        b"X-Good: \xc3\xbc",
                        b"X-Empty:",
                    ),
                )
            ),
            "GET",
            "/",
        )
        assert response == HttpResponse(
            200,
            [
                ("set-cookie", "a"),
                ("x-z", "1"),
                ("set-cookie", "b"),
                ("x-good", "ü"),
                ("x-empty", ""),
                ("content-length", "4"),
            ],
            b"body",
        )

    @pytest.mark.parametrize("status", [201, 299, 300, 304, 305, 400, 404, 500, 999])
    def test_every_status_is_an_answer(self, status: int) -> None:
        """Also one that says something went wrong."""
        assert exchange(answering(answer(status=status)), "GET", "/").status == status

    @pytest.mark.parametrize(
        ("said", "body"),
        [
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
                b"abc",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
            (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x"),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b""),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
                b"x",
            ),
        ],
    )
    def test_forms_of_an_answer(self, said: bytes, body: bytes) -> None:
        """Chunked, ended by closing, of HTTP/1.0, without a reason, without a body, announced."""
        assert exchange(saying(said), "GET", "/").body == body

    def test_a_head_request_has_no_body_to_wait_for(self) -> None:
        """For any announced length."""
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        response = exchange(answering(said), "HEAD", "/")
        assert (response.body, response.headers) == (b"", [("content-length", "100")])

    def test_the_body_is_not_decoded(self) -> None:
        """Content-Encoding is the client's business."""
        response = exchange(
            answering(answer(b"\x1f\x8bnot gzip", headers=(b"Content-Encoding: gzip",))), "GET", "/"
        )
        assert response.body == b"\x1f\x8bnot gzip"
        assert ("content-encoding", "gzip") in response.headers

    def test_a_large_body(self) -> None:
        """Arrives whole."""
        body = os.urandom(1024) * 8000
        assert exchange(answering(answer(body)), "GET", "/").body == body


class TestRedirects:
    """Followed as browsers do."""

    @pytest.mark.parametrize(
        ("status", "method", "then"),
        [
            (301, "GET", "GET"),
            (301, "POST", "GET"),
            (301, "PUT", "PUT"),
            (301, "post", "post"),
            (302, "HEAD", "HEAD"),
            (302, "POST", "GET"),
            (302, "DELETE", "DELETE"),
            (303, "GET", "GET"),
            (303, "POST", "GET"),
            (303, "PUT", "GET"),
            (303, "post", "GET"),
            (303, "HEAD", "HEAD"),
            (307, "POST", "POST"),
            (308, "PUT", "PUT"),
        ],
    )
    def test_method_and_body(self, status: int, method: str, then: str) -> None:
        """A POST that is moved, and everything that is told to see elsewhere, goes on as a GET
        without a body and without what describes one.
        """
        peer = answering(
            lambda seen: redirect(status, b"/b#c") if seen.target == b"/a?x" else answer(b"end")
        )
        given = [
            ("Content-Type", "t"),
            ("content-encoding", "e"),
            ("X-Other", "o"),
            ("referer", "r"),
        ]
        response = exchange(peer, method, "/a?x#y", *given, body=b"hello")
        assert response.body == (b"" if then == "HEAD" else b"end")
        second = peer.requests[1]
        assert (second.method, second.target) == (then.encode(), b"/b")
        assert second.values(b"referer") == [f"{peer.url}/a?x".encode()]
        assert second.values(b"x-other") == [b"o"]
        if status == 303 or method != then:
            assert second.body == b""
            for name in (b"content-length", b"content-type", b"content-encoding"):
                assert second.values(name) == []
        else:
            assert second.body == b"hello"
            assert second.values(b"content-type") == [b"t"]

    @pytest.mark.parametrize(
        ("location", "target"),
        [
            (b"/x?y", b"/x?y"),
            (b"x", b"/dir/x"),
            (b"../x", b"/x"),
            (b"?q", b"/dir/here?q"),
            (b"//127.0.0.1:%d/z", b"/z"),
            (b"http://127.0.0.1:%d", b"/"),
            (b"HTTP://user:pw@127.0.0.1:%d/%%20", b"/%20"),
        ],
    )
    def test_where_it_leads(self, location: bytes, target: bytes) -> None:
        """Relative to the URL that was asked for; a user in it is not taken over."""

        def respond(seen: Seen) -> bytes:
            if seen.target != b"/dir/here":
                return answer()
            return redirect(302, location % peer.port if b"%d" in location else location)

        peer = answering(respond)
        assert exchange(peer, "GET", "/dir/here").status == 200
        assert peer.requests[1].target == target
        assert peer.requests[1].values(b"authorization") == []

    @pytest.mark.parametrize("location", [b"http://[", b"../x y", b"\xc3\xbc", b"\xff", None])
    def test_a_location_that_cannot_be_read(self, location: bytes | None) -> None:
        """Makes the redirect itself the answer."""
        headers = () if location is None else (b"Location: " + location,)
        response = exchange(answering(answer(b"moved", 302, headers)), "GET", "/")
        assert (response.status, response.body) == (302, b"moved")

    def test_not_out_of_http(self) -> None:
        """There is nothing to ask of other kinds of URL."""
        with pytest.raises(OperationFailed, match=r"^http/request failed: builder error for url "):
            exchange(answering(redirect(302, b"ftp://x/")), "GET", "/")

    def test_ten_times_at_most(self) -> None:
        """Ten work, the eleventh is an error that names where it stood."""

        def respond(seen: Seen) -> bytes:
            return redirect(302, b"/%d" % (int(seen.target[1:]) + 1))

        peer = answering(respond)
        with pytest.raises(OperationFailed) as caught:
            exchange(peer, "GET", "/0")
        assert len(peer.requests) == 11
        assert str(caught.value) == (
            f"http/request failed: error following redirect for url ({peer.url}/10)"
        )
        enough = answering(
            lambda seen: answer(b"there") if seen.target == b"/10" else respond(seen)
        )
        assert exchange(enough, "GET", "/0").body == b"there"

    def test_another_server_does_not_see_what_is_meant_for_the_first(self) -> None:
        """Credentials, cookies and the Host header stay with the origin they were given for."""
        secret = [
            ("Authorization", "a"),
            ("cookie", "c"),
            ("Proxy-Authorization", "p"),
            ("Host", "first.example"),
        ]
        names = [name.lower().encode() for name, _ in secret]
        second = answering(answer())
        first = answering(
            lambda seen: redirect(307, b"/again" if seen.target == b"/" else second.url.encode())
        )

        async def go() -> None:
            async with first.listening(), second.listening():
                await fetch(make("POST", first.url + "/", *secret, ("X", "y"), body=b"hi"))

        run(go())
        assert [first.requests[1].values(name) for name in names] == [
            [value.encode()] for _, value in secret
        ]
        seen = second.requests[0]
        assert [seen.values(name) for name in names] == [
            [],
            [],
            [],
            [b"127.0.0.1:%d" % second.port],
        ]
        assert (seen.values(b"x"), seen.body) == ([b"y"], b"hi")


class TestArguments:
    """Invalid requests; nothing is sent."""

    @pytest.mark.parametrize(
        ("method", "url", "headers", "message"),
        [
            ("", "/", [], "http/request method is invalid: invalid HTTP method"),
            ("G T", "/", [], "http/request method is invalid: invalid HTTP method"),
            ("GÉT", "/", [], "http/request method is invalid: invalid HTTP method"),
            ("GET\n", "/", [], "http/request method is invalid: invalid HTTP method"),
            ("GET", "relative", [], "http/request url is invalid: relative URL without a base"),
            ("GET", "http://", [], "http/request url is invalid: empty host"),
            ("GET", "http://h:x/", [], "http/request url is invalid: invalid port number"),
            ("GET", "http://[z]/", [], "http/request url is invalid: invalid IPv6 address"),
            ("GET", "FTP://h/", [], "http/request only supports http and https URLs, got ftp"),
            ("GET", "ws://h", [], "http/request only supports http and https URLs, got ws"),
            (
                "GET",
                "/",
                [("", "")],
                "http/request header name is invalid: invalid HTTP header name",
            ),
            (
                "GET",
                "/",
                [("a b", "")],
                "http/request header name is invalid: invalid HTTP header name",
            ),
            (
                "GET",
                "/",
                [("ü", "")],
                "http/request header name is invalid: invalid HTTP header name",
            ),
            (
                "GET",
                "/",
                [("a:", "")],
                "http/request header name is invalid: invalid HTTP header name",
            ),
            *(
                (
                    "GET",
                    "/",
                    [("Fine", "x"), ("Bad", f"x{character}y")],
                    "http/request header value is invalid for Bad: failed to parse header value",
                )
                for character in "\0\x01\n\r\x1f\x7f"
            ),
        ],
    )
    def test_refused(
        self, method: str, url: str, headers: list[tuple[str, str]], message: str
    ) -> None:
        """With the released servers' words."""
        peer = answering(answer())

        async def go() -> None:
            async with peer.listening():
                await fetch(HttpRequest(method, peer.url + url if url == "/" else url, headers))

        with pytest.raises(InvalidArgument) as caught:
            run(go())
        assert str(caught.value) == message
        assert peer.connections == 0


class TestFailures:
    """No answer, or not all of it."""

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"\x00\x01garbage\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
            b"HTTP/1.1 200 OK\r\na b: c\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    def test_no_answer_that_can_be_understood(self, said: bytes) -> None:
        """The message has the URL that was asked for, without user, with fragment."""
        peer = saying(said)

        async def go() -> None:
            async with peer.listening():
                await fetch(make("GET", f"http://u:p@127.0.0.1:{peer.port}/a b#f"))

        with pytest.raises(OperationFailed) as caught:
            run(go())
        assert str(caught.value) == (
            f"http/request failed: error sending request for url ({peer.url}/a%20b#f)"
        )

    def test_connection_refused(self) -> None:
        """Also where a redirect leads there: then too it is the first URL that is named."""
        unused = answering(answer())

        async def reserve() -> str:
            async with unused.listening():
                return unused.url

        nowhere = run(reserve())
        with pytest.raises(OperationFailed, match=r"error sending request for url \(http://127"):
            run(fetch(make("GET", nowhere)))
        peer = answering(redirect(302, nowhere.encode()))
        with pytest.raises(OperationFailed, match=r"/first#f\)$"):
            exchange(peer, "GET", "/first#f")

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        ],
    )
    def test_a_broken_body(self, said: bytes) -> None:
        """Is no body."""
        with pytest.raises(OperationFailed) as caught:
            exchange(saying(said), "GET", "/")
        assert str(caught.value) == f"failed to read http/request response body: {BODY_ERROR}"

    def test_out_of_time_before_the_answer(self) -> None:
        """The connection is dropped then."""
        dropped = asyncio.Event()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.gone()
            dropped.set()

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                with pytest.raises(OperationFailed, match="error sending request for url"):
                    await fetch(make("GET", peer.url, timeout_ms=50))
                await dropped.wait()

        run(go())
        assert dropped.is_set()

    def test_out_of_time_in_the_body(self) -> None:
        """The limit is for everything together."""

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.receive()
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            await conversation.gone()

        with pytest.raises(OperationFailed) as caught:
            exchange(Peer(converse), "GET", "/", timeout_ms=100)
        assert str(caught.value) == f"failed to read http/request response body: {BODY_ERROR}"

    def test_no_time_at_all_and_more_than_enough(self) -> None:
        """0 and 2^64 - 1 milliseconds."""
        with pytest.raises(OperationFailed, match="error sending request"):
            exchange(answering(answer()), "GET", "/", timeout_ms=0)
        assert exchange(answering(answer()), "GET", "/", timeout_ms=2**64 - 1).status == 200

    def test_an_answer_before_the_whole_request_was_taken(self) -> None:
        """Is an answer."""

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.reader.readuntil(b"\r\n\r\n")
            await conversation.send(answer(b"too much", 413))
            await conversation.gone()

        response = exchange(Peer(converse), "POST", "/", body=bytes(20_000_000), timeout_ms=None)
        assert (response.status, response.body) == (413, b"too much")


class TestStreams:
    """Answers whose body is taken as it comes."""

    def test_the_headers_do_not_wait_for_the_body(self) -> None:
        """And each piece comes when it is there."""
        steps: asyncio.Queue[str] = asyncio.Queue()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.receive()
            await conversation.send(b"HTTP/1.1 201 OK\r\nContent-Length: 6\r\nX: y\r\n\r\n")
            await steps.get()
            await conversation.send(b"abc")
            await steps.get()
            await conversation.send(b"def")

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                stream = await HttpClient().open(make("GET", peer.url))
                assert (stream.status, stream.headers[1]) == (201, ("x", "y"))
                steps.put_nowait("go on")
                assert await anext(stream) == b"abc"
                steps.put_nowait("go on")
                assert [piece async for piece in stream] == [b"def"]
                assert [piece async for piece in stream] == []
                await stream.aclose()

        run(go())

    def test_pieces_are_small_and_never_empty(self) -> None:
        """For any split of the body by the server."""
        body = os.urandom(1000) * 2000
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"

        async def go() -> list[bytes]:
            peer = answering(said)
            async with peer.listening():
                stream = await HttpClient().open(make("GET", peer.url))
                return [piece async for piece in stream]

        pieces = run(go())
        assert b"".join(pieces) == body
        assert all(0 < len(piece) <= 65536 for piece in pieces)

    def test_an_empty_body(self) -> None:
        """No piece at all."""

        async def go() -> list[bytes]:
            peer = answering(answer())
            async with peer.listening():
                return [piece async for piece in await HttpClient().open(make("GET", peer.url))]

        assert run(go()) == []

    def test_a_broken_body_fails_after_what_came(self) -> None:
        """Every time it is asked."""

        async def go() -> None:
            peer = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            async with peer.listening():
                stream = await HttpClient().open(make("GET", peer.url))
                assert await anext(stream) == b"abc"
                for _ in range(2):
                    with pytest.raises(OperationFailed, match=f"^{BODY_ERROR}$"):
                        await anext(stream)
                await stream.aclose()

        run(go())

    def test_a_server_is_read_no_faster_than_the_pieces_are_taken(self) -> None:
        """A body of 256 MB does not come into memory."""
        total, piece = 256 * 1024 * 1024, bytes(1024 * 1024)
        sent_bytes = 0
        stalled = asyncio.Event()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            nonlocal sent_bytes
            await conversation.receive()
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            while sent_bytes < total:
                conversation.writer.write(piece)
                if conversation.writer.transport.get_write_buffer_size() > 0 and sent_bytes:
                    stalled.set()
                await conversation.writer.drain()
                sent_bytes += len(piece)

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                stream = await HttpClient().open(make("GET", peer.url))
                await anext(stream)
                await stalled.wait()
                for _ in range(1000):
                    await asyncio.sleep(0)
                assert sent_bytes < 32 * 1024 * 1024
                await stream.aclose()

        run(go())

    def test_many_at_once(self) -> None:
        """They do not wait for each other."""
        release = asyncio.Event()

        async def converse(peer: Peer, conversation: Conversation) -> None:
            seen = await conversation.receive()
            if peer.connections == 30:
                release.set()
            await release.wait()
            await conversation.send(answer(seen.target))

        async def go() -> list[bytes]:
            peer = Peer(converse)
            async with peer.listening():
                client = HttpClient()
                requests = [make("GET", f"{peer.url}/{number}") for number in range(30)]
                responses = await asyncio.gather(*map(client.fetch, requests))
                return [response.body for response in responses]

        assert run(go()) == [b"/%d" % number for number in range(30)]


class TestEnding:
    """The connection is closed when its request ends, for any reason."""

    @staticmethod
    async def descriptors_are(expected: list[str]) -> bool:
        """Wait until exactly these are open."""
        while os.listdir("/proc/self/fd") != expected:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        return True

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"])
    @pytest.mark.parametrize("how", ["cancel", "client"])
    def test_given_up(self, said: bytes, how: str) -> None:
        """Before the answer or in the body, by cancelling or by closing the client."""
        asked, dropped = asyncio.Event(), asyncio.Event()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.receive()
            asked.set()
            await conversation.send(said)
            await conversation.gone()
            dropped.set()

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                before = os.listdir("/proc/self/fd")
                client = HttpClient()
                task = asyncio.create_task(client.fetch(make("GET", peer.url)))
                await asked.wait()
                if how == "cancel":
                    task.cancel()
                else:
                    await client.aclose()
                await asyncio.wait([task])
                if how == "cancel":
                    assert task.cancelled()
                else:
                    assert isinstance(task.exception(), OperationFailed)
                await dropped.wait()
                assert await self.descriptors_are(before)

        run(go())

    def test_a_stream_closed_early(self) -> None:
        """With unread pieces; asking for more fails; closing again is harmless."""
        dropped = asyncio.Event()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.receive()
            await conversation.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + bytes(500_000)
            )
            await conversation.gone()
            dropped.set()

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                before = os.listdir("/proc/self/fd")
                stream = await HttpClient().open(make("GET", peer.url))
                await anext(stream)
                await stream.aclose()
                await stream.aclose()
                with pytest.raises(OperationFailed, match=f"^{BODY_ERROR}$"):
                    await anext(stream)
                await dropped.wait()
                assert await self.descriptors_are(before)

        run(go())

    def test_waiters_for_a_piece_are_woken(self) -> None:
        """When the client is closed meanwhile."""

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.receive()
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            await conversation.gone()

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                client = HttpClient()
                stream = await client.open(make("GET", peer.url))
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                await client.aclose()
                with pytest.raises(OperationFailed, match=f"^{BODY_ERROR}$"):
                    await waiting

        run(go())

    @pytest.mark.parametrize("turns", range(12))
    def test_cancelled_at_any_moment(self, turns: int) -> None:
        """From before the first step on; nothing stays open."""
        peer = answering(answer(b"x" * 200_000))

        async def go() -> None:
            async with peer.listening():
                before = os.listdir("/proc/self/fd")
                task = asyncio.create_task(fetch(make("GET", peer.url)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
                assert await self.descriptors_are(before)

        run(go())

    def test_closing_a_client_in_the_moment_a_request_begins(self) -> None:
        """The request fails, rather than wait for ever."""

        async def go() -> None:
            client = HttpClient()
            task = asyncio.create_task(client.fetch(make("GET", "http://127.0.0.1:9/")))
            await asyncio.sleep(0)
            await client.aclose()
            with pytest.raises(OperationFailed):
                await task

        run(go())

    def test_given_up_while_tls_is_set_up(self) -> None:
        """A server that accepts and stays silent."""
        dropped = asyncio.Event()

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            await conversation.gone()
            dropped.set()

        async def go() -> None:
            peer = Peer(converse)
            async with peer.listening():
                with pytest.raises(OperationFailed, match=r"for url \(https://localhost:"):
                    await fetch(make("GET", peer.https_url, timeout_ms=300))
                await dropped.wait()

        run(go())


class TestProxies:
    """From the environment, read for every request."""

    def test_http_goes_through_the_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which is asked for the whole URL, and told who is asking."""
        proxy = answering(answer(b"by proxy"))

        async def go() -> HttpResponse:
            async with proxy.listening():
                monkeypatch.setenv("http_proxy", f"http://us%20er:pw@127.0.0.1:{proxy.port}")
                return await fetch(make("GET", "http://u:p@far.example:81/a?b#c", ("X", "y")))

        assert run(go()).body == b"by proxy"
        seen = proxy.requests[0]
        assert seen.line == b"GET http://far.example:81/a?b HTTP/1.1"
        assert seen.headers[0] == b"host: far.example:81"
        assert seen.values(b"proxy-authorization") == [b"Basic " + base64.b64encode(b"us er:pw")]
        assert seen.values(b"authorization") == [b"Basic " + base64.b64encode(b"u:p")]

    def test_https_is_tunnelled_through_the_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that refuses is a failed request; it sees nothing but the host."""
        proxy = answering(answer(status=407))

        async def go() -> None:
            async with proxy.listening():
                monkeypatch.setenv("HTTPS_PROXY", f"me:pw@127.0.0.1:{proxy.port}")
                await fetch(make("GET", "https://far.example/secret", ("Authorization", "s")))

        with pytest.raises(OperationFailed, match="error sending request for url"):
            run(go())
        seen = proxy.requests[0]
        assert seen.line == b"CONNECT far.example:443 HTTP/1.1"
        assert seen.values(b"proxy-authorization") == [b"Basic " + base64.b64encode(b"me:pw")]
        assert seen.values(b"authorization") == []

    def test_exempt_hosts_are_asked_directly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """no_proxy."""
        monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        assert exchange(answering(answer(b"direct")), "GET", "/").body == b"direct"

    def test_a_proxy_that_cannot_be_used_is_not_passed_by(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The request fails."""
        monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
        peer = answering(answer())
        with pytest.raises(OperationFailed, match="error sending request for url"):
            exchange(peer, "GET", "/")
        assert peer.connections == 0


class TestTls:
    """Certificates are checked against the system's store."""

    def test_trusted_and_not(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """An unknown issuer and a name that does not match are refused, a known one is believed,
        through a proxy too; SSL_CERT_FILE names the store.
        """
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "trusted.pem"))
        peer = answering(answer(b"secret"))

        async def go() -> None:
            async with peer.listening(context):
                with pytest.raises(OperationFailed, match=r"for url \(https://localhost:"):
                    await fetch(make("GET", peer.https_url))
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
                assert (await fetch(make("GET", peer.https_url))).body == b"secret"
                with pytest.raises(OperationFailed, match=r"for url \(https://127"):
                    await fetch(make("GET", f"https://127.0.0.1:{peer.port}"))
                proxy = tunnel_to(peer.port)
                async with proxy.listening():
                    monkeypatch.setenv("https_proxy", proxy.url)
                    assert (await fetch(make("GET", peer.https_url))).body == b"secret"
                    assert proxy.requests[0].line == b"CONNECT localhost:%d HTTP/1.1" % peer.port

        run(go())


def tunnel_to(port: int) -> Peer:
    """A proxy that connects to this port, whatever it is asked."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def converse(peer: Peer, conversation: Conversation) -> None:
        peer.requests.append(await conversation.receive())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await conversation.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(conversation.reader, writer), pump(reader, conversation.writer))

    return Peer(converse)


def test_the_http_library_is_loaded_by_the_first_request_only() -> None:
    """A server that never makes one starts faster."""
    program = (
        "import sys; from exec_server.engine.http.client import HttpClient; HttpClient();"
        "print(sys.modules.keys() & {'httpcore', 'anyio', 'h11', 'ssl'})"
    )
    printed = subprocess.check_output([sys.executable, "-c", program], timeout=PATIENCE, text=True)
    assert printed == "set()\n"
