"""The additions of v2 to v1, through a server pinned to v2."""

from __future__ import annotations

import base64
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["stdio", "ws"])
def client(request: pytest.FixtureRequest, servers: peer.Servers) -> Iterator[peer.Client]:
    """A client that is ready."""
    with servers.client(request.param, "v2") as client:
        client.initialize()
        yield client


def start(client: peer.Client, name: str, script: str, **options: Any) -> None:
    client.start(name, "sh", "-c", script, cwd="file:///", **options)


def write(client: peer.Client, name: str, write_id: str, data: bytes) -> dict[str, Any]:
    chunk = base64.b64encode(data).decode()
    result: dict[str, Any] = client.call(
        "process/write", {"processId": name, "writeId": write_id, "chunk": chunk}
    )
    return result


def output(client: peer.Client, name: str) -> bytes:
    chunks = client.call("process/read", {"processId": name})["chunks"]
    return b"".join(base64.b64decode(piece["chunk"]) for piece in chunks)


def exit_code(client: peer.Client, name: str) -> int:
    (code,) = [
        event["params"]["exitCode"]
        for event in client.closed(name)
        if event["method"] == "process/exited"
    ]
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("options", "script", "code"),
    [
        ({}, "exit 7", 7),
        ({}, "kill -TERM $$", 128 + signal.SIGTERM),
        ({"tty": True}, "kill -TERM $$", 1),
    ],
)
def test_exit_codes(client: peer.Client, options: dict[str, Any], script: str, code: int) -> None:
    start(client, "p", script, **options)
    assert exit_code(client, "p") == code
    assert client.call("process/read", {"processId": "p"})["exitCode"] == code


def test_next_seq_is_that_of_the_process_unless_chunks_are_cut_off(client: peer.Client) -> None:
    start(client, "p", "echo one; read x; echo two", pipeStdin=True)
    client.wait(lambda: client.events("p"))
    write(client, "p", "1", b"\n")
    last = client.closed("p")[-1]["params"]["seq"]
    whole = client.call("process/read", {"processId": "p"})
    assert whole["nextSeq"] == last + 1
    cut = client.call("process/read", {"processId": "p", "maxBytes": 1})
    assert ([piece["seq"] for piece in cut["chunks"]], cut["nextSeq"]) == ([1], 2)
    none = client.call("process/read", {"processId": "p", "afterSeq": last, "maxBytes": 1})
    assert (none["chunks"], none["nextSeq"]) == ([], last + 1)


def test_a_write_is_done_once_per_name(client: peer.Client) -> None:
    start(client, "p", "cat; echo end", tty=True)
    for name, data in (("a", b"x"), ("a", b"y"), ("b", b"z\n"), ("b", b"\x04")):
        assert write(client, "p", name, data) == {"status": "accepted"}
    write(client, "p", "c", b"\x04")
    client.closed("p")
    # The terminal echoes what is typed, and cat repeats it.
    assert output(client, "p").replace(b"^D\b\b", b"") == b"xz\r\nxz\r\nend\r\n"
    assert write(client, "p", "a", b"late") == {"status": "accepted"}
    assert write(client, "p", "new", b"late") == {"status": "accepted"}


def test_a_failed_start_has_a_kind(client: peer.Client) -> None:
    params = {"processId": "p", "cwd": "file:///", "env": {}, "tty": False}
    for argv, kind in (
        (["/no/such/program"], "spawnNotFound"),
        (["/"], "spawnPermissionDenied"),
        ([""], "spawnFailed"),
    ):
        error = client.error("process/start", {**params, "argv": argv})
        assert (error["code"], error["data"]) == (-32603, {"kind": kind})
    assert "data" not in client.error("process/start", {**params, "argv": []})


def test_a_write_needs_a_name(client: peer.Client) -> None:
    start(client, "p", "cat", pipeStdin=True)
    for params in ({}, {"writeId": None}, {"writeId": ""}):
        error = client.error("process/write", {"processId": "p", "chunk": "", **params})
        assert (error["code"], "writeId" in error["message"]) == (-32602, True)


