"""WebSockets over TLS (wss://)."""

from __future__ import annotations

import base64
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme

from exec_server.cli.server.main import main
from exec_server.transports.tls import server_context
from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Secured(NamedTuple):
    """A server, and what a client needs to trust it."""

    server: peer.Listening
    trust: ssl.SSLContext

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.server.url.rpartition(":")[2])

    def client(self) -> peer.WebSocketClient:
        return peer.WebSocketClient(self.server.url, ssl=self.trust)

    def connect(self) -> ssl.SSLSocket:
        connection = socket.create_connection(self.address, timeout=peer.PATIENCE)
        return self.trust.wrap_socket(connection, server_hostname="127.0.0.1")


class Files(NamedTuple):
    """Paths of what a server needs, in PEM."""

    authority: trustme.CA
    certificate: str
    key: str

    @property
    def options(self) -> tuple[str, ...]:
        return "--tls-cert", self.certificate, "--tls-key", self.key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "certificate", append=True)
    return Files(authority, str(folder / "certificate"), str(folder / "key"))


@contextmanager
def secured_by(files: Files, *arguments: str) -> Iterator[Secured]:
    trust = ssl.create_default_context()
    files.authority.configure_trust(trust)
    with peer.running("--listen", "wss://127.0.0.1:0", *files.options, *arguments) as process:
        server = peer.Listening(process)
        try:
            yield Secured(server, trust)
        finally:
            server.close()


@pytest.fixture(scope="module")
def secured(files: Files) -> Iterator[Secured]:
    with secured_by(files) as server:
        yield server


def test_the_url_says_so(secured: Secured) -> None:
    """With the real port."""
    assert secured.server.url.startswith("wss://127.0.0.1:")
    assert secured.address[1] > 0


def test_a_session(secured: Secured) -> None:
    """Like any other, with much in both directions."""
    client = secured.client()
    try:
        client.initialize()
        text = "x" * 3_000_000
        client.start("p", "sh", "-c", "head -c 3000000", pipeStdin=True)
        client.call("process/write", {"processId": "p", "chunk": encoded(text)})
        events = client.closed("p")
        assert sum(len(output(event)) for event in events) == len(text)
        assert client.is_alive()
    finally:
        client.close()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def output(event: dict[str, dict[str, str]]) -> bytes:
    return base64.b64decode(event["params"].get("chunk", ""))


def test_a_session_survives_its_connection(secured: Secured) -> None:
    """However that ended."""
    first = secured.client()
    session = first.initialize()
    first.start("p", "sleep", "100")
    first.close()
    second = secured.client()
    try:
        assert second.initialize(resumeSessionId=session) == session
        assert second.call("process/terminate", {"processId": "p"}) == {"running": True}
    finally:
        second.close()


def test_a_client_that_sends_without_reading(secured: Secured) -> None:
    """Gets all its answers once it reads."""
    client = secured.client()
    try:
        client.initialize()
        asked = [client.request("process/terminate", {"processId": "x" * 256}) for _ in range(5000)]
        for identifier in asked:
            assert client.answer(identifier)["result"] == {"running": False}
    finally:
        client.close()


def test_what_is_not_encrypted(secured: Secured) -> None:
    """Is not answered; others are served meanwhile."""
    with socket.create_connection(secured.address, timeout=peer.PATIENCE) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        said = b""
        while piece := receive(plain):
            said += piece
        assert b"HTTP" not in said
    client = secured.client()
    client.close()


def receive(connection: socket.socket) -> bytes:
    """Return the next bytes; none once the connection has ended in any way."""
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def test_versions(secured: Secured, files: Files) -> None:
    """Those that are sound; the newest one if both sides can."""
    assert server_context(files.certificate, files.key).minimum_version is ssl.TLSVersion.TLSv1_2
    with secured.connect() as encrypted:
        assert encrypted.version() == "TLSv1.3"


@pytest.mark.parametrize("orderly", [False, True])
def test_nothing_is_left_of_clients_that_have_gone(secured: Secured, orderly: bool) -> None:
    """However they left: no descriptor of theirs stays open."""
    folder = f"/proc/{secured.server.process.pid}/fd"
    before = len(os.listdir(folder))
    clients = [secured.client() for _ in range(5)]
    for client in clients:
        client.initialize()
    assert len(os.listdir(folder)) > before
    for client in clients:
        if orderly:
            client.close()
        else:
            # A reset instead of any goodbye.
            client.websocket.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            client.websocket.socket.close()
            client.close()
    assert peer.wait_until(lambda: len(os.listdir(folder)) <= before)


