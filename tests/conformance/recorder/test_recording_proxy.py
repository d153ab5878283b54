"""What passes between any client and any server becomes a session that can be played."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shlex
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from exec_server.client import connect_stdio, connect_websocket
from tests.support.recording_proxy import OURS, arguments, command, proxy, sessions
from tests.support.suite_runs import against, run
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.sync.client import ClientConnection

    from exec_server.client import Connecting

pytestmark = pytest.mark.usefixtures("no_process_is_left")

ENV = {"PATH": "/usr/bin:/bin"}
SECRET = "s3cr3t-0123456789"


async def work(connecting: Connecting, directory: Path) -> None:
    """What a client does: a file, a program that is spoken with, and several at once."""
    async with asyncio.timeout(PATIENCE), connecting as client:
        path = str(directory / "name.txt")
        await client.fs.write_text(path, "Ada\n")
        script = "echo name?; read name; echo hello $name; exit 3"
        cwd = str(directory)
        async with await client.start(["sh", "-c", script], cwd=cwd, env=ENV, stdin=True) as asked:
            assert await asked.stdout.readline() == b"name?\n"
            await asked.write((await client.fs.read_text(path)).encode())
            assert await asked.stdout.readline() == b"hello Ada\n"
            assert await asked.wait() == 3
        several = (client.run(["echo", word], cwd=cwd, env=ENV) for word in ("one", "two"))
        assert [done.text for done in await asyncio.gather(*several)] == ["one\n", "two\n"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.mark.parametrize("client_side", ["ws", "stdio"])
@pytest.mark.parametrize("server_side", ["ws", "stdio"])
@pytest.mark.parametrize("server", ["ours v1", "ours v2", "codex 0.139.0", "codex 0.169.0"])
def test_recorded_traffic_passes_on_the_own_server(
    tmp_path: Path,
    workspace: Path,
    server: str,
    server_side: Literal["ws", "stdio"],
    client_side: Literal["ws", "stdio"],
) -> None:
    out = tmp_path / "recorded"
    more = ["--transport", server_side, "--workspace", str(workspace), "--name", "client/work"]
    if client_side == "ws":
        with proxy(command(server), out, *more) as (url, process):
            asyncio.run(work(connect_websocket(url), workspace))
        assert process.returncode == 130
    else:
        argv = arguments(command(server), out, *more, "--listen", "stdio")
        asyncio.run(work(connect_stdio(argv), workspace))

    revision = "v1" if server.split()[1] in ("v1", "0.139.0") else "v2"
    [(name, (header, *steps))] = sessions(out).items()
    assert name == f"{revision}/client/work"
    assert header["source"] == "the test"
    assert header["transports"] == ["ws", "stdio"]
    workspace_uri = "${workspace}" if revision == "v1" else "file://${workspace}"
    starts = [step["params"] for step in steps if step.get("call") == "process/start"]
    assert [one["processId"] for one in starts] == ["process1", "process2", "process3"]
    assert {one["cwd"] for one in starts} == {workspace_uri}
    assert str(workspace) not in json.dumps(steps)
    ends = {step["process"]: step["expect"] for step in steps if "process" in step}
    assert ends["process1"]["output"] == {"stdout": "name?\nhello Ada\n"}
    assert ends["process1"]["exitCode"] == 3
    assert [ends[name]["output"]["stdout"] for name in ("process2", "process3")] == [
        "one\n",
        "two\n",
    ]
    order = [next(iter(step.items())) for step in steps]
    write = order.index(("call", "process/write"))
    assert ("until", "process1") in order[:write]

    replayed = run("--cmd", f"{OURS} --protocol {revision}", "--sessions", out)
    assert replayed.returncode == 0, replayed.stdout
    assert replayed.stdout.startswith("2 passed, 0 failed")
    assert run("check", "--sessions", out).returncode == 0


def test_recording_again_is_reproducible(tmp_path: Path, workspace: Path) -> None:
    for _ in range(2):
        argv = arguments(OURS, tmp_path / "out", "--listen", "stdio", "--workspace", str(workspace))
        asyncio.run(work_in_turn(connect_stdio(argv), workspace))
    first, second = sessions(tmp_path / "out").values()
    assert first[0]["session"] == "v2/recorded/session"
    assert second[0]["session"] == "v2/recorded/session_2"
    assert first[1:] == second[1:]


async def work_in_turn(connecting: Connecting, directory: Path) -> None:
    async with asyncio.timeout(PATIENCE), connecting as client:
        await client.fs.write_text(str(directory / "a"), "text")
        await client.run(["cat", "a"], cwd=str(directory), env=ENV)


# What a client says by hand


class Peer:
    """A client that says what it is told to."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.seen: list[dict[str, Any]] = []

    def say(self, method: str, params: Any, identifier: Any = None) -> None:
        message = {"method": method, "params": params}
        if identifier is not None:
            message["id"] = identifier
        self.websocket.send(json.dumps(message))

    def hear(self, name: str, value: Any) -> dict[str, Any]:
        """The next message with such a member."""
        while True:
            message: dict[str, Any] = json.loads(self.websocket.recv(timeout=PATIENCE))
            self.seen.append(message)
            if message.get(name) == value:
                return message

    def call(self, method: str, params: Any, identifier: Any = 1) -> dict[str, Any]:
        self.say(method, params, identifier)
        return self.hear("id", identifier)

    def shake_hands(self, **params: Any) -> str:
        answer = self.call("initialize", {"clientName": "by hand", **params})
        self.say("initialized", {})
        session_id: str = answer["result"]["sessionId"]
        return session_id

    def start(self, process_id: str, *argv: str, identifier: Any = 1, **more: Any) -> None:
        params = {"processId": process_id, "argv": argv, "cwd": "/", "env": ENV, "tty": False}
        answer = self.call("process/start", {**params, **more}, identifier)
        assert "result" in answer