def test_a_write_that_was_cut_off_from_its_answer_is_done_once(tmp_path: Path) -> None:
    """More than the pipe and the queue take, sent again by the connection that follows."""
    block = b"x" * (1 << 20)
    count = 24
    with peer.listening("--protocol", "v2") as server:
        first = server.client()
        session_id = first.initialize()
        os.mkfifo(tmp_path / "go")
        start(first, "p", "sleep 600")
        start(
            first,
            "q",
            f"read x < {tmp_path}/go; head -c {count << 20} | wc -c; timeout 1 cat | wc -c",
            pipeStdin=True,
        )
        chunk = base64.b64encode(block).decode()
        sent = [
            {"processId": "q", "writeId": str(number), "chunk": chunk} for number in range(count)
        ]
        for params in sent:
            first.request("process/write", params)
        # The next request is answered only if the writes that wait for room delay nothing.
        assert first.call("process/terminate", {"processId": "p"}) == {"running": True}
        first.close()
        second = server.client()
        second.initialize(resumeSessionId=session_id)
        again = [second.request("process/write", params) for params in sent]
        (tmp_path / "go").write_text("\n")
        for identifier in again:
            assert second.answer(identifier)["result"] == {"status": "accepted"}
        second.closed("q")
        assert output(second, "q").split() == [str(count << 20).encode(), b"0"]


def test_an_interrupt_reaches_the_whole_group(client: peer.Client) -> None:
    inner = "trap 'echo inner; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    start(client, "p", f'trap "echo outer" INT; sh -c "{inner}"; exit $?')
    client.wait(lambda: client.events("p"))
    params = {"processId": "p", "signal": "interrupt"}
    assert client.call("process/signal", params) == {}
    assert exit_code(client, "p") == 3
    assert output(client, "p") == b"ready\ninner\nouter\n"
    assert client.call("process/signal", params) == {}
    assert client.call("process/signal", {**params, "processId": "nobody"}) == {}
    error = client.error("process/signal", {**params, "signal": "kill"})
    assert (error["code"], "signal" in error["message"]) == (-32602, True)


@pytest.mark.parametrize(
    "permissions",
    [
        {"type": "disabled"},
        {"type": "external", "network": "restricted"},
        {"type": "managed", "file_system": {"type": "unrestricted"}, "network": "enabled"},
    ],
)
def test_a_sandbox_that_restricts_nothing_confines_nothing(
    client: peer.Client, permissions: dict[str, Any]
) -> None:
    params = peer.start_params(
        "p",
        "true",
        cwd="file:///",
        sandbox={"permissions": permissions, "windowsSandboxLevel": "disabled"},
    )
    assert client.call("process/start", params) == {"processId": "p", "sandboxType": "none"}
    assert exit_code(client, "p") == 0


def test_a_network_proxy_is_refused(client: peer.Client) -> None:
    rules = (
        "enabled",
        "enableSocks5",
        "enableSocks5Udp",
        "allowUpstreamProxy",
        "dangerouslyAllowAllUnixSockets",
        "allowLocalBinding",
    )
    proxy = {**dict.fromkeys(rules, True), "mode": "full"}
    params = peer.start_params("p", "true", cwd="file:///", networkProxy={"proxy": proxy})
    error = client.error("process/start", params)
    assert (error["code"], "networkProxy" in error["message"]) == (-32600, True)


def test_open_files_belong_to_the_connection(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with peer.listening("--protocol", "v2") as server:
        first = server.client()
        session_id = first.initialize()
        params = {"handleId": "h", "path": file.as_uri(), "mode": "replace"}
        assert first.call("fs/open", params) == {"handleId": "h"}
        block = {"handleId": "h", "offset": 1, "chunk": base64.b64encode(b"bc").decode()}
        assert first.call("fs/writeBlock", block) == {}
        first.close()
        second = server.client()
        second.initialize(resumeSessionId=session_id)
        error = second.error("fs/writeBlock", block)
        assert (error["code"], "`h`" in error["message"]) == (-32004, True)
        assert file.read_bytes() == b"\0bc"
        second.call("fs/open", {"handleId": "h", "path": file.as_uri()})
        read = second.call("fs/readBlock", {"handleId": "h", "offset": 1, "len": 3})
        assert read == {"chunk": "YmM=", "eof": True}
        for _ in range(2):
            assert second.call("fs/close", {"handleId": "h"}) == {}


def test_environment_info_is_part_of_initialize_and_a_request(client: peer.Client) -> None:
    told = client.call("environment/info")
    assert told["cwd"].startswith("file:///")
    assert told["platformOs"] == "linux"
    flags = told["capabilities"]
    assert flags["networkProxyLaunch"] is False
    assert client.call("environment/status", {}) == {"status": "ready"}
    error = client.error("environment/status", {"x": 1})
    assert error["code"] == -32602


def test_a_watch_may_be_described_at_length(client: peer.Client) -> None:
    """Its id is a number, so that the limit on the length of ids does not apply to it."""
    params = {"watchId": 7, "missing": [f"file:///tmp/{'a' * 240}"]}
    assert client.call("fs/watchMissing", params) == {"watching": True}
