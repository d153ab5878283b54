"""The additions of the draft to v2, and the refusals of its limits."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.sandbox import bubblewrap
from tests.support import peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLAGS = {
    "processCloseStdin",
    "processExecution",
    "processList",
    "processResize",
    "processSnapshot",
    "processStartNotification",
    "processTerminateMode",
    "processWait",
}

TRAPPED = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.02; done"


@pytest.fixture(params=["stdio draft", "ws draft", "stdio auto"])
def client(request: pytest.FixtureRequest, servers: peer.Servers) -> Iterator[peer.Client]:
    """A client that is ready; of a server that speaks the draft alone, or among the others."""
    with servers.client(*request.param.split()) as client:
        client.initialize()
        yield client


def start(client: peer.Client, name: str, script: str, **options: Any) -> None:
    client.start(name, "sh", "-c", script, cwd="file:///", **options)


def write(client: peer.Client, name: str, write_id: str, data: bytes) -> str:
    chunk = base64.b64encode(data).decode()
    params = {"processId": name, "writeId": write_id, "chunk": chunk}
    status: str = client.call("process/write", params)["status"]
    return status


def output(client: peer.Client, name: str) -> bytes:
    """Return the output of the notifications so far."""
    return b"".join(
        base64.b64decode(event["params"]["chunk"])
        for event in client.events(name)
        if event["method"] == "process/output"
    )


def has_output(client: peer.Client, name: str, text: bytes) -> None:
    client.wait(lambda: text in output(client, name))


def decoded(excerpt: dict[str, Any]) -> tuple[bytes, int, bytes]:
    head, tail = (base64.b64decode(excerpt[end]) for end in ("head", "tail"))
    return head, excerpt["omitted"], tail


# What a server says of itself


def test_flags_and_limits_are_part_of_initialize_and_environment_info() -> None:
    options = ("--max-processes", "5", "--retained-bytes", "1000", "--grace-seconds", "0.25")
    with peer.stdio("--protocol", "auto", *options, "--execution", "prepared") as client:
        told = client.call("initialize", {"clientName": "test"})["environmentInfo"]
        client.send({"method": "initialized"})
        assert client.call("environment/info") == told
        assert {name for name in FLAGS if told["capabilities"].get(name)} == FLAGS
        assert told["limits"] == {
            "maxProcesses": 5,
            "retainedBytes": 1000,
            "shutdownGraceMs": 250,
            "executions": ["prepared"],
        }


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_server_pinned_to_another_revision_has_no_draft_methods(protocol: str) -> None:
    with peer.stdio("--protocol", protocol) as client:
        result = client.call("initialize", {"clientName": "test"})
        client.send({"method": "initialized"})
        told = result.get("environmentInfo", {})
        assert "limits" not in told
        assert FLAGS.isdisjoint(told.get("capabilities", {}))
        for method in ("resize", "closeStdin", "wait", "snapshot"):
            assert client.error(f"process/{method}", {"processId": "p"})["code"] == -32601
        cwd = "file:///" if protocol == "v2" else "/"
        client.start("p", "stty", "size", cwd=cwd, tty=True, rows=50, cols=132, notifyStart=True)
        client.closed("p")
        assert output(client, "p") == b"24 80\r\n"
        assert client.events("p")[0]["method"] == "process/output"


# Sizes


def test_a_terminal_starts_with_a_size_and_gets_another(client: peer.Client) -> None:
    script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    start(client, "p", script, tty=True, rows=50, cols=132)
    has_output(client, "p", b"ready")
    assert output(client, "p").startswith(b"50 132\r\n")
    assert client.call("process/resize", {"processId": "p", "rows": 10, "cols": 20}) == {}
    has_output(client, "p", b"10 20\r\n")


def test_a_start_without_a_size_is_that_of_v2(client: peer.Client) -> None:
    start(client, "p", "stty size", tty=True)
    start(client, "q", "echo pipes", rows=1, cols=1)
    client.closed("p")
    client.closed("q")
    assert (output(client, "p"), output(client, "q")) == (b"24 80\r\n", b"pipes\n")


@pytest.mark.parametrize("size", [{"rows": 0}, {"rows": 65536}, {"cols": -1}, {"cols": "80"}])
def test_an_impossible_size_is_refused_by_name(client: peer.Client, size: dict[str, Any]) -> None:
    start(client, "p", "sleep 600", tty=True)
    (member,) = size
    for method, params in (
        ("process/start", peer.start_params("q", "true", cwd="file:///", tty=True, **size)),
        ("process/resize", {"processId": "p", "rows": 1, "cols": 1, **size}),
    ):
        error = client.error(method, params)
        assert (error["code"], member in error["message"]) == (-32602, True)


# Inputs


def test_an_input_ends_after_what_was_written(client: peer.Client) -> None:
    start(client, "p", "cat; echo end", pipeStdin=True)
    assert write(client, "p", "1", b"text\n") == "accepted"
    for _ in range(2):
        assert client.call("process/closeStdin", {"processId": "p"}) == {}
    assert write(client, "p", "2", b"late\n") == "stdinClosed"
    assert write(client, "p", "1", b"again\n") == "accepted"
    client.closed("p")
    assert output(client, "p") == b"text\nend\n"
    assert client.call("process/closeStdin", {"processId": "p"}) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "no standard input to close"), ({"tty": True}, "has a terminal")],
)
def test_close_stdin_without_a_pipe_is_refused(
    client: peer.Client, options: dict[str, Any], message: str
) -> None:
    start(client, "p", "sleep 600", **options)
    error = client.error("process/closeStdin", {"processId": "p"})
    assert (error["code"], message in error["message"]) == (-32600, True)


# Waiting


def test_a_wait_is_answered_at_the_end(client: peer.Client, tmp_path: Path) -> None:
    """wait returns at the exit, or at a close delayed by a descendant, and delays no request."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    start(client, "p", f"(read y <{gate}; echo late) & read x; exit 7", pipeStdin=True)
    exited = client.request("process/wait", {"processId": "p"})
    closed = client.request("process/wait", {"processId": "p", "until": "closed"})
    assert client.is_alive()
    assert not client.answers.get(exited)
    write(client, "p", "1", b"\n")
    state = {"exited": True, "exitCode": 7}
    assert client.answer(exited)["result"] == {**state, "closed": False}
    assert client.is_alive()
    assert not client.answers.get(closed)
    gate.write_text("\n")
    assert client.answer(closed)["result"] == {**state, "closed": True}
    assert output(client, "p") == b"late\n"


