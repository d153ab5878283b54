"""A listening server: reloading on SIGHUP, signals that end nothing, and what is logged."""

from __future__ import annotations

import select
import signal
import ssl
import subprocess
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest
import trustme
from websockets.exceptions import InvalidStatus

from exec_server.log_throttle import MESSAGES
from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELOADED = "secrets and certificates were read again"
KEPT = "reload failed, the previous secrets and certificates stay in use"


class Server(peer.Listening):
    """A listening server whose log is read."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process)
        assert process.stderr is not None
        self._log: IO[bytes] = process.stderr

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(signum)

    def log_until(self, text: str) -> list[str]:
        """Return the lines of the log up to the next one that contains a text."""
        lines: list[str] = []
        while select.select([self._log], [], [], peer.PATIENCE)[0]:
            lines.append(self._log.readline().decode())
            if text in lines[-1]:
                return lines
            if not lines[-1]:
                break
        pytest.fail(f"the server did not log {text!r}, but {lines}")

    def connect(self, token: str) -> peer.WebSocketClient:
        """Connect with a token. Raises InvalidStatus if it is refused."""
        return peer.WebSocketClient(
            self.url, additional_headers={"Authorization": f"Bearer {token}"}
        )


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A server that listens with some options, unbuffered log included."""
    with peer.running(*arguments, stderr=subprocess.PIPE, bufsize=0) as process:
        server = Server(process)
        try:
            yield server
        finally:
            server.close()
            assert process.stderr is not None
            process.stderr.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with the token `first`."""
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
def authenticated(token_file: Path) -> Iterator[Server]:
    """A server that requires the token in the file."""
    options = ("--ws-auth", "capability-token", "--ws-token-file", str(token_file))
    with serving("--listen", "ws://127.0.0.1:0", *options) as server:
        yield server


def test_sighup_replaces_the_token(authenticated: Server, token_file: Path) -> None:
    """The new token is accepted, the old one refused, and open connections go on."""
    before = authenticated.connect("first")
    before.initialize()
    token_file.write_text("second\n")
    authenticated.signal(signal.SIGHUP)
    authenticated.log_until(RELOADED)
    after = authenticated.connect("second")
    after.initialize()
    with pytest.raises(InvalidStatus, match="401"):
        authenticated.connect("first")
    before.start("p", "true")
    assert before.closed("p")
    before.close()
    after.close()


def test_a_failed_reload_keeps_the_token(authenticated: Server, token_file: Path) -> None:
    """The reason is logged, without the secret."""
    token_file.write_bytes(b"\xff")
    authenticated.signal(signal.SIGHUP)
    line = authenticated.log_until(KEPT)[-1]
    assert "stream did not contain valid UTF-8" in line
    client = authenticated.connect("first")
    client.initialize()
    client.close()


def test_sighup_replaces_the_certificate(tmp_path: Path) -> None:
    """New connections see the new certificate."""
    authority = trustme.CA()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def issue() -> bytes:
        certificate = authority.issue_cert("localhost")
        chain.write_bytes(b"".join(one.bytes() for one in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(str(key))
        return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())

    first = issue()
    options = ("--tls-cert", str(chain), "--tls-key", str(key))
    with serving("--listen", "wss://127.0.0.1:0", *options) as server:
        host, _, port = server.url.removeprefix("wss://").rpartition(":")

        def presented() -> bytes:
            return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))

        assert presented() == first
        second = issue()
        server.signal(signal.SIGHUP)
        server.log_until(RELOADED)
        assert presented() == second
        key.write_text("no key")
        server.signal(signal.SIGHUP)
        server.log_until(KEPT)
        assert presented() == second


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_user_signals_end_nothing(authenticated: Server, signum: signal.Signals) -> None:
    """They have no meaning, and programs still get their default action."""
    client = authenticated.connect("first")
    client.initialize()
    authenticated.signal(signum)
    client.start("p", "sh", "-c", f"kill -{signum.name.removeprefix('SIG')} $$; sleep 60")
    (exited,) = [one for one in client.closed("p") if one["method"] == "process/exited"]
    assert exited["params"]["exitCode"] == -1  # killed by a signal, in v1
    client.close()


def test_refusals_are_logged_but_not_without_bound(authenticated: Server) -> None:
    """A line names the address and the reason, never the token; a flood is cut off."""
    for number in range(MESSAGES + 5):
        with pytest.raises(InvalidStatus, match="401"):
            authenticated.connect(f"wrong{number}")
    authenticated.signal(signal.SIGHUP)
    lines = authenticated.log_until(RELOADED)
    refused = [line for line in lines if "refused a connection from 127.0.0.1:" in line]
    assert len(refused) == MESSAGES
    assert all("status 401: invalid websocket bearer token" in line for line in refused)
    assert "wrong" not in "".join(lines)


def test_localhost_is_the_loopback_address() -> None:
    """The printed URL names the address that is in use."""
    with serving("--listen", "ws://localhost:0") as server:
        assert server.url.startswith("ws://127.0.0.1:")


def test_the_version_is_printed() -> None:
    """It is that of the distribution."""
    done = subprocess.run(
        [peer.PROGRAM, "--version"], capture_output=True, text=True, timeout=peer.PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("codex-exec-server 0.")
