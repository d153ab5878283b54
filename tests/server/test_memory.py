"""Memory that a server no longer uses goes back to the system."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import socket
import sys
import termios
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.measures

MEBIBYTE = 1024 * 1024

CLIENTS = 6
LEFT_BYTES = 24 * 1024 * 1024
"""Growth above the size at rest below which no memory is returned."""


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_what_clients_have_not_read_is_given_back_when_they_are_gone(tmp_path: Path) -> None:
    with peer.listening("--detached-seconds", "1") as server:
        pid = server.process.pid
        stays = server.client()
        stays.initialize()
        at_rest = resident_bytes(pid)
        clients = [server.client() for _ in range(CLIENTS)]
        for client in clients:
            client.initialize()
            client.start("p", "head", "-c", "1000000", "/dev/zero")
            client.closed("p")
        for client in clients:
            for _ in range(40):  # of which the client library takes 16
                client.request("process/read", {"processId": "p"})
        assert peer.wait_until(lambda: resident_bytes(pid) > at_rest + LEFT_BYTES)
        # What is still in use lies above what is not, so that the C library cannot let go of it.
        stays.start("p", "head", "-c", "500000", "/dev/zero")
        stays.closed("p")
        for client in clients:
            client.websocket.socket.close()
        assert peer.wait_until(lambda: resident_bytes(pid) < at_rest + LEFT_BYTES)


HELD_BYTES = 16 * MEBIBYTE
"""The memory budget of the servers below."""

SLACK_BYTES = 40 * MEBIBYTE
"""Additional memory of a server, for current work and for imported modules."""


def peak_bytes(pid: int) -> int:
    """The most memory that a process has taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0])


@contextmanager
def bounded(*arguments: str, held: int = HELD_BYTES) -> Iterator[peer.Listening]:
    """A server whose memory may grow by what it may hold for a client, and hardly more."""
    options = ("--max-held-bytes", str(held), "--max-retained-bytes", str(MEBIBYTE), *arguments)
    with peer.listening(*options) as server:
        other = server.client()
        other.initialize()
        at_rest = resident_bytes(server.process.pid)
        yield server
        assert other.is_alive()
        assert peak_bytes(server.process.pid) - at_rest < held + SLACK_BYTES


REFUSAL = f"the server holds at most {HELD_BYTES} bytes for a client at a time"