@contextlib.contextmanager
def by_hand(url: str, **options: Any) -> Any:
    with connect(url, compression=None, **options) as websocket:
        yield Peer(websocket)


V1 = f"{OURS} --protocol v1"


def replayed(out: Path, server: str = V1) -> None:
    done = run("--cmd", server, "--sessions", out)
    assert done.returncode == 0, done.stdout
    assert " 0 failed, 0 known deviations, 0 n/a" in done.stdout


def test_resumed_session_is_one_recording(tmp_path: Path) -> None:
    with proxy(V1, tmp_path) as (url, _):
        with by_hand(url) as peer:
            session_id = peer.shake_hands()
            peer.start("p", "sh", "-c", "echo one; read x; echo $x", pipeStdin=True)
            peer.hear("method", "process/output")
        with by_hand(url) as other:
            other.shake_hands()
        with by_hand(url) as peer:
            peer.shake_hands(resumeSessionId=session_id)
            peer.call("process/write", {"processId": "p", "chunk": "dHdvCg=="})
            peer.hear("method", "process/closed")
            peer.call("process/read", {"processId": "p"})
    resumed, other_session = sessions(tmp_path).values()
    assert len(other_session) == 1
    assert resumed[0]["transports"] == ["ws"]
    kinds = [next(iter(step.items())) for step in resumed[1:]]
    assert kinds == [
        ("call", "process/start"),
        ("until", "p"),
        ("disconnect", "main"),
        ("connect", "connection2"),
        ("call", "initialize"),
        ("notify", "initialized"),
        ("call", "process/write"),
        ("until", "p"),
        ("call", "process/read"),
    ]
    assert resumed[5]["params"]["resumeSessionId"] == "${session}"
    assert session_id not in json.dumps(resumed)
    replayed(tmp_path)


def test_time_dependent_answers_are_not_compared(tmp_path: Path) -> None:
    with proxy(V1, tmp_path) as (url, _), by_hand(url) as peer:
        peer.shake_hands()
        peer.start("p", "sh", "-c", "echo one; read x; echo two", pipeStdin=True)
        peer.hear("method", "process/output")
        early = peer.call("process/read", {"processId": "p"})
        peer.call("process/write", {"processId": "p", "chunk": "Cg=="})
        peer.hear("method", "process/closed")
        peer.call("process/read", {"processId": "p"})
    assert early["result"]["exited"] is False
    [(_, *steps)] = sessions(tmp_path).values()
    reads = [step["expect"]["result"] for step in steps if step.get("call") == "process/read"]
    assert reads[0] == {
        "chunks": {"$type": "array"},
        "nextSeq": {"$type": "integer"},
        "exited": {"$type": "boolean"},
        "closed": {"$type": "boolean"},
    }
    assert reads[1]["chunks"] == {"$chunks": {"stdout": "one\ntwo\n"}}
    assert reads[1]["exitCode"] == 0
    replayed(tmp_path)


