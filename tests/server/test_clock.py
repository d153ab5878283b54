"""Jumps of the wall clock matter to nothing but signed tokens, which are about the time of day."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = (sys.executable, str(Path(__file__).parents[1] / "soak" / "jumping_clock.py"))

TIMES = ("--detached-seconds", "1", "--retention-seconds", "1", "--handshake-seconds", "1")


def children(pid: int) -> list[int]:
    """The programs that a server has started: all of them sleep."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if Path(f"/proc/{child}/comm").read_text() == "sleep\n"]


@pytest.fixture
def server() -> Iterator[peer.Listening]:
    """A server whose clock jumps."""
    with peer.running("--listen", "ws://127.0.0.1:0", *TIMES, program=PROGRAM) as process:
        listening = peer.Listening(process)
        yield listening
        listening.close()


def test_a_poll_takes_its_time_and_no_more(server: peer.Listening) -> None:
    client = server.client()
    client.initialize()
    client.start("p", "sleep", "1000")
    begin = time.monotonic()
    result = client.call("process/read", {"processId": "p", "waitMs": 300})
    assert 0.3 <= time.monotonic() - begin < peer.PATIENCE
    assert result["chunks"] == []


def test_a_closed_process_is_retained_and_then_forgotten(server: peer.Listening) -> None:
    client = server.client()
    client.initialize()
    client.start("p", "true")
    begin = time.monotonic()
    client.closed("p")

    def is_forgotten() -> bool:
        answer = client.answer(client.request("process/read", {"processId": "p"}))
        return "error" in answer

    assert not is_forgotten()
    assert peer.wait_until(is_forgotten)
    assert time.monotonic() - begin >= 1


def test_a_detached_session_can_be_resumed_and_then_ends(server: peer.Listening) -> None:
    client = server.client()
    session = client.initialize()
    client.start("p", "sleep", "1000")
    client.close()
    again = server.client()
    assert again.initialize(resumeSessionId=session) == session
    assert again.call("process/read", {"processId": "p"})["exited"] is False
    (pid,) = children(server.process.pid)
    again.close()
    begin = time.monotonic()
    assert peer.wait_until(lambda: peer.is_gone(pid))
    assert time.monotonic() - begin >= 0.9  # the end began before it was seen to
    params = {"clientName": "test", "resumeSessionId": session}
    assert "unknown session id" in server.client().error("initialize", params)["message"]


def test_who_says_nothing_is_dropped_in_time(server: peer.Listening) -> None:
    host, _, port = server.url.removeprefix("ws://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=peer.PATIENCE) as silent:
        begin = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - begin >= 0.9
