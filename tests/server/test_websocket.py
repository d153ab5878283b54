"""The HTTP door and the frames of the WebSocket listener."""

from __future__ import annotations

import json
import re
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UPGRADE = {
    "Host": "127.0.0.1",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def server() -> Iterator[peer.Listening]:
    with peer.listening() as listening:
        yield listening


@contextmanager
def raw(server: peer.Listening) -> Iterator[socket.socket]:
    host, _, port = server.url.removeprefix("ws://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=peer.PATIENCE) as connection:
        yield connection


def head(line: str, headers: dict[str, str]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def status_of(server: peer.Listening, line: str, headers: dict[str, str]) -> tuple[int, bytes]:
    with raw(server) as connection:
        connection.sendall(head(line, headers))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        return int(answer.split(b" ")[1]), answer


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in UPGRADE.items() if key != name}


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET / HTTP/1.1", UPGRADE, 101),
        ("GET /?a=b HTTP/1.1", UPGRADE, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "Sec-WebSocket-Protocol": "x"}, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "Sec-WebSocket-Extensions": "permessage-deflate"}, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "Origin": "http://localhost"}, 403),
        ("GET / HTTP/1.1", {**UPGRADE, "Origin": ""}, 403),
        ("GET /readyz HTTP/1.1", {"Origin": "null"}, 403),
        ("GET /other HTTP/1.1", {"Origin": "null"}, 403),
        ("GET /readyz HTTP/1.1", {}, 200),
        ("HEAD /readyz?x HTTP/1.1", {}, 200),
        ("GET /readyz HTTP/1.1", UPGRADE, 200),
        ("POST /readyz HTTP/1.1", {}, 405),
        ("GET /readyz/ HTTP/1.1", {}, 404),
        ("GET /healthz HTTP/1.1", {}, 404),
        ("GET /other HTTP/1.1", UPGRADE, 404),
        ("POST / HTTP/1.1", UPGRADE, 405),
        ("GET / HTTP/1.0", UPGRADE, 426),
        ("GET / HTTP/1.1", without("Connection"), 400),
        ("GET / HTTP/1.1", without("Upgrade"), 400),
        ("GET / HTTP/1.1", without("Sec-WebSocket-Key"), 400),
        ("GET / HTTP/1.1", {**UPGRADE, "Sec-WebSocket-Version": "8"}, 400),
        ("nonsense", {}, 400),
        ("GET / HTTP/1.1", {"X": "y" * 20_000}, 431),
        ("GET / HTTP/1.1", {**UPGRADE, "X": "y" * 16_000}, 101),
        ("GET / HTTP/1.1", {**UPGRADE, **{f"X{number}": "y" for number in range(1500)}}, 101),
        (f"GET /?{'x' * 16_000} HTTP/1.1", UPGRADE, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "X": "a\nb"}, 400),
        ("GET / HTTP/1.1", {**UPGRADE, "X": "a\0b"}, 400),
        ("GET / HTTP/1.1", {**UPGRADE, "X Y": "z"}, 400),
        ("GET / HTTP/1.1", {**UPGRADE, "Sec-WebSocket-Key": "short"}, 400),
        ("GET / HTTP/1.1", {**UPGRADE, "Sec-WebSocket-Extensions": ',;="'}, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "Content-Length": "1"}, 400),
        ("GET / HTTP/1.1", {**UPGRADE, "Content-Length": "0"}, 101),
        ("GET / HTTP/1.1", {**UPGRADE, "Transfer-Encoding": "chunked"}, 400),
    ],
)
def test_the_door_answers_with_the_status(
    server: peer.Listening, line: str, headers: dict[str, str], status: int
) -> None:
    found, answer = status_of(server, line, headers)
    assert found == status
    assert b"sec-websocket-protocol" not in answer.lower()
    assert b"sec-websocket-extensions" not in answer.lower()


def test_a_head_of_exactly_the_limit_is_read(server: peer.Listening) -> None:
    """One byte more is not; its size alone counts, and not how lines share it."""
    for size, status in ((16 * 1024, b"101"), (16 * 1024 + 1, b"431")):
        whole = head("GET / HTTP/1.1", {**UPGRADE, "X": ""})
        whole = whole.replace(b"X: ", b"X: " + b"y" * (size - len(whole)))
        assert len(whole) == size
        with raw(server) as connection:
            connection.sendall(whole)
            assert received(connection, 12) == b"HTTP/1.1 " + status


FORGED = "\nforged\r\x1b[2J\x9b2J\u2028\u202e\0" + "x" * 100_000


