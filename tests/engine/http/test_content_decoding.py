"""Response bodies with a content encoding (v2 http/request, codex 0.171)."""

from __future__ import annotations

import gzip
import os
import sys
import tracemalloc
import zlib

import pytest

from exec_server.engine.http.client import EXCHANGE_BYTES, HttpClient, HttpResponse
from exec_server.engine.http.content_decoding import decoder_for
from exec_server.engine.memory_budget import MemoryBudget
from exec_server.errors import OperationFailed
from tests.support.http_peer import Seen, answer, answering, make, run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.usefixtures("no_proxies")

TEXT = b"hello compressed world\n" * 5
GZIP = gzip.compress(TEXT, mtime=0)  # the same in every test process
ZSTD = zstd.compress(TEXT)
WINDOW_LOG = zstd.CompressionParameter.window_log
BODY_ERROR = "error decoding response body"


def get(
    body: bytes,
    *codings: bytes,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    memory: MemoryBudget | None = None,
) -> tuple[HttpResponse, Seen]:
    """Fetch a body that is sent with these Content-Encoding headers."""
    message = answer(body, headers=tuple(b"Content-Encoding: " + coding for coding in codings))
    if method == "HEAD":
        message = message.removesuffix(body)
    peer = answering(message)

    async def go() -> HttpResponse:
        async with peer.listening():
            client = HttpClient(memory=memory, decodes_content=True)
            try:
                return await client.fetch(make(method, f"{peer.url}/", *headers))
            finally:
                await client.aclose()

    response: HttpResponse = run(go())
    return response, peer.requests[0]


def names(response: HttpResponse) -> set[str]:
    return {name for name, _ in response.headers}


def test_encodings_are_accepted_unless_the_client_names_some() -> None:
    """A header of the client is sent as given, whatever its case."""
    assert get(b"")[1].values(b"accept-encoding") == [b"zstd,gzip"]
    _, seen = get(b"", headers=(("Accept-ENCODING", "br"),))
    assert seen.values(b"accept-encoding") == [b"br"]


@pytest.mark.parametrize(("coding", "body"), [(b"gzip", GZIP), (b" zstd ", ZSTD)])
@pytest.mark.parametrize("accepted", ["identity", "zstd,gzip"])
def test_a_body_is_decoded_whatever_was_accepted(coding: bytes, body: bytes, accepted: str) -> None:
    """The headers for its encoding and length are removed."""
    response, _ = get(body, coding, headers=(("accept-encoding", accepted),))
    assert response.body == TEXT
    assert not names(response) & {"content-encoding", "content-length"}


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ((b"deflate",), zlib.compress(TEXT)),
        ((b"x-gzip",), GZIP),
        ((b"GZIP",), GZIP),
        ((b"gzip, gzip",), GZIP),
        ((b"identity", b"gzip"), GZIP),
    ],
)
def test_other_encodings_are_passed_through(codings: tuple[bytes, ...], body: bytes) -> None:
    """The body and its headers stay as they are."""
    response, _ = get(body, *codings)
    assert response.body == body
    assert names(response) >= {"content-encoding", "content-length"}


def test_an_empty_body_stays_empty() -> None:
    """For HEAD, and for a body of no bytes."""
    response, _ = get(GZIP, b"gzip", method="HEAD")
    assert response.body == b""
    assert "content-encoding" not in names(response)
    for coding in (b"gzip", b"zstd"):
        assert get(b"", coding)[0].body == b""


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", GZIP[:-6]),
        (b"gzip", b"this is not gzip"),
        (b"zstd", ZSTD[:-4]),
        (b"zstd", b"this is not zstd"),
        (b"zstd", ZSTD + b"garbage!"),
        (b"zstd", zstd.compress(os.urandom(200) * 90_000, options={WINDOW_LOG: 24})),
    ],
    ids=["short gzip", "no gzip", "short zstd", "no zstd", "zstd and garbage", "zstd window"],
)
def test_a_malformed_body_is_an_error(coding: bytes, body: bytes) -> None:
    """A truncated body and a window above 8 MiB as well."""
    with pytest.raises(OperationFailed, match=BODY_ERROR):
        get(body, coding)


def test_data_after_the_end() -> None:
    """All zstd frames are decoded, but only the first gzip member, as in codex."""
    assert get(ZSTD + zstd.compress(b"second"), b"zstd")[0].body == TEXT + b"second"
    assert get(GZIP + gzip.compress(b"second"), b"gzip")[0].body == TEXT
    assert get(GZIP + b"garbage", b"gzip")[0].body == TEXT


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_bomb_is_bounded(coding: str) -> None:
    """A body larger than the client may hold is refused, and its memory is released."""
    bomb = (gzip if coding == "gzip" else zstd).compress(bytes(200_000_000))
    budget = MemoryBudget(16 * 1024 * 1024 + EXCHANGE_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(OperationFailed, match="holds at most"):
            get(bomb, coding.encode(), memory=budget)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024
    assert budget.held_bytes == 0


def test_a_decoder_needs_room() -> None:
    """The window of zstd counts in the memory of the client."""
    budget = MemoryBudget(EXCHANGE_BYTES + 1024 * 1024)
    with pytest.raises(OperationFailed, match="holds at most"):
        get(ZSTD, b"zstd", memory=budget)
    assert budget.held_bytes == 0


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_pieces_are_small(coding: bytes) -> None:
    """One read that decodes to much more is handed out in many pieces."""
    body = (gzip if coding == b"gzip" else zstd).compress(bytes(10_000_000))
    decoder = decoder_for([(b"Content-Encoding", coding)])
    assert decoder is not None
    pieces = list(decoder.decode(body, 65536))
    decoder.finish()
    assert sum(map(len, pieces)) == 10_000_000
    assert max(map(len, pieces)) <= 65536