def test_invalid_messages_are_recorded_verbatim(tmp_path: Path) -> None:
    with proxy(V1, tmp_path, "--revision", "v1") as (url, _), by_hand(url) as peer:
        peer.shake_hands()
        peer.websocket.send("nonsense")
        peer.hear("id", -1)
        peer.websocket.send(b'{"id": 7, "method": "process/terminate", "params": {}}')
        peer.hear("id", 7)
    [(_, *steps)] = sessions(tmp_path).values()
    assert [next(iter(step.items())) for step in steps] == [
        ("text", "nonsense"),
        ("answer", -1),
        (
            "binary",
            base64.b64encode(b'{"id": 7, "method": "process/terminate", "params": {}}').decode(),
        ),
        ("answer", 7),
    ]
    assert [step["expect"]["error"]["code"] for step in steps[1::2]] == [-32600, -32602]
    replayed(tmp_path)


def test_unanswered_request_is_omitted(tmp_path: Path) -> None:
    with proxy(V1, tmp_path) as (url, process), by_hand(url) as peer:
        peer.shake_hands()
        peer.start("p", "sleep", "60")
        peer.say("process/read", {"processId": "p", "waitMs": 60_000}, 2)
        peer.call("process/terminate", {"processId": "q"}, 3)
    assert process.stderr is not None
    [(_, *steps)] = sessions(tmp_path).values()
    assert [step["call"] for step in steps] == ["process/start", "process/terminate"]
    replayed(tmp_path)


def test_members_of_other_revisions_are_not_expected(tmp_path: Path) -> None:
    with proxy(OURS, tmp_path, "--revision", "v1") as (url, _), by_hand(url) as peer:
        peer.shake_hands()
        answer = peer.call("environment/info", {})
    assert "tempDir" in answer["result"]
    [(_, info)] = sessions(tmp_path).values()
    assert info["expect"]["result"].keys() < answer["result"].keys()
    assert "tempDir" not in info["expect"]["result"]
    assert run("check", "--sessions", tmp_path).returncode == 0
    replayed(tmp_path)


def test_recorded_session_without_secrets_can_be_run(tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {SECRET}-header"}
    with (
        proxy(V1, tmp_path, "--keep-env", "COLOUR") as (url, _),
        by_hand(url, additional_headers=headers) as peer,
    ):
        peer.shake_hands()
        env = {**ENV, "API_TOKEN": SECRET, "PLAIN": "hidden", "COLOUR": "blue"}
        argv = ("sh", "-c", "cat; echo $API_TOKEN $COLOUR")
        peer.start("p", *argv, env=env, pipeStdin=True)
        chunk = base64.b64encode(f"typed {SECRET}\n".encode()).decode()
        peer.call("process/write", {"processId": "p", "chunk": chunk, "closeStdin": True})
        peer.hear("method", "process/output")
        peer.call("process/terminate", {"processId": f"{SECRET}-header"})
        peer.call("process/terminate", {"processId": "p"})
        peer.hear("method", "process/closed")
    text = next(tmp_path.rglob("*.jsonl")).read_text()
    for hidden in (SECRET, chunk, "hidden"):
        assert hidden not in text
    [(_, start, write, *_)] = sessions(tmp_path).values()
    assert start["params"]["env"] == {
        **ENV,
        "API_TOKEN": "[redacted]",
        "PLAIN": "[redacted]",
        "COLOUR": "blue",
    }
    assert base64.b64decode(write["params"]["chunk"]) == b"typed [redacted]\n"
    replayed(tmp_path)


def test_refusal_of_the_server_is_forwarded(tmp_path: Path) -> None:
    with proxy(V1, tmp_path, ends=signal.SIGTERM) as (url, process):
        with pytest.raises(InvalidStatus) as refusal:
            connect(url, origin="http://example.com")
        assert refusal.value.response.status_code == 403
    assert process.returncode == 0
    assert process.stderr is not None
    assert sessions(tmp_path) == {}


# What can go wrong


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_everything_and_keeps_recordings(
    tmp_path: Path, signum: signal.Signals
) -> None:
    with proxy(V1, tmp_path, ends=signum) as (url, process), by_hand(url) as peer:
        peer.shake_hands()
        peer.start("p", "sleep", "600")
        process.send_signal(signum)
        process.wait(PATIENCE)
    assert process.returncode == (130 if signum is signal.SIGINT else 0)
    [(_, *steps)] = sessions(tmp_path).values()
    assert [step["call"] for step in steps] == ["process/start"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--cmd", "/no/such/program"], 3, "the server could not be run: cannot run '/no/such/"),
        (["--cmd", "server 'x"], 3, "the server could not be run: the command cannot be parsed"),
        (["--cmd", "true --listen ws://127.0.0.1:0"], 3, "was expected to print a ws:// URL"),
        (["--url", "ws://127.0.0.1:1"], 3, "the server could not be run: cannot connect to ws://"),
        (["--cmd", OURS, "--listen", "http://x"], 2, "expected stdio or ws://HOST:PORT"),
        (["--cmd", OURS, "--listen", "ws://127.0.0.1"], 2, "expected stdio or ws://HOST:PORT"),
        (["--cmd", OURS, "--listen", "ws://127.0.0.1:TAKEN"], 2, "cannot listen on ws://127.0.0.1"),
        (["--cmd", OURS, "--name", "No Good"], 2, "expected lower-case letters, digits, _ and /"),
        (["--cmd", OURS, "--scenario", "x"], 2, "not allowed with argument"),
        ([], 2, "one of the arguments --cmd --url is required"),
    ],
)
def test_errors_are_one_message(tmp_path: Path, more: list[str], code: int, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        more = [one.replace("TAKEN", str(taken.getsockname()[1])) for one in more]
        done = run("record", "--proxy", *more, "--out", tmp_path, "--source", "x")
    assert (done.returncode, done.stdout.strip()) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].count(said) == 1