@pytest.mark.parametrize(
    "message",
    [
        {"method": f"m{FORGED}"},
        {"id": f"i{FORGED}", "result": {}},
        {"id": f"i{FORGED}", "error": {"code": 1, "message": f"e{FORGED}"}},
    ],
)
def test_what_a_client_sends_forges_no_lines_of_the_log(
    tmp_path: Path, message: dict[str, object]
) -> None:
    """However long it is: one line for each connection that ends badly, of printable text."""
    with open(tmp_path / "log", "wb") as log:
        arguments = ("--listen", "ws://127.0.0.1:0", "--verbose")
        with peer.running(*arguments, stderr=log) as process:
            client = peer.Listening(process).client()
            client.send(message)
            client.wait_for_end()
            client.close()
    text = (tmp_path / "log").read_bytes().decode()
    (line,) = (line for line in text.split("\n") if "forged" in line)
    assert line.startswith("codex-exec-server: exec-server websocket 127.0.0.1:")
    assert line.isprintable()
    escaped = r"\\(n|x0a)forged\\(r|x0d)\\x1b\[2J\\x9b2J\\u2028\\u202e\\x00"
    assert re.search(escaped, line)
    assert len(line) < 2000


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00\x01", b"\x00", b"{"])
def test_what_begins_no_request_is_refused_at_once(server: peer.Listening, start: bytes) -> None:
    """A TLS client among them would wait for an answer to a head that never ends."""
    with raw(server) as connection:
        connection.sendall(start)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"expected a plain HTTP request")
        assert connection.recv(1) == b""


def masked(first: int, payload: bytes, *, announced: int | None = None) -> bytes:
    length = len(payload) if announced is None else announced
    if length < 126:
        header = struct.pack(">BB", first, 0x80 | length)
    elif length < 65536:
        header = struct.pack(">BBH", first, 0xFE, length)
    else:
        header = struct.pack(">BBQ", first, 0xFF, length)
    return header + bytes(4) + payload


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise peer.Ended
        data += piece
    return data


def next_frame(connection: socket.socket) -> tuple[int, bytes]:
    first, length = received(connection, 2)
    if length == 126:
        (length,) = struct.unpack(">H", received(connection, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", received(connection, 8))
    return first, received(connection, length)


@contextmanager
def upgraded(server: peer.Listening) -> Iterator[socket.socket]:
    with raw(server) as connection:
        connection.sendall(head("GET / HTTP/1.1", UPGRADE))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        yield connection


INITIALIZE = b'{"id":1,"method":"initialize","params":{"clientName":"x"}}'


@pytest.mark.parametrize(
    "frames",
    [
        masked(0x81, INITIALIZE),
        masked(0x82, INITIALIZE),
        masked(0x01, INITIALIZE[:10])
        + masked(0x00, INITIALIZE[10:20])
        + masked(0x80, INITIALIZE[20:]),
        masked(0x01, INITIALIZE[:10]) + masked(0x89, b"") + masked(0x80, INITIALIZE[10:]),
    ],
    ids=["text", "binary", "fragmented", "ping-between"],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_messages_arrive_however_they_are_framed(
    server: peer.Listening, frames: bytes, step: int
) -> None:
    with upgraded(server) as connection:
        for start in range(0, len(frames), step):
            connection.sendall(frames[start : start + step])
        first, payload = next_frame(connection)
        while first == 0x8A:
            first, payload = next_frame(connection)
        assert first == 0x81
        assert json.loads(payload)["result"]["sessionId"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x81\x05hello", 1002),
        (masked(0xC1, b"x"), 1002),
        (masked(0x83, b"x"), 1002),
        (masked(0x89, b"x" * 126), 1002),
        (masked(0x80, b"x"), 1002),
        (masked(0x01, b"x") + masked(0x81, b"x"), 1002),
        (masked(0x81, b"\xff"), 1007),
        (masked(0x81, b"", announced=16 * 1024 * 1024 + 1), 1009),
        (masked(0x81, b'{"method":"unknown"}'), 1008),
        (masked(0x88, struct.pack(">H", 1000)), 1000),
    ],
)
def test_the_close_frame_has_the_reason_for_the_end(
    server: peer.Listening, frames: bytes, code: int
) -> None:
    with upgraded(server) as connection:
        connection.sendall(frames)
        first, payload = next_frame(connection)
        assert first == 0x88
        assert struct.unpack(">H", payload[:2]) == (code,)
        assert connection.recv(1) == b""


def test_a_ping_is_answered_with_its_payload(server: peer.Listening) -> None:
    with upgraded(server) as connection:
        connection.sendall(masked(0x89, b"payload") + masked(0x8A, b"unsolicited"))
        assert next_frame(connection) == (0x8A, b"payload")


@pytest.mark.parametrize("payload", [b"", b" \n", b"\xff{"])
def test_unreadable_binary_messages_are_answered(server: peer.Listening, payload: bytes) -> None:
    with upgraded(server) as connection:
        connection.sendall(masked(0x82, payload))
        assert json.loads(next_frame(connection)[1])["id"] == -1


def test_a_fragmented_message_may_exceed_one_frame_but_not_the_limit(
    server: peer.Listening,
) -> None:
    piece = b" " * (16 * 1024 * 1024)
    with upgraded(server) as connection:
        connection.sendall(masked(0x01, piece) + masked(0x80, INITIALIZE))
        assert json.loads(next_frame(connection)[1])["id"] == 1
        connection.sendall(masked(0x01, piece))
        try:
            for _ in range(4):
                connection.sendall(masked(0x00, piece))
        except (BrokenPipeError, ConnectionResetError):
            return
        first, payload = next_frame(connection)
        assert (first, struct.unpack(">H", payload[:2])) == (0x88, (1009,))
