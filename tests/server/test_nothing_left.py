"""Nothing that a server has started outlives its session, wherever it went and however it ends."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer
from tests.support.checkout import ROOT
from tests.support.waiting import RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ESCAPES = {
    "background": "sleep 1000 & echo $! >>{}",
    "own session": "setsid sh -c 'echo $$ >>{}; exec sleep 1000' & wait",
    "orphan": "setsid -f sh -c 'echo $$ >>{}; exec sleep 1000'",
    "orphan without environment": "setsid -f env -i sh -c 'echo $$ >>{}; exec sleep 1000'",
    "daemon": "setsid -f setsid -f sh -c 'trap \"\" TERM HUP; echo $$ >>{}; sleep 1000 & wait'",
    "family": "setsid -f sh -c 'setsid sleep 1000 & echo $! $$ >>{}; wait'",
}
"""Shell commands that leave processes behind; each writes their numbers to a file."""


CHAIN = """
import fcntl, os, signal, sys, time

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # sent when the leader of a terminal's session exits
lock = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
end = time.monotonic() + 60
if os.fork():
    os._exit(0)
os.setsid()
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    if sys.argv[2] == "own sessions":
        os.setsid()
    os.write(lock, b".")
    time.sleep(float(sys.argv[3]))
"""
"""A program whose processes start the next one and exit. All of them hold the lock on a file."""


UNTAGGED = """
import fcntl, os, resource, sys, time

lock = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
    hard = resource.getrlimit(10)[1]
    resource.setrlimit(10, (hard, hard))
os.write(lock, b"x")
time.sleep(60)
"""
"""A daemon that holds the lock on a file and sets RLIMIT_LOCKS, as none does by mistake."""


@contextmanager
def killed_at_last(pids: list[int]) -> Iterator[None]:
    """Whatever the test finds, these processes do not outlive it."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def escape(client: peer.Client, folder: Path, *names: str) -> list[int]:
    """Let processes escape in some ways, each from a process of its own; returns their numbers."""
    pids: list[int] = []
    for name in names or ESCAPES:
        file = folder / name.replace(" ", "-")
        client.start(name, "sh", "-c", ESCAPES[name].format(file))
        expected = 2 if name == "family" else 1
        assert peer.wait_until(
            lambda file=file, expected=expected: (
                file.exists() and len(file.read_text().split()) == expected
            )
        )
        pids += map(int, file.read_text().split())
    assert not any(map(peer.is_gone, pids))
    return pids


def is_unlocked(file: Path) -> bool:
    """True if no process holds the lock on a file."""
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def all_gone(pids: list[int]) -> bool:
    """Return True if all of them end in time."""
    return peer.wait_until(lambda: all(map(peer.is_gone, pids)))


def encoded(message: dict[str, Any]) -> str:
    """A line of JSON as the chunk of process/write."""
    return base64.b64encode(json.dumps(message).encode() + b"\n").decode()


