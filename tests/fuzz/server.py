"""Servers under fuzz, over either transport: what is sent, what comes back, what is left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

PROGRAM: Final = str(Path(sys.executable).with_name("codex-exec-server"))

_READ_ONLY: Final = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'

_UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Hung(Exception):
    """No answer came in time."""


class Ended(Exception):
    """The server ended the connection."""


def command(folder: str, *arguments: str) -> list[str]:
    """A server's command; where that is allowed it can write nowhere but in the folder."""
    program = [PROGRAM, *arguments]
    confined = ["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh", folder]
    if subprocess.run([*confined, "true"], capture_output=True).returncode:
        return program
    return [*confined, *program]


@contextlib.contextmanager
def running(argv: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that does not outlive what is done with it."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "http_proxy": "", "all_proxy": "", **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # harmless to one that has been waited for


def memory_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a server, without that to its watchdog."""
    return len(os.listdir(f"/proc/{pid}/fd")) - min(1, _children(pid))


def children(pid: int) -> int:
    """Return the number of children of a server, zombies included, without its watchdog.

    It has that from the first process on that it starts.
    """
    return max(0, _children(pid) - 1)


def _children(pid: int) -> int:
    return sum(
        len(task.read_text().split()) for task in Path(f"/proc/{pid}/task").glob("*/children")
    )


class Connection:
    """Sends messages, and takes whatever comes back."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        """The ids, among strings, that were answered."""
        self._syncs = 0

    def send(self, message: bytes) -> None:
        """Send one message. Raises Ended."""
        raise NotImplementedError

    def take(self, deadline: float) -> list[bytes]:
        """Some messages that came. Raises Ended, or Hung when the time is up."""
        raise NotImplementedError

    def handshake(self) -> None:
        """The protocol's own."""
        self.send(b'{"id":"hello","method":"initialize","params":{"clientName":"fuzz"}}')
        self.send(b'{"method":"initialized"}')

    def sync(self) -> None:
        """Return when everything sent so far was looked at. Raises Ended, or Hung."""
        self._syncs += 1
        name = f"sync{self._syncs}"
        # Known to every revision, in v0 by another name and then as good as any.
        request: dict[str, Any] = {
            "id": name,
            "method": "process/terminate",
            "params": {"processId": "nobody"},
        }
        self.send(json.dumps(request).encode())
        self.settle({name})

    def settle(self, names: AbstractSet[str]) -> None:
        """Return when requests with all of these ids were answered. Raises Ended, or Hung."""
        deadline = time.monotonic() + PATIENCE
        while not names <= self.answered:
            for message in self.take(deadline):
                if message.startswith(b'{"id":"'):
                    self.answered.add(message[7 : message.index(b'"', 7)].decode())
                elif message.startswith(b'{"error"'):
                    self.answered.add(str(json.loads(message)["id"]))


class StdioConnection(Connection):
    """The one connection of a server on pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__()
        assert process.stdin is not None
        assert process.stdout is not None
        self._input = process.stdin.fileno()
        self._output = process.stdout.fileno()
        self._partial = b""
        self._pending: list[bytes] = []

    def send(self, message: bytes) -> None:
        """Send one line."""
        left = memoryview(message.replace(b"\n", b" ") + b"\n")
        deadline = time.monotonic() + PATIENCE
        while left:
            readable, writable, _ = select.select([self._output], [self._input], [], PATIENCE)
            if readable:
                # The server must never wait for us while we wait for it.
                self._pending += self._read()
            if writable:
                try:
                    left = left[os.write(self._input, left[:4096]) :]
                except BrokenPipeError:
                    raise Ended from None
            if time.monotonic() > deadline:
                raise Hung("nothing is read")

    def take(self, deadline: float) -> list[bytes]:
        """The next lines."""
        if self._pending:
            taken, self._pending = self._pending, []
            return taken
        if not select.select([self._output], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Hung("no answer")
        return self._read()

    def _read(self) -> list[bytes]:
        data = os.read(self._output, 1 << 20)
        if not data:
            raise Ended
        *lines, self._partial = (self._partial + data).split(b"\n")
        return lines


class WebSocketConnection(Connection):
    """One of the connections of a server that listens."""

    def __init__(self, url: str) -> None:
        super().__init__()
        host, port = url.removeprefix("ws://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_UPGRADE)
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._receive()
        self._buffer = self._buffer.partition(b"\r\n\r\n")[2]

    def send(self, message: bytes) -> None:
        """Send one text frame."""
        self.send_raw(frame(0x81, message))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise Hung("nothing is read") from None
        except OSError:
            raise Ended from None

    def take(self, deadline: float) -> list[bytes]:
        """The payloads of the next frames. Raises Ended at a close frame, too."""
        while True:
            messages = self._cut()
            if messages:
                return messages
            if time.monotonic() > deadline:
                raise Hung("no answer")
            self._buffer += self._receive()

    def _cut(self) -> list[bytes]:
        messages = []
        position = 0
        buffer = self._buffer
        while len(buffer) - position >= 2:
            length = buffer[position + 1]
            start = position + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                length = int.from_bytes(buffer[start : start + size], "big")
                start += size
            if len(buffer) < start + length:
                break
            if buffer[position] == 0x88:
                raise Ended
            if buffer[position] == 0x81:
                messages.append(buffer[start : start + length])
            position = start + length
        self._buffer = buffer[position:]
        return messages

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            raise Hung("no answer") from None
        except OSError:
            raise Ended from None
        if not data:
            raise Ended
        return data

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()


def frame(first: int, payload: bytes, mask: bytes = b"\0\0\0\0") -> bytes:
    """A masked frame; the mask is not applied."""
    length = len(payload)
    if length < 126:
        header = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        header = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        header = struct.pack("!BBQ", first, 0x80 | 127, length)
    return header + mask + payload


def random_frames(chance: random.Random) -> bytes:
    """Frames of any kind and in any order, some of them broken."""
    pieces = []
    for _ in range(chance.choice((1, 3, 10))):
        first = chance.choice(
            (0x81, 0x01, 0x00, 0x80, 0x82, 0x89, 0x8A, 0x88, 0x09, 0xC1, 0x83, 0xFF)
        )
        payload = chance.choice(
            (b"", b"{}", b"\xff\xfe", b"x" * 125, b"x" * 126, b"[" * 70_000, b"\x03\xe8", b"\x00")
        )
        data = frame(first, payload, chance.randbytes(4) if chance.random() < 0.3 else b"\0\0\0\0")
        kind = chance.randrange(8)
        if kind == 0:
            data = data[: chance.randrange(len(data))]
        elif kind == 1:
            data = data[:1] + bytes((data[1] & 0x7F,)) + data[2:]
        elif kind == 2:
            data = first.to_bytes(1, "big") + b"\xff" + chance.randbytes(8)
        elif kind == 3:
            data = chance.randbytes(chance.choice((1, 10, 100)))
        pieces.append(data)
    return b"".join(pieces)