@pytest.mark.parametrize("handshake", [False, True])
def test_the_time_of_the_handshake_is_limited(files: Files, handshake: bool) -> None:
    """Before TLS is agreed on, and after."""
    with secured_by(files, "--handshake-seconds", "2") as secured:
        if handshake:
            with secured.connect() as encrypted:
                encrypted.sendall(b"GET / HT")
                assert receive(encrypted) == b""
        else:
            with socket.create_connection(secured.address, timeout=peer.PATIENCE) as plain:
                assert receive(plain) == b""


def test_the_time_is_limited_however_much_is_sent(files: Files) -> None:
    """It is one time for TLS and the request together."""
    with secured_by(files, "--handshake-seconds", "3") as secured:
        begin = time.monotonic()
        with socket.create_connection(secured.address, timeout=peer.PATIENCE) as plain:
            plain.settimeout(0.1)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            encrypted = secured.trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            assert not advances(encrypted.do_handshake)
            # Byte by byte, for about half of the time, and then the rest of it at once.
            hello = outgoing.read()
            for at in range(15):
                plain.sendall(hello[at : at + 1])
                assert waits(plain)
            plain.sendall(hello[15:])
            plain.settimeout(peer.PATIENCE)
            while not advances(encrypted.do_handshake):
                incoming.write(plain.recv(65536))
            plain.settimeout(0.1)
            while True:
                encrypted.write(b"G")
                try:
                    plain.sendall(outgoing.read())
                    if not waits(plain):
                        break
                except OSError:
                    break
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_request_that_comes_with_the_end_of_the_handshake(
    secured: Secured, files: Files, version: ssl.TLSVersion
) -> None:
    """In one piece, as it does when the server is busy meanwhile, is answered."""
    trust = ssl.create_default_context()
    files.authority.configure_trust(trust)
    trust.minimum_version = trust.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    encrypted = trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(secured.address, timeout=peer.PATIENCE) as plain:
        while not advances(encrypted.do_handshake):
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(65536))
        encrypted.write(b"GET /readyz HTTP/1.1\r\n\r\n")
        plain.sendall(outgoing.read())
        found: list[bytes] = []
        while not advances(lambda: found.append(encrypted.read())):
            incoming.write(plain.recv(65536))
    assert found[0].startswith(b"HTTP/1.1 200 OK")


def advances(step: Callable[[], object]) -> bool:
    """Take a step of TLS; False if the other side has to be heard first."""
    try:
        step()
    except ssl.SSLWantReadError:
        return False
    return True


def waits(connection: socket.socket) -> bool:
    """Return True if a connection stays open and silent for its time."""
    try:
        return bool(connection.recv(65536))
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


STRANGERS = 60


def test_a_stranger_takes_one_descriptor_and_little_memory(files: Files) -> None:
    """The client only connects, or completes the TLS handshake and then sends nothing."""
    with secured_by(files) as secured:
        pid = secured.server.process.pid
        with secured.connect() as first:
            assert first.version()
        folder = f"/proc/{pid}/fd"
        before, memory = len(os.listdir(folder)), resident_kib(pid)
        with contextlib.ExitStack() as exits:
            for number in range(STRANGERS):
                if number % 2:
                    exits.enter_context(secured.connect())
                else:
                    exits.enter_context(socket.create_connection(secured.address))
            assert len(os.listdir(folder)) <= before + STRANGERS
            assert resident_kib(pid) - memory < STRANGERS * 100
            secured.client().close()
        assert peer.wait_until(lambda: len(os.listdir(folder)) <= before)


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_strangers_take_no_descriptors_from_clients(files: Files, tmp_path: Path) -> None:
    """However many agree on TLS and then say nothing; nothing is said of them."""
    arguments = ("--listen", "wss://127.0.0.1:0", "--max-pending-connections", "100")
    trust = ssl.create_default_context()
    files.authority.configure_trust(trust)
    with (
        open(tmp_path / "log", "wb") as log,
        peer.running(
            *(*arguments, *files.options), stderr=log, preexec_fn=with_few_descriptors
        ) as process,
    ):
        secured = Secured(peer.Listening(process), trust)
        with contextlib.ExitStack() as exits:
            for number in range(300):
                exits.enter_context(secured.connect())
                if number % 100 == 50:
                    client = secured.client()
                    client.initialize()
                    client.start("p", "true")
                    client.closed("p")
                    client.close()
    lines = (tmp_path / "log").read_text().splitlines()
    (line,) = (line for line in lines if "running as root" not in line)
    assert line.startswith("codex-exec-server listening on wss://")


def with_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))