def children(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_session_takes_with_it_what_has_escaped(tmp_path: Path) -> None:
    """When its time to resume is over; other sessions keep theirs."""
    with peer.listening("--detached-seconds", "0") as server:
        leaving, staying = server.client(), server.client()
        for client in (leaving, staying):
            client.initialize()
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        gone = escape(leaving, tmp_path / "a")
        kept = escape(staying, tmp_path / "b")
        with killed_at_last(gone + kept):
            leaving.close()
            assert all_gone(gone)
            assert not any(map(peer.is_gone, kept))
            assert staying.is_alive()


def test_a_client_over_stdio_leaves_nothing(tmp_path: Path) -> None:
    """The end of its input is the end of its session."""
    with peer.stdio() as client:
        client.initialize()
        pids = escape(client, tmp_path)
        with killed_at_last(pids):
            client.end_input()
            assert client.process.wait(peer.PATIENCE) == 0
            assert all(map(peer.is_gone, pids))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_shut_down_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    """When it has ended, so has everything else."""
    with peer.listening() as server:
        client = server.client()
        client.initialize()
        pids = escape(client, tmp_path)
        with killed_at_last(pids):
            server.process.send_signal(how)
            assert server.process.wait(peer.PATIENCE) == 0
            assert all(map(peer.is_gone, pids))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_server_that_dies_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    """Its watchdog finds what has escaped; also of sessions that are detached."""
    with peer.listening() as server:
        client, other = server.client(), server.client()
        for one in (client, other):
            one.initialize()
        (tmp_path / "other").mkdir()
        pids = escape(client, tmp_path) + escape(other, tmp_path / "other", "daemon")
        other.close()
        with killed_at_last(pids):
            server.process.send_signal(how)
            assert server.process.wait(peer.PATIENCE) == -how
            assert all_gone(pids)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("end", ["input", signal.SIGTERM, signal.SIGKILL])
def test_a_chain_over_stdio_is_ended(tmp_path: Path, end: str | signal.Signals, tty: bool) -> None:
    """Also one that was started on a terminal."""
    file = tmp_path / "lock"
    with peer.stdio("--grace-seconds", "0") as client:
        client.initialize()
        chain = (sys.executable, "-I", "-S", "-c", CHAIN, str(file), "own sessions", "0")
        client.start("chain", *chain, tty=tty)
        assert peer.wait_until(lambda: file.exists() and file.stat().st_size > 10)
        if isinstance(end, signal.Signals):
            client.process.send_signal(end)
        else:
            client.end_input()
        client.process.wait(peer.PATIENCE)
        assert peer.wait_until(lambda: is_unlocked(file))


@pytest.mark.parametrize("pause", [0, 0.002])
@pytest.mark.parametrize("sessions", ["one session", "own sessions"])
@pytest.mark.parametrize("end", ["session", signal.SIGTERM, signal.SIGKILL])
def test_a_chain_of_processes_is_ended(
    tmp_path: Path, end: str | signal.Signals, sessions: str, pause: float
) -> None:
    """Although each process has exited, with another one started, before it can be looked up."""
    file = tmp_path / "lock"
    with peer.listening("--detached-seconds", "0", "--grace-seconds", "0") as server:
        client = server.client()
        client.initialize()
        client.start(
            "chain", sys.executable, "-I", "-S", "-c", CHAIN, str(file), sessions, str(pause)
        )
        assert peer.wait_until(lambda: file.exists() and file.stat().st_size > 10)
        assert not is_unlocked(file)
        if isinstance(end, signal.Signals):
            server.process.send_signal(end)
        else:
            client.close()
        assert peer.wait_until(lambda: is_unlocked(file))


def own_cgroup() -> Path | None:
    """The directory of this process's cgroup (version 2), if it may make others in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            path = Path(mount + line.removeprefix("0::"))
            if line.startswith("0::") and (path / "cgroup.procs").exists():
                with suppress(OSError):
                    (path / "test").mkdir()
                    (path / "test").rmdir()
                    return path
    return None


@pytest.mark.skipif(own_cgroup() is None, reason="NO CGROUP CAN BE MADE HERE")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_has_removed_its_tag_stays_in_the_cgroup(
    tmp_path: Path, end: signal.Signals
) -> None:
    """The server is moved into one of its own; it is killed, and removed, with the server."""
    file = tmp_path / "lock"
    with peer.listening("--grace-seconds", "0") as server:
        client = server.client()
        client.initialize()
        client.start("first", "true")
        cgroup = Path(f"/proc/{server.process.pid}/cgroup")
        assert peer.wait_until(lambda: "/exec_server." in cgroup.read_text())
        (path,) = (line[3:] for line in cgroup.read_text().splitlines() if line.startswith("0::"))
        client.start("daemon", sys.executable, "-I", "-S", "-c", UNTAGGED, str(file))
        assert peer.wait_until(lambda: file.exists() and file.stat().st_size > 0)
        server.process.send_signal(end)
        assert peer.wait_until(lambda: is_unlocked(file))
        parent = own_cgroup()
        assert parent is not None
        assert peer.wait_until(lambda: not (parent / Path(path).name).exists())


def test_servers_killed_at_random_moments_leave_nothing() -> None:
    """A short run of the soak; with pipes and terminals, sandboxes, and users."""
    kills = [sys.executable, "-m", "tests.soak.kills", "--kills", "40"]
    run = subprocess.run(kills, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "processes left                   0" in run.stdout


def test_a_server_within_a_session_is_ended_with_all_of_its_own(tmp_path: Path) -> None:
    """Although its processes carry its own marks."""
    with peer.stdio() as client:
        client.initialize()
        client.start("inner", peer.PROGRAM, "--protocol", "v1", pipeStdin=True)
        file = tmp_path / "pids"
        script = f"echo $$ >>{file}; setsid -f sh -c 'echo $$ >>{file}; exec sleep 1000'; cat"
        start = peer.start_params("p", "sh", "-c", script, pipeStdin=True)
        for message in (
            {"id": 1, "method": "initialize", "params": {"clientName": "test"}},
            {"method": "initialized", "params": {}},
            {"id": 2, "method": "process/start", "params": start},
        ):
            client.call("process/write", {"processId": "inner", "chunk": encoded(message)})
        assert peer.wait_until(lambda: file.exists() and len(file.read_text().split()) == 2)
        pids = [int(word) for word in file.read_text().split()]
        with killed_at_last(pids):
            client.end_input()
            assert client.process.wait(peer.PATIENCE) == 0
            assert all_gone(pids)


def test_orphans_that_end_are_waited_for() -> None:
    """No zombie is left of them while the server runs."""
    with peer.listening() as server:
        client = server.client()
        client.initialize()
        client.start("first", "true")  # and with it the server's watchdog
        client.closed("first")
        before = children(server.process.pid)
        for number in range(20):
            client.start(f"p{number}", "sh", "-c", "setsid -f true; setsid -f sleep 0.1; true &")
            client.closed(f"p{number}")
        assert peer.wait_until(lambda: children(server.process.pid) == before)
        assert client.is_alive()


def test_children_that_the_server_has_not_started_are_left_alone(tmp_path: Path) -> None:
    """A shell may have started some before it became the server."""
    file = tmp_path / "pid"
    with peer.running(
        program=("sh", "-c", f'sleep 1000 & echo $! >{file}; exec "$0" "$@"', peer.PROGRAM)
    ) as process:
        client = peer.StdioClient(process)
        client.initialize()
        client.start("p", "setsid", "-f", "true")
        client.closed("p")
        (pid,) = map(int, file.read_text().split())
        with killed_at_last([pid]):
            client.end_input()
            assert process.wait(peer.PATIENCE) == 0
            assert not peer.is_gone(pid)