def test_proxy_over_stdio_requires_pipes(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("")
    with (tmp_path / "input").open() as file:
        done = subprocess.run(
            arguments(OURS, tmp_path, "--listen", "stdio"),
            stdin=file,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert "stdin and stdout must be pipes, sockets or terminals" in done.stderr


def spoken(server: str, out: Path) -> subprocess.CompletedProcess[str]:
    """What a proxy does of a client over pipes that starts a process, and then goes."""
    start = {"processId": "p", "argv": ["x"], "cwd": "/", "env": {}, "tty": False}
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": {"clientName": "by hand"}},
        {"method": "initialized"},
        {"id": 2, "method": "process/start", "params": start},
    ]
    return subprocess.run(
        arguments(server, out, "--listen", "stdio"),
        input="".join(json.dumps(message) + "\n" for message in messages),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_remaining_messages_are_forwarded_after_disconnect(tmp_path: Path) -> None:
    done = spoken(against("none"), tmp_path)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message.get("method", message.get("id")) for message in said] == [
        1,
        2,
        "process/output",
        "process/exited",
        "process/closed",
    ]
    [(_, start, end)] = sessions(tmp_path).values()
    assert start["expect"] == {"result": {"processId": "p"}}
    assert end == {"process": "p", "expect": {"output": {"stdout": "hi"}, "exitCode": 0}}


@pytest.mark.parametrize(
    ("fault", "steps", "said"),
    [
        ("seq-from-zero", 1, "numbers start from 1"),
        ("schema", 0, "line 1: the answer to process/start violates the schema"),
        ("garbage", 0, "line 1: expected a JSON message, got 'Segmentation fault'"),
    ],
)
def test_recording_stops_at_a_contract_violation(
    tmp_path: Path, fault: str, steps: int, said: str
) -> None:
    done = spoken(against(fault), tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    [(_, *recorded)] = sessions(tmp_path).values()
    assert len(recorded) <= steps


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crashes", "the server exited with exit code 9: out of luck"),
        ("is-killed", "the server exited with SIGKILL"),
    ],
)
def test_exit_of_a_stdio_server_is_reported(tmp_path: Path, fault: str, said: str) -> None:
    server = shlex.split(against(fault))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    argv = arguments(shlex.join(server), tmp_path, "--listen", "stdio")
    with subprocess.Popen(argv, text=True, **pipes) as process:  # type: ignore[call-overload]
        start = {"processId": "p", "argv": ["x"], "cwd": "/", "env": {}, "tty": False}
        process.stdin.write(json.dumps({"id": 1, "method": "initialize", "params": {}}) + "\n")
        process.stdin.write(
            json.dumps({"id": 2, "method": "process/start", "params": start}) + "\n"
        )
        process.stdin.flush()
        assert process.wait(PATIENCE) == 1
        assert said in process.stderr.read()


def test_exit_of_a_listening_server_ends_the_proxy(tmp_path: Path) -> None:
    script = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    server = shlex.join([sys.executable, "-c", script, OURS, "--listen", "ws://127.0.0.1:0"])
    with proxy(server, tmp_path) as (url, process), by_hand(url) as peer:
        peer.shake_hands()
        argv = ["sh", "-c", "kill -KILL $PPID"]
        params = {"processId": "p", "argv": argv, "cwd": "/", "env": ENV, "tty": False}
        peer.say("process/start", params, 2)
        with pytest.raises(ConnectionClosedError):
            peer.hear("no", "answer")
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert "the server exited with SIGKILL" in process.stderr.read()