def test_a_wait_ends_when_time_is_up(client: peer.Client) -> None:
    start(client, "p", "read x; kill -TERM $$", pipeStdin=True)
    running = {"exited": False, "exitCode": None, "closed": False}
    for timeout in (0, 30):
        params = {"processId": "p", "timeoutMs": timeout}
        assert client.call("process/wait", params) == running
    waiting = client.request("process/wait", {"processId": "p", "timeoutMs": 2**64 - 1})
    write(client, "p", "1", b"\n")
    result = client.answer(waiting)["result"]
    assert (result["exited"], result["exitCode"]) == (True, 128 + signal.SIGTERM)


# Snapshots


def test_a_snapshot_tells_streams_and_state(client: peer.Client) -> None:
    start(client, "p", "echo out; echo err >&2; read x; exit 5", pipeStdin=True)
    start(client, "t", "echo out; echo err >&2", tty=True)
    client.closed("t")
    has_output(client, "p", b"out")
    has_output(client, "p", b"err")
    taken = client.call("process/snapshot", {"processId": "p"})
    assert decoded(taken["stdout"]) == (b"out\n", 0, b"")
    assert decoded(taken["stderr"]) == (b"err\n", 0, b"")
    state = {key: taken[key] for key in ("terminal", "truncated", "running", "exitCode", "closed")}
    assert state == {
        "terminal": None,
        "truncated": False,
        "running": True,
        "exitCode": None,
        "closed": False,
    }
    write(client, "p", "1", b"\n")
    client.closed("p")
    after = client.call("process/read", {"processId": "p", "afterSeq": taken["nextSeq"] - 1})
    assert (after["chunks"], after["nextSeq"]) == ([], taken["nextSeq"] + 2)
    taken = client.call("process/snapshot", {"processId": "p"})
    assert (taken["running"], taken["exitCode"], taken["closed"]) == (False, 5, True)
    taken = client.call("process/snapshot", {"processId": "t"})
    assert decoded(taken["terminal"]) == (b"out\r\nerr\r\n", 0, b"")
    assert (taken["stdout"], taken["stderr"]) == (None, None)


def test_a_snapshot_keeps_both_ends_and_counts_the_gap() -> None:
    with peer.stdio("--protocol", "draft", "--retained-bytes", "100") as client:
        client.initialize()
        start(client, "p", "echo warning >&2; seq 1 10000")
        client.closed("p")
        whole = "".join(f"{number}\n" for number in range(1, 10_001)).encode()
        taken = client.call("process/snapshot", {"processId": "p"})
        assert decoded(taken["stdout"]) == (whole[:50], len(whole) - 100, whole[-50:])
        assert decoded(taken["stderr"]) == (b"warning\n", 0, b"")
        assert taken["truncated"] is True


