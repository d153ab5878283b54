"""WebSockets over a socket in the file system (unix://)."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.cli.server.main import main
from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path() -> Iterator[Path]:
    """Where to listen; a socket's path is shorter than those of pytest's folders can be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "socket"


@contextmanager
def listening(path: Path, *arguments: str) -> Iterator[peer.Listening]:
    with peer.running("--listen", f"unix://{path}", *arguments) as process:
        server = peer.Listening(process)
        try:
            yield server
        finally:
            server.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_session(path: Path) -> None:
    """Like any other; the socket goes with the server."""
    with listening(path) as server:
        assert server.url == f"unix://{path}"
        client = server.client()
        client.initialize()
        client.start("p", "echo", "hello")
        assert client.closed("p")
        client.send_text("no JSON")
        answer = client.answer(-1)
        assert "exec-server websocket unix:" in answer["error"]["message"]
        assert client.is_alive()
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), 0o600), (("--socket-mode", "660"), 0o660)]
)
def test_its_mode(path: Path, arguments: tuple[str, ...], expected: int) -> None:
    """The mode determines who may connect; by default only the same user."""
    old = os.umask(0o022)
    try:
        with listening(path, *arguments):
            assert mode(path) == expected
    finally:
        os.umask(old)


def test_files_of_processes_have_their_own_mode(path: Path) -> None:
    """The umask is the one that the server was started with."""
    old = os.umask(0o027)
    try:
        with listening(path) as server:
            client = server.client()
            client.initialize()
            client.start("p", "touch", "made", cwd=str(path.parent))
            client.closed("p")
            assert mode(path.parent / "made") == 0o640
    finally:
        os.umask(old)


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """Is replaced."""
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
        left_over.listen()
    with listening(path) as server:
        assert server.client().initialize()


def test_a_server_that_is_killed(path: Path) -> None:
    """Leaves its socket; the next one takes its place."""
    with listening(path) as server:
        server.process.kill()
        server.process.wait()
        assert path.exists()
        with listening(path) as second:
            assert second.client().initialize()


def test_what_another_server_has_put_there(path: Path) -> None:
    """Stays when the first one ends."""
    with listening(path) as first:
        path.unlink()
        with listening(path) as second:
            first.process.terminate()
            assert first.process.wait(peer.PATIENCE) == 0
            assert second.client().initialize()


def test_a_path_that_is_taken(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By another server, by one that is too busy to accept, or by anything else."""

    def refused() -> str:
        assert main(["--listen", f"unix://{path}"]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        return err

    taken = "Error: Address already in use (os error 98)\n"
    with listening(path) as server:
        assert refused() == taken
        assert server.client().initialize()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        assert refused() == taken
    path.unlink()
    path.write_text("precious")
    assert refused() == taken
    assert path.read_text() == "precious"


def test_no_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Is told."""
    assert main(["--listen", f"unix://{tmp_path}/missing/socket"]) == 1
    assert capfd.readouterr().err == "Error: No such file or directory (os error 2)\n"
    assert main(["--listen", f"unix://{tmp_path}/{'x' * 200}"]) == 1
    assert capfd.readouterr().err == "Error: File name too long (os error 36)\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "unix://relative"], 1, "expected `unix:///PATH`"),
        (["--listen", "unix://"], 1, "expected `unix:///PATH`"),
        (["--listen", "ws://127.0.0.1:0", "--socket-mode", "600"], 1, "--socket-mode requires"),
        (["--socket-mode", "600"], 1, "--socket-mode requires"),
    ],
)
def test_wrong_options(
    capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    """Are told in one line."""
    assert main(arguments) == code
    err = capfd.readouterr().err
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("value", ["rw", "8", "9999", "1777", "", "66"])
def test_modes_that_are_none(path: Path, value: str) -> None:
    """Are wrong usage."""
    done = subprocess.run(
        [peer.PROGRAM, "--listen", f"unix://{path}", "--socket-mode", value],
        capture_output=True,
        text=True,
        timeout=peer.PATIENCE,
    )
    assert done.returncode == 2
    assert "expected three octal digits" in done.stderr
    assert not path.exists()


def test_tokens_can_be_asked_for_too(path: Path) -> None:
    """Where the mode lets in more than one should."""
    arguments = ("--ws-auth", "capability-token", "--ws-token-sha256", "0" * 64)
    with listening(path, *arguments) as server, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(peer.PATIENCE)
        connection.connect(server.url.removeprefix("unix://"))
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: any.name\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