class TestHeld:
    """The memory held for a client is bounded, whatever it consists of."""

    def test_devices_without_an_end(self) -> None:
        with bounded() as server:
            client = server.client()
            client.initialize()
            reads = [client.request("fs/readFile", {"path": "/dev/zero"}) for _ in range(30)]
            answers = [client.answer(read) for read in reads]
            assert {answer["error"]["message"] for answer in answers} == {REFUSAL}
            assert {answer["error"]["code"] for answer in answers} == {-32600}

    def test_fifos(self, tmp_path: Path) -> None:
        """The content is freed when the response has been sent."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        with bounded() as server:
            client = server.client()
            client.initialize()
            for name in "abcd":
                read = client.request("fs/readFile", {"path": str(fifo)})
                client.start(name, "sh", "-c", f"head -c 10000000 /dev/zero > {fifo}")
                assert len(client.answer(read)["result"]["dataBase64"]) == 13_333_336

    @pytest.mark.parametrize("payload", [b"", b"ab"])
    def test_fragments(self, payload: bytes) -> None:
        """Of a message that never ends."""
        with bounded() as server, raw_connection(server) as connection:
            connection.sendall(frame(0x01, b"{"))
            burst = frame(0x00, payload) * 10_000
            for _ in range(40):
                connection.sendall(burst)
            connection.sendall(frame(0x89, b"all was read"))
            received = b""
            while b"all was read" not in received:
                received += connection.recv(4096)

    def test_input_of_many_processes(self) -> None:
        """None of which reads; what ends them is served."""
        chunk = base64.b64encode(bytes(3 * MEBIBYTE)).decode()
        with bounded() as server:
            client = server.client()
            client.initialize()
            writes = []
            for number in range(20):
                client.start(f"{number}", "sleep", "1000", pipeStdin=True)
                params = {"processId": f"{number}", "chunk": chunk}
                writes.append(client.answer(client.request("process/write", params)))
            assert writes[0]["result"] == {"status": "accepted"}
            assert writes[-1]["error"] == {"code": -32600, "message": REFUSAL}
            for number in range(20):
                client.call("process/terminate", {"processId": f"{number}"})
                client.closed(f"{number}")
            assert "result" in client.answer(client.request("fs/readFile", {"path": "/dev/null"}))
            client.start("again", "cat", pipeStdin=True)
            params = {"processId": "again", "chunk": chunk}
            assert client.call("process/write", params) == {"status": "accepted"}

    def test_arguments_of_many_processes(self) -> None:
        """They can be listed as long as the process is known."""
        with bounded() as server:
            client = server.client()
            client.initialize()
            argv = ["sleep", "1000", *"abcdefgh" * 1900]
            params = [
                peer.start_params(f"{number}", "sh", "-c", "sleep 1000", *argv)
                for number in range(30)
            ]
            answers = [client.answer(client.request("process/start", each)) for each in params]
            assert "result" in answers[0]
            assert answers[-1]["error"] == {"code": -32600, "message": REFUSAL}

    def test_requests_with_many_small_values(self, tmp_path: Path) -> None:
        """They take many times their messages while they wait for their turn."""
        with bounded() as server, blocked(server, tmp_path) as (client, unblock):
            params = json.dumps(peer.start_params("p", "true", *"a" * 200_000))
            requests = range(1000, 1030)
            text = [
                f'{{"id":{number},"method":"process/start","params":{params}}}'
                for number in requests
            ]
            with sending(client, text, unblock):
                assert all(client.answer(number) for number in requests)

    def test_answers_to_requests_that_have_queued_up(self, tmp_path: Path) -> None:
        """They are made one after the other, as the client reads them."""
        (tmp_path / "file").write_bytes(bytes(100_000))
        params = json.dumps({"path": str(tmp_path / "file")})
        requests = range(1000, 2000)
        with bounded() as server, blocked(server, tmp_path) as (client, unblock):
            text = [
                f'{{"id":{number},"method":"fs/readFile","params":{params}}}' for number in requests
            ]
            with sending(client, text, unblock):
                assert all("result" in client.answer(number) for number in requests)

    def test_answers_to_polls_that_wait_for_the_same(self) -> None:
        """The last output of a process reaches all of them."""
        program = (
            "import fcntl, sys; sys.stdin.readline(); fcntl.fcntl(1, 1031, 1 << 20);"
            "sys.stdout.write('x' * (1 << 20))"
        )
        with bounded() as server:
            client = server.client()
            client.initialize()
            client.start("p", sys.executable, "-c", program, pipeStdin=True)
            poll = {"processId": "p", "waitMs": 60_000}
            polls = [client.request("process/read", poll) for _ in range(500)]
            client.call("process/write", {"processId": "p", "chunk": "Cg=="})
            assert all(client.answer(poll)["result"]["chunks"] for poll in polls)

    def test_output_of_processes_that_run(self) -> None:
        """The one that writes keeps less of its own."""
        names = "abcdef"
        with bounded() as server:
            client = server.client()
            client.initialize()
            for name in names:
                client.start(name, "sh", "-c", "head -c 999000 /dev/zero; printf end; sleep 1000")
                client.wait(lambda name=name: has_ended(client.events(name)))
            views = [client.call("process/read", {"processId": name}) for name in names]
            retained = [sum(map(size_of, view["chunks"])) for view in views]
            assert all(retained)
            assert sum(retained) <= MEBIBYTE + len(names) * 65_536
            assert [view["chunks"][-1]["seq"] + 1 for view in views] == [
                view["nextSeq"] for view in views
            ]

    @pytest.mark.parametrize("character", ["\U0001f600", "\\ud83d\\ude00"])
    def test_characters_that_take_four_bytes(self, character: str) -> None:
        """One of them makes a text take four times its length."""
        with bounded("--max-message-bytes", str(HELD_BYTES)) as server:
            client = server.client()
            client.initialize()
            text = character + "A" * (HELD_BYTES - 1000)
            params = f'{{"path":"/dev/null","dataBase64":"{text}"}}'
            client.send_text(f'{{"id":7,"method":"fs/writeFile","params":{params}}}')
            assert "base64" in client.answer(7)["error"]["message"]


def size_of(chunk: dict[str, Any]) -> int:
    return len(base64.b64decode(chunk["chunk"]))


def has_ended(events: Sequence[dict[str, Any]]) -> bool:
    """Return True if the last output ends with the word for it."""
    return bool(events) and base64.b64decode(events[-1]["params"]["chunk"]).endswith(b"end")


@contextmanager
def sending(
    client: peer.Client, messages: Sequence[str], unblock: Callable[[], None]
) -> Iterator[None]:
    """Send messages until all are sent or the server takes no more; then the block ends."""

    def send() -> None:
        for message in messages:
            client.send_text(message)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(2.0)
    unblock()
    yield
    thread.join(peer.PATIENCE)


@contextmanager
def blocked(
    server: peer.Listening, folder: Path
) -> Iterator[tuple[peer.Client, Callable[[], None]]]:
    """A client whose file system calls wait for one that is under way, and what ends that one."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    client = server.client()
    client.initialize()
    data = base64.b64encode(bytes(MEBIBYTE)).decode()
    client.request("fs/writeFile", {"path": str(fifo), "dataBase64": data})
    assert peer.wait_until(lambda: fcntl.ioctl(reader, termios.FIONREAD, bytes(4)) != bytes(4))

    def drain() -> None:
        while os.read(reader, MEBIBYTE):
            pass

    draining = threading.Thread(target=drain)

    def unblock() -> None:
        os.set_blocking(reader, True)
        draining.start()

    try:
        yield client, unblock
    finally:
        draining.join(peer.PATIENCE)
        os.close(reader)


def frame(first: int, payload: bytes) -> bytes:
    """A frame of up to 125 bytes, masked with zeros."""
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


@contextmanager
def raw_connection(server: peer.Listening) -> Iterator[socket.socket]:
    """A WebSocket connection, behind the first handshake."""
    host, port = server.url.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=peer.PATIENCE) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(4096).endswith(b"\r\n\r\n")
        yield connection
