"""The web server that sessions let the server under test talk to."""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING

import pytest

from exec_server_conformance.runner.http_origin import Origin
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    with Origin() as origin:
        connection = http.client.HTTPConnection(
            "127.0.0.1", origin.server_address[1], timeout=PATIENCE
        )
        yield connection
        connection.close()


def body_of(connection: http.client.HTTPConnection, method: str, path: str) -> bytes:
    connection.request(method, path)
    return connection.getresponse().read()


def test_echo_repeats_only_client_chosen_headers(
    connection: http.client.HTTPConnection,
) -> None:
    connection.request(
        "FROB", "/echo?a=1", b"body", {"X-Two": "2", "x-one": "1", "User-Agent": "other"}
    )
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read() == b"FROB /echo?a=1\nx-one: 1\nx-two: 2\n\nbody"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/hello", b"hello"),
        ("/pieces", b"one two three"),
        ("/bytes", bytes(range(256))),
        ("/big/70000", 70000 * b"x"),
        ("/status/204", b""),
        ("/status/404", b"status 404\n"),
        ("/redirect/302", b"elsewhere\n"),
        ("/unheard-of", b"no such path\n"),
    ],
)
def test_paths_and_bodies(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    assert body_of(connection, "GET", path) == body
    assert body_of(connection, "GET", "/hello") == b"hello", "the connection is of further use"


def test_broken_body_is_shorter_than_announced(connection: http.client.HTTPConnection) -> None:
    with pytest.raises(http.client.IncompleteRead):
        body_of(connection, "GET", "/broken")


def test_shutdown_with_a_waiting_client() -> None:
    threads = threading.active_count()
    with Origin() as origin:
        connection = http.client.HTTPConnection(
            "127.0.0.1", origin.server_address[1], timeout=PATIENCE
        )
        connection.request("GET", "/drip")
        assert connection.getresponse().read(5) == b"start"
    connection.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(20)
    assert threading.active_count() <= threads
