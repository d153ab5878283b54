"""File system calls and http/request, as a client sees them on either transport."""

from __future__ import annotations

import base64
import http.server
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    JsonObject = dict[str, object]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("size", [0, 1, 73_728, 73_729, 1_000_000, 5_000_001])
def test_what_was_written_is_read_back(client: peer.Client, tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    path = str(tmp_path / "file")
    write = client.request("fs/writeFile", {"path": path, "dataBase64": encoded(content)})
    read = client.request("fs/readFile", {"path": path})
    assert client.answer(write) == {"id": write, "result": {}}
    assert base64.b64decode(client.answer(read)["result"]["dataBase64"]) == content


def test_file_calls_keep_their_order(client: peer.Client, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    reads = []
    for index in range(40):
        data = encoded(b"%d" % index * 400_000)
        client.request("fs/writeFile", {"path": path, "dataBase64": data})
        reads.append(client.request("fs/readFile", {"path": path}))
        client.wait(lambda: reads[-1] in client.answers) if index % 8 == 7 else None
    for index, read in enumerate(reads):
        content = base64.b64decode(client.answer(read)["result"]["dataBase64"])
        assert content == b"%d" % index * 400_000


def test_a_fifo_without_a_writer_delays_no_other_request(
    client: peer.Client, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = client.request("fs/readFile", {"path": str(fifo)})
    assert client.call("fs/getMetadata", {"path": str(fifo)})["isFile"] is False
    client.start("p", "sh", "-c", f"echo now > {fifo}")
    assert base64.b64decode(client.answer(read)["result"]["dataBase64"]) == b"now\n"


def test_copying_a_file_onto_itself_loses_nothing(client: peer.Client, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    params = {"sourcePath": str(path), "destinationPath": str(path), "recursive": False}
    assert client.call("fs/copy", params) == {}
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("fs/readFile", {"path": "{}/missing"}, -32004),
        ("fs/readFile", {"path": "{}"}, -32603),
        ("fs/readFile", {"path": "{}/nul\0byte"}, -32600),
        ("fs/writeFile", {"path": "{}/missing/x", "dataBase64": ""}, -32004),
        ("fs/writeFile", {"path": "{}/new", "dataBase64": "!"}, -32600),
        ("fs/writeFile", {"path": "{}/new", "dataBase64": "aGl="}, -32600),
        ("fs/writeFile", {"path": "{}", "dataBase64": ""}, -32603),
        ("fs/createDirectory", {"path": "{}/a/b", "recursive": False}, -32004),
        ("fs/createDirectory", {"path": "{}", "recursive": False}, -32603),
        ("fs/getMetadata", {"path": "{}/missing"}, -32004),
        ("fs/readDirectory", {"path": "{}/file"}, -32603),
        ("fs/remove", {"path": "{}/missing", "force": False}, -32004),
        ("fs/remove", {"path": "{}", "recursive": False}, -32603),
        ("fs/remove", {"path": "{}/file/x"}, -32603),
        (
            "fs/copy",
            {"sourcePath": "{}", "destinationPath": "{}/in", "recursive": True},
            -32600,
        ),
        (
            "fs/copy",
            {"sourcePath": "{}", "destinationPath": "{}2", "recursive": False},
            -32600,
        ),
        ("fs/canonicalize", {"path": "{}/missing"}, -32004),
    ],
)
def test_failures_have_the_right_code_and_change_nothing(
    client: peer.Client, tmp_path: Path, method: str, params: JsonObject, code: int
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    filled = {
        key: value.replace("{}", str(tmp_path)) if isinstance(value, str) else value
        for key, value in params.items()
    }
    assert client.error(method, filled)["code"] == code
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"content"


ENFORCED = (-32603, -32004)
"""A read-only file system, or one where the place is hidden."""
REFUSED = (-32600,)
"""Nothing is done where it cannot be enforced."""
NO_SANDBOX = (-32602,)


@pytest.mark.parametrize(
    ("sandbox", "codes"),
    [
        (None, ()),
        ({"permissions": {"type": "disabled"}, "windowsSandboxLevel": "disabled"}, ()),
        ({"permissions": {"type": "external", "network": "enabled"}}, ()),
        ({"sandboxPolicy": {"type": "danger-full-access"}}, ()),
        ({"sandboxPolicy": {"type": "read-only"}}, ENFORCED + REFUSED),
        (
            {
                "sandboxPolicy": {
                    "type": "workspace-write",
                    "exclude_slash_tmp": True,
                    "exclude_tmpdir_env_var": True,
                }
            },
            ENFORCED + REFUSED,
        ),
        (
            {
                "permissions": {
                    "type": "managed",
                    "file_system": {"type": "restricted", "entries": []},
                    "network": "restricted",
                }
            },
            ENFORCED + REFUSED,
        ),
        ({}, NO_SANDBOX),
        ({"permissions": 5}, NO_SANDBOX),
        ({"permissions": {"type": "other"}}, NO_SANDBOX),
    ],
)
def test_a_restrictive_sandbox_is_enforced_or_refused_never_ignored(
    client: peer.Client, tmp_path: Path, sandbox: JsonObject | None, codes: tuple[int, ...]
) -> None:
    path = tmp_path / "file"
    params = {"path": str(path), "dataBase64": "", "sandbox": sandbox}
    answer = client.answer(client.request("fs/writeFile", params))
    assert path.exists() == (not codes)
    if codes:
        assert answer["error"]["code"] in codes
        if answer["error"]["code"] not in ENFORCED:
            assert "sandbox" in answer["error"]["message"]
    else:
        assert "result" in answer


class _Upstream(http.server.BaseHTTPRequestHandler):
    release = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.release.wait(peer.PATIENCE)
        self.send_response(200)
        self.send_header("Content-Length", "300000")
        self.end_headers()
        self.wfile.write(b"x" * 300_000)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test output clean."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_buffered_request_brings_the_whole_body(client: peer.Client, upstream: str) -> None:
    result = client.call("http/request", {"method": "GET", "url": f"{upstream}/", "requestId": "r"})
    assert result["status"] == 200
    assert base64.b64decode(result["bodyBase64"]) == b"x" * 300_000


def test_a_slow_request_delays_nothing(client: peer.Client, upstream: str) -> None:
    _Upstream.release.clear()
    slow = client.request(
        "http/request", {"method": "GET", "url": f"{upstream}/slow", "requestId": "r"}
    )
    assert client.is_alive()
    assert slow not in client.answers
    _Upstream.release.set()
    assert client.answer(slow)["result"]["status"] == 200


def test_a_streamed_body_follows_the_answer_in_order(client: peer.Client, upstream: str) -> None:
    params = {"method": "GET", "url": f"{upstream}/", "requestId": "s", "streamResponse": True}
    stream = client.request("http/request", params)
    assert client.answer(stream)["result"]["bodyBase64"] == ""
    assert not client.notifications
    client.wait(lambda: client.notifications and client.notifications[-1]["params"]["done"])
    deltas = [message["params"] for message in client.notifications]
    assert [delta["seq"] for delta in deltas] == list(range(1, len(deltas) + 1))
    body = b"".join(base64.b64decode(delta["deltaBase64"]) for delta in deltas)
    assert body == b"x" * 300_000
    assert deltas[-1] == {
        "requestId": "s",
        "seq": len(deltas),
        "deltaBase64": "",
        "done": True,
        "error": None,
    }


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"url": "ftp://x/"}, -32602),
        ({"url": "nonsense"}, -32602),
        ({"method": "a b"}, -32602),
        ({"headers": [{"name": "a b", "value": ""}]}, -32602),
        ({"headers": [{"name": "a", "value": "x\ny"}]}, -32602),
        ({"url": "http://127.0.0.1:1/"}, -32603),
    ],
)
def test_requests_that_cannot_be_made(client: peer.Client, change: JsonObject, code: int) -> None:
    params = {"method": "GET", "url": "http://127.0.0.1:1/", "requestId": "r", **change}
    assert client.error("http/request", params)["code"] == code


def test_a_copy_ends_with_the_connection_that_asked_for_it(tmp_path: Path) -> None:
    """The copy of a tree stops when its client is gone."""
    source, destination = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    (source / "file").touch()
    files = 20_000
    for number in range(files):
        (source / str(number)).touch()
    params = {"sourcePath": str(source), "destinationPath": str(destination), "recursive": True}
    with peer.listening() as server:
        client = server.client()
        client.initialize()
        client.request("fs/copy", params)
        assert peer.wait_until(lambda: destination.exists() and any(destination.iterdir()))
        client.websocket.socket.close()
    # The server has ended, and waited for its threads.
    assert 0 < len(os.listdir(destination)) < files
