"""How the program starts: what it loads late, it loads when it is asked for."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INITIALIZE = b'{"id":1,"method":"initialize","params":{"clientName":"test"}}\n'


def loaded(client: peer.StdioClient, name: str) -> str:
    """The files in the memory of a server, as a process tells that it has started."""
    client.start(name, "sh", "-c", "cat /proc/$PPID/maps")
    events = client.closed(name)
    chunks = [one["params"]["chunk"] for one in events if one["method"] == "process/output"]
    return b"".join(map(base64.b64decode, chunks)).decode()


class Secret(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        """The same to all."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server whose certificate the servers of this test trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "trusted.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with HTTPServer(("127.0.0.1", 0), Secret) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()
        serving.join()


def test_tls_is_loaded_when_it_is_asked_for(https: str) -> None:
    """Not to start processes, but to request an https URL, which works then."""
    with peer.stdio() as client:
        client.initialize()
        assert "libssl" not in loaded(client, "before")
        request = {"method": "GET", "url": https, "headers": [], "requestId": "r"}
        result = client.call("http/request", request)
        assert (result["status"], base64.b64decode(result["bodyBase64"])) == (200, b"secret")
        assert "libssl" in loaded(client, "after")


@pytest.mark.parametrize(
    "arguments", [(), ("--listen", "stdio"), ("--listen", "stdio://"), ("--verbose",)]
)
def test_the_plain_command_lines_ask_for_what_the_parser_has_by_default(
    arguments: tuple[str, ...],
) -> None:
    """The first three are not parsed, the last is."""
    answers = []
    for given in (arguments, ("--listen", "stdio", "--protocol", "auto")):
        done = subprocess.run(
            [peer.PROGRAM, *given], input=INITIALIZE, capture_output=True, timeout=peer.PATIENCE
        )
        assert (done.returncode, done.stderr) == (0, b"")
        answer = json.loads(done.stdout)
        assert answer["result"].pop("sessionId")
        answers.append(answer)
    assert answers[0] == answers[1]
