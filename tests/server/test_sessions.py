"""Sessions that outlive connections, and the ways in which things end."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess

import pytest

from tests.support import peer


def pid_of(client: peer.Client, process_id: str) -> int:
    """The pid that a process started with ``echo $$`` has written."""
    event = client.wait(
        lambda: next(
            (one for one in client.events(process_id) if one["method"] == "process/output"), None
        )
    )
    return int(base64.b64decode(event["params"]["chunk"]).partition(b"\n")[0])


def test_a_session_is_resumed_with_nothing_lost() -> None:
    with peer.listening() as server:
        first = server.client()
        session_id = first.initialize()
        first.start("p", "sh", "-c", "echo one; read x; echo $x; read x", pipeStdin=True)
        first.wait(lambda: first.events("p"))
        first.close()
        second = server.client()
        assert second.initialize(resumeSessionId=session_id) == session_id
        chunk = base64.b64encode(b"two\n").decode()
        second.call("process/write", {"processId": "p", "chunk": chunk})
        second.wait(lambda: second.events("p"))
        result = second.call("process/read", {"processId": "p"})
        assert b"".join(base64.b64decode(one["chunk"]) for one in result["chunks"]) == b"one\ntwo\n"


class TestManyDetachedSessions:
    """They hold a bounded amount of memory together."""

    LIMIT = ("--max-detached-bytes", "3000000")

    @staticmethod
    def detached(server: peer.Listening, *argv: str) -> tuple[str, int]:
        """Leave a session behind that runs a program which writes its pid first."""
        client = server.client()
        session_id = client.initialize()
        client.start("p", "sh", "-c", f"echo $$; {' '.join(argv)}")
        pid = pid_of(client, "p")
        client.close()
        return session_id, pid

    @staticmethod
    def resumes(server: peer.Listening, session_id: str) -> bool:
        client = server.client()
        answer = client.answer(
            client.request("initialize", {"clientName": "x", "resumeSessionId": session_id})
        )
        return "result" in answer

    def test_the_oldest_end_early_when_output_is_retained(self) -> None:
        with peer.listening(*self.LIMIT) as server:
            flood = ("head", "-c", "2000000", "/dev/zero;", "sleep", "100")
            sessions = [self.detached(server, *flood) for _ in range(4)]
            idle = self.detached(server, "sleep", "100")
            assert peer.wait_until(lambda: peer.is_gone(sessions[0][1]))
            assert not self.resumes(server, sessions[0][0])
            assert not peer.is_gone(sessions[-1][1])
            assert self.resumes(server, sessions[-1][0])
            assert self.resumes(server, idle[0])

    def test_a_session_that_is_attached_does_not_count(self) -> None:
        with peer.listening("--max-detached-bytes", "1") as server:
            client = server.client()
            client.initialize()
            client.start("p", "sh", "-c", "echo $$; head -c 3000000 /dev/zero; sleep 100")
            pid = pid_of(client, "p")
            client.wait(lambda: len(client.events("p")) > 30)
            _, other = self.detached(server, "sleep", "100")
            assert peer.wait_until(lambda: peer.is_gone(other))
            assert not peer.is_gone(pid)
            assert client.is_alive()


def test_a_session_has_one_connection_and_its_own_process_ids() -> None:
    with peer.listening() as server:
        first, second = server.client(), server.client()
        session_id = first.initialize()
        error = second.error("initialize", {"clientName": "x", "resumeSessionId": session_id})
        assert error == {
            "code": -32600,
            "message": f"session {session_id} is already attached to another connection",
        }
        second.initialize()
        first.start("p", "sleep", "100")
        second.start("p", "true")
        second.closed("p")
        assert first.call("process/terminate", {"processId": "p"}) == {"running": True}


def test_a_detached_session_expires_and_its_processes_die() -> None:
    with peer.listening("--detached-seconds", "0.1") as server:
        first = server.client()
        session_id = first.initialize()
        first.start("p", "sh", "-c", "echo $$; trap '' TERM HUP; sleep 100")
        pid = pid_of(first, "p")
        first.close()
        assert peer.wait_until(lambda: peer.is_gone(pid))
        error = server.client().error(
            "initialize", {"clientName": "x", "resumeSessionId": session_id}
        )
        assert error == {"code": -32600, "message": f"unknown session id {session_id}"}


def test_a_closed_process_is_forgotten_after_its_time() -> None:
    with peer.listening("--retention-seconds", "0.1") as server:
        client = server.client()
        client.initialize()
        client.start("p", "true")
        client.closed("p")
        assert peer.wait_until(
            lambda: "error" in client.answer(client.request("process/read", {"processId": "p"}))
        )
        client.start("p", "true")


def test_pending_answers_are_delivered_at_the_end_of_input() -> None:
    with peer.stdio() as client:
        client.initialize()
        client.start("p", "sleep", "100")
        poll = client.request("process/read", {"processId": "p", "waitMs": 60_000})
        wanted = [client.request("fs/getMetadata", {"path": "/"}) for _ in range(100)]
        client.end_input()
        client.wait_for_end()
        assert client.process.wait(peer.PATIENCE) == 0
        assert all(client.answers[identifier] for identifier in [poll, *wanted])


def test_the_last_line_may_lack_its_newline() -> None:
    request = {"id": 1, "method": "initialize", "params": {"clientName": "x"}}
    done = subprocess.run(
        [peer.PROGRAM],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=peer.PATIENCE,
        check=True,
    )
    assert json.loads(done.stdout)["id"] == 1
    assert done.stderr == b""


@pytest.mark.parametrize("line", [b'{"method":"unknown"}', b'{"id":1,"method":"\xff"}'])
def test_stdio_exits_at_once_after_a_violation(line: bytes) -> None:
    with peer.stdio() as client:
        client.initialize()
        client.start("p", "sh", "-c", "echo $$; exec sleep 100")
        pid = pid_of(client, "p")
        client.send_text(line)
        assert client.process.wait(peer.PATIENCE) == 0
        assert peer.is_gone(pid)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_every_process(signum: signal.Signals) -> None:
    with peer.listening() as server:
        client = server.client()
        client.initialize()
        client.start("p", "sh", "-c", "echo $$; trap '' TERM HUP INT; sleep 100")
        pid = pid_of(client, "p")
        server.process.send_signal(signum)
        assert server.process.wait(peer.PATIENCE) == 0
        assert peer.is_gone(pid)


@pytest.mark.parametrize("tty", [False, True])
def test_processes_die_with_a_server_that_is_killed(tty: bool) -> None:
    with peer.listening() as server:
        client = server.client()
        client.initialize()
        client.start("p", "sh", "-c", "echo $$; trap '' TERM HUP; sleep 100", tty=tty)
        pid = pid_of(client, "p")
        os.kill(server.process.pid, signal.SIGKILL)
        assert peer.wait_until(lambda: peer.is_gone(pid))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "tcp://x"], 1, "Error: unsupported --listen URL `tcp://x`; expected"),
        (["--listen", ""], 1, "Error: unsupported --listen URL ``; expected"),
        (["--listen", "ws://example.com:0"], 1, "Error: invalid websocket --listen URL"),
        (["--listen", "ws://127.0.0.1"], 1, "Error: invalid websocket --listen URL"),
        (["--listen", "ws://127.0.0.1:70000"], 1, "Error: invalid websocket --listen URL"),
        (["--listen", "ws://1.2.3.4:1/x"], 1, "Error: invalid websocket --listen URL"),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--detached-seconds", "-1"], 2, "expected seconds"),
        (["--detached-seconds", "soon"], 2, "--detached-seconds"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    arguments: list[str], code: int, text: str
) -> None:
    done = subprocess.run(
        [peer.PROGRAM, *arguments], capture_output=True, text=True, timeout=peer.PATIENCE
    )
    assert done.returncode == code
    assert text in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_a_port_in_use_is_reported() -> None:
    with peer.listening() as server:
        done = subprocess.run(
            [peer.PROGRAM, "--listen", server.url],
            capture_output=True,
            text=True,
            timeout=peer.PATIENCE,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: Address already in use (os error 98)\n"


def test_an_operator_is_warned_who_listens_as_root() -> None:
    """The warning appears once, and neither for other users nor on stdio."""
    with subprocess.Popen(
        [peer.PROGRAM, "--listen", "ws://127.0.0.1:0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ws://")
        process.terminate()
        _, said = process.communicate(timeout=peer.PATIENCE)
    assert said.count("warning: running as root") == (os.geteuid() == 0)


def test_ipv6_is_listened_on_too() -> None:
    with peer.running("--listen", "ws://[::1]:0") as process:
        server = peer.Listening(process)
        assert server.url.startswith("ws://[::1]:")
        assert server.client().initialize()
        server.close()
