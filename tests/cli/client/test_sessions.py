"""``exec-server run --detach``, ``ps``, ``attach`` and ``kill``: programs that are left."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import terminals
from tests.support.terminals import Terminal, listening
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = ("draft", "v2", "v1", "codex 0.139.0", "codex 0.169.0")


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with listening(request.param) as url:
        yield url


@pytest.fixture
def draft() -> Iterator[str]:
    with listening("draft") as url:
        yield url


def detach(url: str, *arguments: str) -> tuple[str, str]:
    """Run a program and leave it; returns its session and its id."""
    done = terminals.run("run", "--detach", *arguments, url=url)
    assert (done.returncode, done.stderr) == (0, b"")
    session, process = done.stdout.decode().split()
    return session, process


def test_a_program_goes_on_and_is_found(url: str, tmp_path: Path) -> None:
    script = f"echo before; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo after; exit 7"
    session, process = detach(url, "--", "sh", "-c", script)
    with terminals.started("attach", "--session", session, process, url=url) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == b"before\n"
        (tmp_path / "go").touch()
        assert attached.stdout.readline() == b"after\n"
        assert attached.wait(PATIENCE) == 7


def test_showing_can_be_stopped(url: str) -> None:
    """Ctrl-C is for the showing, not for the program, and everything is shown the next time."""
    session, process = detach(url, "--name", "mine", "--", "sh", "-c", "echo shown; exec sleep 600")
    assert process == "mine"
    for _ in range(2):
        with terminals.started("attach", "--session", session, "mine", url=url) as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == b"shown\n"
            attached.send_signal(signal.SIGINT)
            assert attached.wait(PATIENCE) == 128 + signal.SIGINT
    killed = terminals.run("kill", "--session", session, "mine", url=url)
    assert (killed.returncode, killed.stderr) == (0, b"")
    ended = terminals.run("attach", "--session", session, "mine", url=url)
    assert ended.returncode > 128
    assert ended.stdout == b"shown\n"


def test_a_reader_that_leaves_does_not_end_the_program(url: str) -> None:
    script = "while :; do echo tick; sleep 0.02; done"
    session, process = detach(url, "--", "sh", "-c", script)
    for _ in range(2):
        with terminals.started("attach", "--session", session, process, url=url) as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == b"tick\n"
            attached.stdout.close()
            assert attached.wait(PATIENCE) == 128 + signal.SIGPIPE


def test_input_reaches_a_program_that_was_left(url: str) -> None:
    session, process = detach(url, "-i", "--", "sh", "-c", 'read line; echo "got $line"; exit 3')
    done = terminals.run("attach", "-i", "--session", session, process, url=url, input=b"word\n")
    assert (done.returncode, done.stdout) == (3, b"got word\n")


def test_a_terminal_that_was_left(draft: str) -> None:
    """It is taken up with keys, and with the size of the terminal here."""
    session, _ = detach(draft, "-it", "--name", "shell", "-e", "PS1=ready> ", "--", "sh", "-i")
    with Terminal("attach", "-i", "--session", session, "shell", url=draft) as terminal:
        terminal.expect(b"ready> ")
        terminal.type(b"stty size; exit 4\r")
        terminal.expect(b"30 90\r\n")
        assert terminal.end() == 4


def test_ps(draft: str) -> None:
    session, first = detach(draft, "--", "sh", "-c", "exit 3")
    second = detach(
        draft, "--session", session, "-t", "--name", "b", "--", "sh", "-c", "sleep 600"
    )[1]
    assert terminals.run("attach", "--session", session, first, url=draft).returncode == 3
    done = terminals.run("ps", "--session", session, "--json", url=draft)
    ended, running = json.loads(done.stdout)
    assert ended == {
        "id": first,
        "pid": ended["pid"],
        "argv": ["sh", "-c", "exit 3"],
        "tty": False,
        "running": False,
        "exitCode": 3,
        "closed": True,
    }
    assert (running["id"], running["tty"], running["running"]) == (second, True, True)
    shown = terminals.run("ps", url=draft, EXEC_SERVER_SESSION=session).stdout.decode()
    head, *lines = shown.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "COMMAND"]
    pids = [str(ended["pid"]), str(running["pid"])]
    assert lines[0].split(maxsplit=4) == [first, pids[0], "exited", "3", "sh -c 'exit 3'"]
    assert lines[1].split(maxsplit=3) == ["b", pids[1], "running", "sh -c 'sleep 600'"]


def test_detached_as_json(draft: str) -> None:
    done = terminals.run("run", "--detach", "--json", "--", "true", url=draft)
    told = json.loads(done.stdout)
    assert set(told) == {"session", "process"}
    listed = terminals.run("ps", "--session", told["session"], "--json", url=draft)
    assert [process["id"] for process in json.loads(listed.stdout)] == [told["process"]]


def test_kill_asks_first(draft: str, tmp_path: Path) -> None:
    trap = f"trap 'echo asked >{tmp_path}/asked; exit 0' TERM"
    script = f"{trap}; echo ready; while :; do sleep 0.05; done"
    session, process = detach(draft, "--", "sh", "-c", script)
    with terminals.started("attach", "--session", session, process, url=draft) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == b"ready\n"
        attached.send_signal(signal.SIGTERM)
        assert attached.wait(PATIENCE) == 128 + signal.SIGTERM
    assert terminals.run("kill", "--session", session, process, url=draft).returncode == 0
    assert (tmp_path / "asked").read_text() == "asked\n"
    _, other = detach(draft, "--session", session, "--", "sh", "-c", "trap '' TERM; exec sleep 600")
    assert terminals.run("kill", "-f", "--session", session, other, url=draft).returncode == 0
    codes = [
        process["exitCode"]
        for process in json.loads(
            terminals.run("ps", "--session", session, "--json", url=draft).stdout
        )
    ]
    assert codes == [0, 137]


@pytest.mark.parametrize("server", ["v2", "v1"])
def test_a_server_that_cannot_list(server: str) -> None:
    with listening(server) as url:
        session, _ = detach(url, "--", "sleep", "600")
        done = terminals.run("ps", "--session", session, url=url)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == (
        f"exec-server: revision {server} has no messages for listing processes\n".encode()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ps",), 125, "--session"),
        (("attach", "x"), 125, "--session"),
        (("kill", "x"), 125, "--session"),
        (("ps", "--session", "no-such"), 125, "refused the session: unknown session"),
    ],
)
def test_what_goes_wrong(arguments: tuple[str, ...], code: int, words: str, draft: str) -> None:
    done = terminals.run(*arguments, url=draft)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_unknown_programs(url: str) -> None:
    """Nothing happens to the others that are named."""
    session, known = detach(url, "-i", "--", "sh", "-c", "read line; exit 6")
    for arguments in (("attach", "none"), ("kill", known, "none")):
        done = terminals.run(arguments[0], "--session", session, *arguments[1:], url=url)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == (
            b"exec-server: none: the session has no program of that id, or no longer\n"
        )
    ended = terminals.run("attach", "-i", "--session", session, known, url=url, input=b"go\n")
    assert ended.returncode == 6


def test_servers_without_sessions_to_leave() -> None:
    done = terminals.run("run", "--detach", "--", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"keeps no session without a connection" in done.stderr
    done = terminals.run("ps", "--session", "x")
    assert done.returncode == 125
    assert b"listening servers do" in done.stderr