# Gentle ends


def test_a_process_may_end_itself(client: peer.Client) -> None:
    start(client, "p", TRAPPED)
    has_output(client, "p", b"ready")
    mode = {"type": "graceful", "timeoutMs": 600_000}
    params = {"processId": "p", "mode": mode}
    assert client.call("process/terminate", params) == {"running": True}
    result = client.call("process/wait", {"processId": "p"})
    assert (result["exited"], result["exitCode"]) == (True, 3)
    assert client.call("process/terminate", params) == {"running": False}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"type": "graceful", "timeoutMs": 100}, None),
        ({"type": "graceful", "timeoutMs": 600_000}, {"type": "force"}),
        ({"type": "graceful", "timeoutMs": 600_000}, {"type": "graceful", "timeoutMs": 0}),
        ({"type": "graceful", "timeoutMs": 2**64 - 1}, {}),
    ],
)
def test_a_process_that_does_not_is_killed(
    client: peer.Client, first: dict[str, Any], then: dict[str, Any] | None
) -> None:
    start(client, "p", STUBBORN)
    has_output(client, "p", b"ready")
    client.call("process/terminate", {"processId": "p", "mode": first})
    if then is not None:
        params = {"processId": "p", "mode": then or None}
        assert client.call("process/terminate", params) == {"running": True}
    assert client.call("process/wait", {"processId": "p"})["exitCode"] == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    "mode", [{"type": "politely"}, {"type": "graceful"}, {"timeoutMs": 1}, "force", 5]
)
def test_an_invalid_mode_is_refused_and_kills_nothing(client: peer.Client, mode: Any) -> None:
    start(client, "p", "read x", pipeStdin=True)
    error = client.error("process/terminate", {"processId": "p", "mode": mode})
    assert (error["code"], "mode" in error["message"]) == (-32602, True)
    assert client.call("process/wait", {"processId": "p", "timeoutMs": 0})["exited"] is False


# Notifications of a start


def test_process_started_follows_the_response_if_requested(client: peer.Client) -> None:
    """After the answer, and before anything that the process does."""
    params = peer.start_params("p", "sh", "-c", "echo $$", cwd="file:///", notifyStart=True)
    identifier = client.request("process/start", params)
    told = client.closed("p")
    assert [message["method"] for message in told] == [
        "process/started",
        "process/output",
        "process/exited",
        "process/closed",
    ]
    pid = told[0]["params"]["pid"]
    assert told[0]["params"] == {"processId": "p", "pid": pid}
    assert int(output(client, "p")) == pid
    ours = [one for one in client.arrivals if one.get("id") == identifier or one in told]
    assert ours[0].get("id") == identifier


def test_process_failed_follows_the_error_if_requested(client: peer.Client) -> None:
    start(client, "taken", "sleep 600")
    for name, argv in (("p", ["/nowhere"]), ("taken", ["true"]), ("q", [])):
        params = peer.start_params(name, *argv, cwd="file:///")
        error = client.error("process/start", params)
        assert client.is_alive()
        assert client.events(name) == []
        assert client.error("process/start", {**params, "notifyStart": True}) == error
        told = client.wait(lambda name=name: client.events(name))  # type: ignore[misc]
        reported = {"processId": name, "code": error["code"], "message": error["message"]}
        assert told == [{"method": "process/failed", "params": reported}]
        client.notifications.clear()
        position = {
            one.get("id") or one["method"]: place for place, one in enumerate(client.arrivals)
        }
        answered = max(place for key, place in position.items() if isinstance(key, int))
        assert answered < position["process/failed"]


def test_start_notifications_are_not_sent_unrequested(client: peer.Client) -> None:
    start(client, "p", "true")
    start(client, "q", "true", notifyStart=False)
    for name in ("p", "q"):
        methods = [message["method"] for message in client.closed(name)]
        assert methods == ["process/exited", "process/closed"]


# Limits


@pytest.mark.parametrize("protocol", ["v0", "v1", "v2", "draft", "auto"])
def test_no_more_processes_run_than_the_server_allows(protocol: str) -> None:
    with peer.stdio("--protocol", protocol, "--max-processes", "2") as client:
        client.initialize()
        method = "command/exec" if protocol == "v0" else "process/start"
        cwd = "/" if protocol in ("v0", "v1") else "file:///"
        params = [peer.start_params(f"p{n}", "sleep", "600", cwd=cwd) for n in range(3)]
        for one in params[:2]:
            client.call(method, one)
        error = client.error(method, params[2])
        assert (error["code"], "at most 2 processes" in error["message"]) == (-32600, True)


