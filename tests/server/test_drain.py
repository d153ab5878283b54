"""A server that is told to end brings what is under way to its end, and begins nothing new."""

from __future__ import annotations

import base64
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLITE = (
    "trap 'echo bye; echo last words >&2; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
)
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.01; done"


REFUSAL = {"code": -32600, "message": "the server is shutting down"}


class Served:
    """A client, and the server's process that is to end."""

    def __init__(self, client: peer.Client, process: Any) -> None:
        self.client = client
        self.process = process

    def told(self) -> None:
        """Tell the server to end."""
        self.process.send_signal(signal.SIGTERM)

    def refuses(self) -> bool:
        """Return True once the server refuses new requests, after it has received the signal."""
        return peer.wait_until(
            lambda: (
                self.client.answer(self.client.request("environment/info")).get("error") == REFUSAL
            )
        )

    def left(self) -> int:
        """Take everything that is still sent; returns the exit code."""
        self.client.wait_for_end()
        code: int = self.process.wait(peer.PATIENCE)
        return code


@pytest.fixture(params=["stdio", "ws"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A client that is ready, over each transport; the grace is longer than any test's patience."""
    yield from _served(request.param, "--grace-seconds", "60")


@pytest.fixture(params=["stdio", "ws"])
def hasty(request: pytest.FixtureRequest) -> Iterator[Served]:
    """The same with hardly any grace."""
    yield from _served(request.param, "--grace-seconds", "0.2")


def _served(transport: str, *arguments: str) -> Iterator[Served]:
    if transport == "stdio":
        with peer.stdio(*arguments) as client:
            client.initialize()
            yield Served(client, client.process)
    else:
        with peer.listening(*arguments) as server:
            websocket = server.client()
            websocket.initialize()
            yield Served(websocket, server.process)


def output(events: list[dict[str, Any]]) -> bytes:
    """Return the output of a process, from its notifications."""
    return b"".join(
        base64.b64decode(event["params"]["chunk"])
        for event in events
        if event["method"] == "process/output"
    )


def started(client: peer.Client, script: str) -> None:
    """Start a shell script that says when it is ready."""
    client.start("p", "sh", "-c", script)
    client.wait(lambda: output(client.events("p")))


def exit_codes(client: peer.Client) -> list[int]:
    return [
        event["params"]["exitCode"]
        for event in client.events("p")
        if event["method"] == "process/exited"
    ]


def test_processes_are_asked_to_end_and_their_last_words_delivered(served: Served) -> None:
    """Output, exit and closing, on the wire before the connection ends."""
    client = served.client
    started(client, POLITE)
    served.told()
    assert served.left() == 0
    lines = output(client.events("p")).splitlines()
    assert {b"ready", b"bye", b"last words"} <= set(lines)
    assert exit_codes(client) == [3]
    assert client.events("p")[-1]["method"] == "process/closed"


def test_who_does_not_end_is_killed_when_the_grace_is_over(hasty: Served) -> None:
    """The kill is reported as well."""
    client = hasty.client
    started(client, DEAF)
    hasty.told()
    assert hasty.left() == 0
    assert exit_codes(client) == [-1]
    assert client.events("p")[-1]["method"] == "process/closed"


def test_a_second_signal_ends_the_grace(served: Served) -> None:
    """For people who do not want to wait."""
    started(served.client, DEAF)
    served.told()
    assert served.refuses()
    served.told()
    assert served.left() == 0


def test_requests_under_way_are_answered(served: Served) -> None:
    """A long poll, by the end that it waits for."""
    client = served.client
    started(client, POLITE)
    poll = client.request("process/read", {"processId": "p", "afterSeq": 1, "waitMs": 60_000})
    exit_poll = client.request("process/read", {"processId": "p", "afterSeq": 9, "waitMs": 60_000})
    served.told()
    assert served.left() == 0
    assert client.answers[poll][0]["result"]["chunks"]
    assert client.answers[exit_poll][0]["result"]["exited"]


def test_an_http_request_under_way_is_answered(served: Served) -> None:
    """Within the grace."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        url = f"http://127.0.0.1:{upstream.getsockname()[1]}/"
        params = {"method": "GET", "url": url, "requestId": "r", "headers": []}
        request = served.client.request("http/request", params)
        upstream.settimeout(peer.PATIENCE)
        connection, _ = upstream.accept()
        with connection:
            assert connection.recv(65536)
            served.told()
            assert served.refuses()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert served.left() == 0
    assert served.client.answers[request][0]["result"]["bodyBase64"] == "b2s="


def test_nothing_new_is_begun(served: Served) -> None:
    """Requests about existing processes are served; all others are refused with a reason."""
    client = served.client
    started(client, DEAF)
    served.told()
    assert served.refuses()
    for method, params in [
        ("process/start", peer.start_params("q", "true")),
        ("fs/getMetadata", {"path": "/"}),
    ]:
        assert client.error(method, params) == REFUSAL
    assert client.call("process/read", {"processId": "p"})["chunks"]
    assert client.call("process/terminate", {"processId": "p"}) == {"running": True}
    assert served.left() == 0


def test_no_connection_is_accepted_any_more() -> None:
    """While those that there are go on."""
    with peer.listening("--grace-seconds", "60") as server:
        client = server.client()
        client.initialize()
        started(client, DEAF)
        server.process.send_signal(signal.SIGTERM)
        assert Served(client, server.process).refuses()
        with pytest.raises(OSError, match="refused"):
            server.client()
        client.call("process/terminate", {"processId": "p"})
        assert server.process.wait(peer.PATIENCE) == 0


def test_a_detached_session_ends_as_well() -> None:
    """No client receives its events, but its processes get SIGTERM all the same."""
    with peer.listening("--grace-seconds", "60", "--detached-seconds", "60") as server:
        client = server.client()
        client.initialize()
        started(client, POLITE)
        client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(peer.PATIENCE) == 0


def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    """Input that is queued when the shutdown begins is delivered to the last byte."""
    size = 4_000_000
    (tmp_path / "file").write_bytes(b"x" * size)
    with peer.stdio("--grace-seconds", "60") as client:
        client.initialize()
        request = client.request("fs/readFile", {"path": f"{tmp_path}/file"})
        assert client.process.stdout is not None
        assert select.select([client.process.stdout], [], [], peer.PATIENCE)[0]
        client.process.send_signal(signal.SIGTERM)
        answer = client.answer(request)
        assert len(base64.b64decode(answer["result"]["dataBase64"])) == size
        client.wait_for_end()
        assert client.process.wait(peer.PATIENCE) == 0


def test_without_grace_processes_are_killed_at_once() -> None:
    """And their ends told."""
    with peer.stdio("--grace-seconds", "0") as client:
        client.initialize()
        started(client, POLITE)
        client.process.send_signal(signal.SIGTERM)
        client.wait_for_end()
        assert client.process.wait(peer.PATIENCE) == 0
        assert exit_codes(client) == [-1]
        assert output(client.events("p")) == b"ready\n"