@pytest.mark.parametrize("end", ["reset", "shut"])
def test_a_stranger_that_leaves_in_the_middle(files: Files, end: str) -> None:
    """Of its handshake is forgotten at once."""
    with secured_by(files, "--handshake-seconds", "1000") as secured:
        folder = f"/proc/{secured.server.process.pid}/fd"
        before = len(os.listdir(folder))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        encrypted = secured.trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        assert not advances(encrypted.do_handshake)
        hello = outgoing.read()
        for size in (0, 1, len(hello) // 2, len(hello)):
            with socket.create_connection(secured.address, timeout=peer.PATIENCE) as plain:
                plain.sendall(hello[:size])
                if size == len(hello):
                    assert plain.recv(1)
                if end == "reset":
                    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    plain.close()
                else:
                    plain.shutdown(socket.SHUT_WR)
                assert peer.wait_until(lambda: len(os.listdir(folder)) <= before)


def test_the_end_of_a_connection_sends_a_close_alert(secured: Secured) -> None:
    """So that a client knows that nothing was cut off."""
    with secured.connect() as encrypted:
        strict = ssl.SSLSocket.read
        encrypted.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        encrypted.suppress_ragged_eofs = False
        answer = b""
        while piece := strict(encrypted, 65536):  # which raises if TLS was not ended
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 OK")


def test_the_door_is_the_same(secured: Secured) -> None:
    """Behind the encryption."""
    with secured.connect() as encrypted:
        encrypted.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: x\r\n\r\n")
        assert encrypted.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_the_number_of_clients_that_wait_is_limited(files: Files) -> None:
    """Also of those that have not agreed on TLS."""
    arguments = ("--listen", "wss://127.0.0.1:0", "--max-pending-connections", "2")
    with peer.running(*arguments, *files.options) as process:
        server = peer.Listening(process)
        address = "127.0.0.1", int(server.url.rpartition(":")[2])
        waiting = [socket.create_connection(address, timeout=peer.PATIENCE) for _ in range(3)]
        try:
            assert receive(waiting[0]) == b""
        finally:
            for connection in waiting:
                connection.close()


def test_processes_end_with_the_server(files: Files) -> None:
    """And its clients are told."""
    trust = ssl.create_default_context()
    files.authority.configure_trust(trust)
    with peer.running("--listen", "wss://127.0.0.1:0", *files.options) as process:
        server = peer.Listening(process)
        client = peer.WebSocketClient(server.url, ssl=trust)
        client.initialize()
        client.start("p", "sh", "-c", "echo $$; sleep 100")
        client.wait(lambda: client.events("p"))
        pid = int(output(client.events("p")[0]))
        process.terminate()
        client.wait_for_end()
        assert process.wait(peer.PATIENCE) == 0
        assert client.websocket.close_code == 1001
        assert peer.is_gone(pid)
        client.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--listen", "wss://127.0.0.1:0"], "requires --tls-cert and --tls-key"),
        (
            ["--listen", "wss://127.0.0.1:0", "--tls-cert", "{certificate}"],
            "requires --tls-cert and --tls-key",
        ),
        (
            ["--listen", "ws://127.0.0.1:0", "--tls-cert", "{certificate}", "--tls-key", "{key}"],
            "require `--listen wss://IP:PORT`",
        ),
        (["--tls-key", "{key}"], "require `--listen wss://IP:PORT`"),
        (
            ["--listen", "wss://127.0.0.1:0", "--tls-cert", "/no/such", "--tls-key", "{key}"],
            "failed to read /no/such: No such file or directory",
        ),
        (
            ["--listen", "wss://127.0.0.1:0", "--tls-cert", "{key}", "--tls-key", "{key}"],
            "are no certificate and its unencrypted key in PEM",
        ),
        (
            [
                "--listen",
                "wss://127.0.0.1:0",
                "--tls-cert",
                "{certificate}",
                "--tls-key",
                "{other}",
            ],
            "are no certificate and its unencrypted key in PEM",
        ),
        (
            [
                "--listen",
                "wss://127.0.0.1:0",
                "--tls-cert",
                "{certificate}",
                "--tls-key",
                "{locked}",
            ],
            "are no certificate and its unencrypted key in PEM",
        ),
        (["--listen", "wss://example.com:0"], "expected `wss://IP:PORT`"),
    ],
)
def test_wrong_options(
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    """They are reported in one line, without a prompt for a password."""
    other, locked = tmp_path / "other", tmp_path / "locked"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    subprocess.run(
        ["openssl", "pkey", "-aes128", "-passout", "pass:x", "-in", files.key, "-out", locked],
        check=True,
        capture_output=True,
    )
    places = {"certificate": files.certificate, "key": files.key, "other": other, "locked": locked}
    assert main([argument.format(**places) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert text in err
    assert err.count("\n") == 1
