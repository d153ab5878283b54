"""One client's requests do not keep the server from another's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.measures

BURST = 400


@contextlib.contextmanager
def _held(pid: int) -> Iterator[None]:
    """Meanwhile a process does nothing; what it is sent waits in the kernel."""
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_burst_of_requests_is_served_by_turns_with_other_clients(tmp_path: Path) -> None:
    with peer.listening() as server:
        busy, other = server.client(), server.client()
        busy.initialize()
        other.initialize()
        with _held(server.process.pid):
            written = [
                busy.request("fs/writeFile", {"path": f"{tmp_path}/{number}", "dataBase64": ""})
                for number in range(BURST)
            ]
            looked = other.request("fs/getMetadata", {"path": f"{tmp_path}/{BURST - 1}"})
        assert other.answer(looked)["error"]["code"] == -32004  # not written yet
        assert all("result" in busy.answer(identifier) for identifier in written)
        assert len(list(tmp_path.iterdir())) == BURST


def test_requests_that_had_to_wait_for_their_turn_outlive_their_senders_end(
    tmp_path: Path,
) -> None:
    with peer.listening() as server:
        busy = server.client()
        busy.initialize()
        with _held(server.process.pid):
            for number in range(BURST):
                busy.request("fs/writeFile", {"path": f"{tmp_path}/{number}", "dataBase64": ""})
            busy.websocket.socket.shutdown(socket.SHUT_WR)
        assert peer.wait_until(lambda: len(list(tmp_path.iterdir())) == BURST)