def test_each_session_has_its_own_number_of_processes() -> None:
    with peer.listening("--protocol", "draft", "--max-processes", "1") as server:
        for client in (server.client(), server.client()):
            client.initialize()
            start(client, "p", "read x", pipeStdin=True)
            params = peer.start_params("q", "true", cwd="file:///")
            assert client.error("process/start", params)["code"] == -32600
            client.call("process/closeStdin", {"processId": "p"})
            client.closed("p")
            client.call("process/start", params)


@pytest.mark.parametrize(("kind", "other"), [("direct", "prepared"), ("prepared", "direct")])
def test_only_commands_of_the_kind_that_the_server_runs_are_run(kind: str, other: str) -> None:
    with peer.stdio("--protocol", "auto", "--execution", kind) as client:
        client.initialize()
        start(client, "p", "exit 4", execution=kind)
        assert client.call("process/wait", {"processId": "p"})["exitCode"] == 4
        params = peer.start_params("q", "true", cwd="file:///", execution=other)
        error = client.error("process/start", params)
        assert error["code"] == -32600
        assert f"{kind} commands only" in error["message"]
        # What other revisions start says nothing of its kind and is direct.
        old = client.answer(client.request("process/start", peer.start_params("old", "true")))
        assert ("result" in old) == (kind == "direct")


def test_a_kind_that_is_none_is_refused_by_name(client: peer.Client) -> None:
    params = peer.start_params("p", "true", cwd="file:///", execution="other")
    error = client.error("process/start", params)
    assert (error["code"], "execution" in error["message"]) == (-32602, True)


@pytest.mark.parametrize(
    "arguments",
    [("--max-processes", "0"), ("--max-processes", "x"), ("--execution", "none"), ("--execution",)],
)
def test_a_wrong_limit_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [peer.PROGRAM, *arguments], capture_output=True, text=True, timeout=peer.PATIENCE
    )
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


# Sessions and other revisions


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resize", {"rows": 1, "cols": 1}),
        ("closeStdin", {}),
        ("wait", {}),
        ("snapshot", {}),
    ],
)
def test_a_process_that_is_not_there_is_named(
    client: peer.Client, method: str, params: dict[str, Any]
) -> None:
    error = client.error(f"process/{method}", {"processId": "nobody", **params})
    assert (error["code"], "nobody" in error["message"]) == (-32600, True)


def test_a_wait_goes_on_after_a_resume() -> None:
    """With the old connection ends what it waited for; the process does not."""
    with peer.listening("--protocol", "auto") as server:
        first = server.client()
        session_id = first.initialize()
        start(first, "p", "read x; echo end", pipeStdin=True)
        first.request("process/wait", {"processId": "p"})
        first.close()
        second = server.client()
        second.initialize(resumeSessionId=session_id)
        waiting = second.request("process/wait", {"processId": "p", "until": "closed"})
        second.call("process/closeStdin", {"processId": "p"})
        assert second.answer(waiting)["result"]["closed"] is True
        taken = second.call("process/snapshot", {"processId": "p"})
        assert decoded(taken["stdout"]) == (b"end\n", 0, b"")


def test_the_draft_serves_the_processes_of_other_revisions() -> None:
    """Their events have the shapes of their own revision."""
    with peer.stdio("--protocol", "auto") as client:
        client.initialize()
        client.start("one", "sh", "-c", "stty size; kill -KILL $$", tty=True)
        client.closed("one")
        assert client.call("process/wait", {"processId": "one"})["exitCode"] == 1
        params = peer.start_params("", "cat", tty=True)
        name = client.call("command/exec", params)["sessionId"]
        assert client.call("process/resize", {"processId": name, "rows": 5, "cols": 6}) == {}
        graceful = {"type": "graceful", "timeoutMs": 600_000}
        assert client.call("process/terminate", {"processId": name, "mode": graceful}) == {
            "running": True
        }
        assert client.call("process/wait", {"processId": name})["exited"] is True


@pytest.mark.skipif(not bubblewrap.is_available(), reason="SANDBOXES ARE NOT TESTED HERE")
def test_a_confined_process_is_listed_as_it_was_asked_for(client: peer.Client) -> None:
    """Not as what confines it."""
    read_all = {"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}
    permissions = {
        "type": "managed",
        "file_system": {"type": "restricted", "entries": [read_all]},
        "network": "restricted",
    }
    sandbox = {"permissions": permissions, "windowsSandboxLevel": "disabled"}
    start(client, "p", "exit 0", sandbox=sandbox)
    assert client.closed("p")
    (listed,) = client.call("process/list", {})["processes"]
    assert listed["argv"] == ["sh", "-c", "exit 0"]
