"""Options of a request: header values from the environment, redirects (v2 http/request)."""

from __future__ import annotations

import asyncio
import os

import pytest

from exec_server.engine.http.client import HttpClient
from exec_server.engine.http.request import FORBIDDEN_VARIABLES
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
)
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("no_proxies")


def refusal(name: str, value: str, variable: str) -> str:
    """Why a header is refused."""
    peer = answering(answer())
    with pytest.raises(InvalidArgument) as caught:
        exchange(peer, "GET", "/", (name, value, variable))
    assert peer.connections == 0
    return str(caught.value)


class TestVariables:
    """A header whose value ends in that of a variable of this server."""

    @pytest.mark.parametrize(
        ("value", "content", "expected"),
        [
            ("Bearer ", "s3cret", b"Bearer s3cret"),
            ("", "x", b"x"),
            ("p", "\u00fc", b"p\xc3\xbc"),
            (" p", "  x y \t", b"p  x y"),
        ],
    )
    def test_the_variable_follows_the_value(
        self, monkeypatch: pytest.MonkeyPatch, value: str, content: str, expected: bytes
    ) -> None:
        """As UTF-8; white space counts between them only."""
        monkeypatch.setenv("SOME_VALUE", content)
        peer = answering(answer())
        exchange(peer, "GET", "/", ("X", value, "SOME_VALUE"), ("Y", "plain", None))
        assert peer.requests[0].values(b"x") == [expected]
        assert peer.requests[0].values(b"y") == [b"plain"]

    @pytest.mark.parametrize("route_aware", [False, True])
    def test_it_stays_with_the_origin_it_was_given_for(
        self, monkeypatch: pytest.MonkeyPatch, route_aware: bool
    ) -> None:
        """A redirect within it takes the value along, one to another leaves it out for good."""
        monkeypatch.setenv("SOME_VALUE", "s3cret")

        async def go() -> tuple[Peer, Peer]:
            other = answering(
                lambda seen: redirect(307, there) if seen.target == b"/" else answer()
            )
            first = answering(
                lambda seen: (
                    redirect(307, b"/again" if seen.target == b"/" else f"{other.url}/".encode())
                    if seen.target != b"/back"
                    else answer()
                )
            )
            async with first.listening(), other.listening():
                there = f"{first.url}/back".encode()
                request = make("GET", first.url, ("X", "p ", "SOME_VALUE"), ("Y", "plain"))
                await fetch(request, route_aware=route_aware)
            return first, other

        first, other = run(go())
        assert [seen.target for seen in first.requests] == [b"/", b"/again", b"/back"]
        values = [seen.values(b"x") for seen in (*first.requests, *other.requests)]
        assert values == [[b"p s3cret"], [b"p s3cret"], [], []]
        assert other.requests[0].values(b"y") == [b"plain"]

    @pytest.mark.parametrize("variable", ["NO_SUCH_VARIABLE", "", "a=b", "a\0b", "NOT_TEXT"])
    def test_what_has_no_value(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """Nor one that is not UTF-8."""
        monkeypatch.setenv("NOT_TEXT", os.fsdecode(b"\xff"))
        assert refusal("X", "v", variable) == (
            f"http/request header X requires executor environment variable {variable}"
        )

    def test_what_is_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Is refused in words of its own."""
        monkeypatch.setenv("NOTHING", "")
        assert refusal("X", "v", "NOTHING") == (
            "http/request header X requires a non-empty executor environment variable NOTHING"
        )

    @pytest.mark.parametrize(
        "variable", [*sorted(FORBIDDEN_VARIABLES), "openai_API_key", "Codex_Access_Token"]
    )
    def test_what_no_header_may_carry(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """Credentials, in letters of any case."""
        monkeypatch.setenv(variable, "s3cret")
        assert refusal("X", "\n", variable) == (
            f"http/request header X cannot use executor environment variable {variable}"
        )

    def test_a_value_that_fits_no_header(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Does not fit one from the environment either; a bad name is noticed first."""
        monkeypatch.setenv("LINES", "a\nb")
        assert refusal("X", "v", "LINES") == (
            "http/request header value is invalid for X: failed to parse header value"
        )
        assert refusal("X Y", "v", "OPENAI_API_KEY") == (
            "http/request header name is invalid: invalid HTTP header name"
        )


class TestStop:
    """Redirects that are not to be followed."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("location", [b"/next", b"ftp://h/", b"http://", b""])
    def test_a_redirect_is_the_answer(self, status: int, location: bytes) -> None:
        """For any target."""
        peer = answering(redirect(status, location))
        response = exchange(peer, "POST", "/", body=b"x", redirect_policy="stop")
        assert response.status == status
        assert ("location", location.decode()) in response.headers
        assert len(peer.requests) == 1


class TestRouteAware:
    """Redirects as requests of their own (measured on codex 0.169)."""

    def test_too_many_redirects(self) -> None:
        """More than ten."""

        def count(seen: Seen) -> bytes:
            number = int(seen.target[1:])
            return answer(b"done") if number >= 11 else redirect(302, b"/%d" % (number + 1))

        assert exchange(answering(count), "GET", "/1", route_aware=True).body == b"done"
        with pytest.raises(OperationFailed, match=r"^http/request failed: too many redirects$"):
            exchange(answering(count), "GET", "/0", route_aware=True)

    @pytest.mark.parametrize(
        ("location", "target"), [(b"/a b?c d", b"/a%20b?c%20d"), (b"/a\tb", b"/ab")]
    )
    def test_a_location_with_white_space(self, location: bytes, target: bytes) -> None:
        """Is read as browsers read it."""
        peer = answering(
            lambda seen: answer() if seen.target == target else redirect(302, location)
        )
        assert exchange(peer, "GET", "/", route_aware=True).status == 200
        assert [seen.target for seen in peer.requests] == [b"/", target]

    def test_a_redirect_out_of_http(self) -> None:
        """Names the scheme."""
        with pytest.raises(OperationFailed) as caught:
            exchange(answering(redirect(302, b"FTP://h/x")), "GET", "/", route_aware=True)
        assert str(caught.value) == (
            "http/request failed: redirect target uses unsupported URL scheme: ftp"
        )

    def test_another_origin_is_told_the_origin_only(self) -> None:
        """The same one is told the whole URL."""

        async def go() -> None:
            other = answering(answer())
            async with other.listening():
                onward = redirect(307, other.url.encode() + b"/there")
                first = answering(
                    lambda seen: redirect(307, b"/b?r") if seen.target == b"/a?q" else onward
                )
                async with first.listening():
                    client = HttpClient(route_aware=True)
                    await client.fetch(make("GET", f"{first.url}/a?q#f", ("Cookie", "c")))
                    await client.aclose()
                    assert first.requests[1].values(b"referer") == [f"{first.url}/a?q".encode()]
                    assert first.requests[1].values(b"cookie") == [b"c"]
                    assert other.requests[0].values(b"referer") == [f"{first.url}/".encode()]
                    assert other.requests[0].values(b"cookie") == []

        run(go())

    def test_the_url_that_failed_is_named(self) -> None:
        """It is where the redirect led."""
        gone = Peer(lambda _peer, conversation: conversation.receive())

        async def go() -> None:
            async with gone.listening():
                first = answering(redirect(302, gone.url.encode() + b"/x?y"))
                async with first.listening():
                    client = HttpClient(route_aware=True)
                    with pytest.raises(OperationFailed) as caught:
                        await client.fetch(make("GET", first.url))
                    await client.aclose()
                    assert str(caught.value) == (
                        f"http/request failed: error sending request for url ({gone.url}/x?y)"
                    )

        run(go())

    def test_no_time_at_all(self) -> None:
        """Is too little, and nothing is sent."""
        peer = answering(answer())
        with pytest.raises(OperationFailed) as caught:
            exchange(peer, "GET", "/", route_aware=True, timeout_ms=0)
        assert str(caught.value) == "http/request failed: route-aware request timed out"
        assert peer.connections == 0

    def test_too_little_time(self) -> None:
        """For the headers, for the body, and for the body of a stream."""

        async def converse(_peer: Peer, conversation: Conversation) -> None:
            seen = await conversation.receive()
            if seen.target == b"/body":
                await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await conversation.gone()

        async def go() -> None:
            peer = Peer(converse)
            client = HttpClient(route_aware=True)
            async with peer.listening():
                with pytest.raises(OperationFailed) as caught:
                    await client.fetch(make("GET", f"{peer.url}/head#f", timeout_ms=50))
                assert str(caught.value) == (
                    f"http/request failed: error sending request for url ({peer.url}/head#f)"
                )
                body = make("GET", f"{peer.url}/body", timeout_ms=1500)
                with pytest.raises(OperationFailed) as caught:
                    await client.fetch(body)
                assert str(caught.value) == (
                    "failed to read http/request response body: error decoding response body"
                )
                stream = await client.open(body)
                assert await anext(stream) == b"abc"
                with pytest.raises(OperationFailed, match=r"^error decoding response body$"):
                    await anext(stream)
                await stream.aclose()
            await client.aclose()

        run(asyncio.wait_for(go(), PATIENCE))
