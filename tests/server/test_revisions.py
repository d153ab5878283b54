"""One server, clients of every revision; and a server that is told to speak one alone."""

from __future__ import annotations

import base64
import os
import select
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer

if TYPE_CHECKING:
    from pathlib import Path

V2_START = {"cwd": "file:///"}


def output(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        base64.b64decode(event["params"]["chunk"]) for event in events if "chunk" in event["params"]
    )


def exit_code(events: list[dict[str, Any]]) -> int:
    (code,) = [event["params"]["exitCode"] for event in events if "exitCode" in event["params"]]
    assert isinstance(code, int)
    return code


def test_initialize_has_the_members_of_every_revision() -> None:
    with peer.stdio("--protocol", "auto") as client:
        result = client.call("initialize", {"clientName": "test"})
    assert result["sessionId"]
    assert result["environmentInfo"]["shell"]["path"].startswith("/")
    assert result["protocolVersion"] == "exec-server.v0"


def test_params_wrong_in_the_newest_handshake_are_refused() -> None:
    with peer.stdio("--protocol", "auto") as client:
        error = client.error("initialize", {"clientName": "test", "resumeSessionId": 5})
        assert (error["code"], "resumeSessionId" in error["message"]) == (-32602, True)
        client.initialize()


@pytest.mark.parametrize(
    ("protocol", "members"),
    [
        ("v0", {"protocolVersion"}),
        ("v1", {"sessionId"}),
        ("v2", {"sessionId", "environmentInfo"}),
    ],
)
def test_a_pinned_server_answers_initialize_in_its_own_shape(
    protocol: str, members: set[str]
) -> None:
    with peer.stdio("--protocol", protocol) as client:
        assert client.call("initialize", {"clientName": "test"}).keys() == members


def test_events_of_a_process_have_the_shapes_of_its_revision() -> None:
    with peer.stdio("--protocol", "auto") as client:
        client.initialize()
        script = ("sh", "-c", "echo $0; kill -KILL $$")
        client.start("one", *script)
        client.start("two", *script, **V2_START)
        params = peer.start_params("", *script)
        del params["processId"]
        assert client.call("command/exec", params) == {"sessionId": "session-1"}
        one, two = client.closed("one"), client.closed("two")
        assert (exit_code(one), exit_code(two)) == (-1, 137)
        assert "sandboxDenied" not in one[-2]["params"]
        assert two[-2]["params"]["sandboxDenied"] is False
        told = client.wait(lambda: exited(client, "session-1"))
        assert exit_code(told) == -1
        assert output(told) == b"sh\n"
        assert client.error("process/read", {"processId": "none"})["code"] == -32600


def exited(client: peer.Client, session_id: str) -> list[dict[str, Any]]:
    """All notifications of a process of v0, once it has exited."""
    told = of_session(client, session_id)
    return told if told and "exitCode" in told[-1]["params"] else []


def of_session(client: peer.Client, session_id: str) -> list[dict[str, Any]]:
    return [
        message
        for message in client.notifications
        if message["params"].get("sessionId") == session_id
    ]


def test_a_process_is_read_and_written_in_the_revision_that_started_it() -> None:
    with peer.stdio("--protocol", "auto") as client:
        client.initialize()
        client.start("one", "cat", pipeStdin=True)
        client.start("two", "cat", pipeStdin=True, **V2_START)
        chunk = base64.b64encode(b"x").decode()
        # Without a writeId the second would be written twice after a lost answer.
        error = client.error("process/write", {"processId": "two", "chunk": chunk})
        assert (error["code"], "writeId" in error["message"]) == (-32602, True)
        for _ in range(2):
            for name in ("one", "two"):
                client.call(
                    "process/write", {"processId": name, "chunk": chunk, "writeId": "first"}
                )
        client.wait(lambda: output(client.events("one")) == b"xx")
        assert client.call("process/read", {"processId": "one"}).keys() == {
            "chunks",
            "nextSeq",
            "exited",
            "exitCode",
            "closed",
            "failure",
        }
        two = client.call("process/read", {"processId": "two", "waitMs": 60_000})
        assert [base64.b64decode(piece["chunk"]) for piece in two["chunks"]] == [b"x"]
        assert two["sandboxDenied"] is False


def test_the_refusal_of_bad_params_is_that_of_the_revision_they_are_closest_to() -> None:
    with peer.stdio("--protocol", "auto") as client:
        client.initialize()
        native = client.error("process/start", peer.start_params("a", "true", tty="yes"))
        uri = client.error("process/start", peer.start_params("a", "true", tty="yes", **V2_START))
        for error in (native, uri):
            assert (error["code"], "tty" in error["message"]) == (-32602, True)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_pinned_server_refuses_the_paths_of_another_revision(
    protocol: str, tmp_path: Path
) -> None:
    with peer.stdio("--protocol", protocol) as client:
        client.initialize()
        own, other = (str(tmp_path), tmp_path.as_uri())[:: 1 if protocol == "v1" else -1]
        client.call("fs/getMetadata", {"path": own})
        error = client.error("fs/getMetadata", {"path": other})
        assert (error["code"], "path" in error["message"]) == (-32602, True)


@pytest.mark.parametrize(
    ("protocol", "method", "code"),
    [
        ("v0", "process/start", -32600),
        ("v1", "process/signal", -32601),
        ("v1", "command/exec", -32601),
        ("v2", "command/exec", -32601),
        ("v2", "fs/join", -32601),
    ],
)
def test_a_pinned_server_knows_no_methods_of_other_revisions(
    protocol: str, method: str, code: int
) -> None:
    with peer.stdio("--protocol", protocol) as client:
        client.initialize()
        error = client.error(method, {})
        assert (error["code"], method in error["message"]) == (code, True)


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("process/start", peer.start_params("p", "true", sandbox={}, **V2_START), "sandbox"),
        ("process/write", {"processId": "p", "chunk": "", "writeId": None}, "writeId"),
        (
            "http/request",
            {"method": "GET", "url": "http://x", "requestId": "r", "redirectPolicy": 5},
            "redirectPolicy",
        ),
    ],
)
def test_params_that_v2_refuses_are_not_taken_for_those_of_v1(
    method: str, params: dict[str, Any], named: str
) -> None:
    with peer.stdio("--protocol", "auto") as client:
        client.initialize()
        for _ in range(2):
            error = client.error(method, params)
            assert (error["code"], named in error["message"]) == (-32602, True)
            # The same once v1 is what the client spoke last.
            client.call("fs/join", {"basePath": "/", "path": "x"})


def test_the_refusal_to_resume_an_attached_session_has_the_code_of_its_client() -> None:
    with peer.listening("--protocol", "auto") as server:
        for options, code in (({}, -32600), (V2_START, -32010)):
            first, second = server.client(), server.client()
            session_id = first.initialize()
            first.start("p", "true", **options)
            error = second.error("initialize", {"clientName": "x", "resumeSessionId": session_id})
            assert (error["code"], session_id in error["message"]) == (code, True)


def test_the_processes_of_v0_end_with_the_connection(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    with peer.listening("--protocol", "auto") as server:
        client = server.client()
        client.initialize()
        params = peer.start_params("", "sh", "-c", f"exec 3>{fifo}; echo up; exec sleep 600")
        client.call("command/exec", params)
        with fifo.open("rb") as reader:
            client.wait(lambda: of_session(client, "session-1"))
            client.close()
            # The end of the file comes when the last process that holds the FIFO is gone.
            assert select.select([reader], [], [], peer.PATIENCE)[0]
            assert reader.read() == b""
