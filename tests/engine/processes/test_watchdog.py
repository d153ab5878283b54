"""The watchdog that kills the children of a server that died, in servers that really die."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process_harness import is_running
from tests.support.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
    import asyncio, signal, sys
    from exec_server.engine.processes.watchdog import Watchdog
    from exec_server.engine.processes.spawn import SpawnSpec
    from exec_server.engine.processes.table import ProcessTable

    class Listener:
        def on_output(self, process, chunk): pass
        def on_exited(self, process, seq, status): pass
        def on_closed(self, process, seq): closed.set()

    async def main():
        global closed
        closed = asyncio.Event()
        watchdog = Watchdog()
        table = ProcessTable(Listener(), loop=asyncio.get_running_loop(), watchdog=watchdog)
        def start(*argv, **spec):
            process = table.start(
                str(len(table)), SpawnSpec(argv, "/", {}, **spec), context=None)
            return process.pid
        start("true")
        await closed.wait()
        print(watchdog.pid, start("sleep", "1000"), start("sleep", "1000", tty=True),
              start("sh", "-c", "trap '' TERM HUP INT; sleep 1000 & wait"), flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own that does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def end_of(*pids: int) -> Iterator[None]:
    """Wait, on leaving, until processes that are no children of ours have ended.

    If they have not, they are ended, and the test fails.
    """
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], PATIENCE)[0], "still running"
    finally:
        for pidfd in pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def numbers(process: subprocess.Popen[str]) -> list[int]:
    """Return the numbers on the next line of output."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE)[0]
    return [int(word) for word in process.stdout.readline().split()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_die_with_the_server_however_it_dies(how: signal.Signals) -> None:
    """Groups and terminals, whatever they trap; then the watchdog ends as well."""
    with running(SERVER) as server:
        watchdog, *pids = numbers(server)
        assert all(map(is_running, [watchdog, *pids]))
        with end_of(watchdog, *pids):
            server.send_signal(how)


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP]
)
def test_the_watchdog_outlives_signals_meant_for_the_server(signum: signal.Signals) -> None:
    """It is still there when its time comes."""
    with running(SERVER) as server:
        watchdog, *pids = numbers(server)
        with end_of(watchdog, *pids):
            os.kill(watchdog, signum)
            server.kill()


def held_by(fds: Path) -> set[str]:
    """The names of the files that a process has open besides its standard input."""
    held = set()
    for fd in fds.iterdir():
        with suppress(FileNotFoundError):
            held.add(Path(os.readlink(fd)).name if fd.name != "0" else "null")
    return held


def test_the_watchdog_holds_nothing_of_the_server() -> None:
    """A pipe, besides its script and what is nothing; its own session, no directory."""
    with running(SERVER) as server:
        watchdog, *_ = numbers(server)
        fds = Path(f"/proc/{watchdog}/fd")
        assert os.readlink(fds / "0").startswith("pipe:")
        # It makes a cgroup for the server first.
        assert wait_until(lambda: held_by(fds) <= {"null", "watchdog.sh"}), held_by(fds)
        assert os.getsid(watchdog) == watchdog
        assert os.readlink(f"/proc/{watchdog}/cwd") == "/"
        with end_of(watchdog):
            server.kill()


WATCHDOG_ALONE = """
    import os, signal, sys
    from exec_server.engine.processes.watchdog import Watchdog
    watchdog = Watchdog(SHELL)
    watchdog.arm()
    first, second = map(int, sys.argv[1:])
    watchdog.add(first)
    watchdog.add(second)
    watchdog.remove(first)
    print(watchdog.pid, flush=True)
    sys.stdin.read()
    if ACTION == "close":
        watchdog.close()
        watchdog.close()
        try:
            os.waitpid(watchdog.pid, os.WNOHANG)
        except ChildProcessError:
            print(1, flush=True)
    elif ACTION == "killed":
        os.kill(watchdog.pid, signal.SIGKILL)
        os.waitid(os.P_PID, watchdog.pid, os.WEXITED | os.WNOWAIT)
        for pgid in range(100):
            watchdog.add(first)
        print(1, flush=True)
    elif ACTION == "stopped":
        os.kill(watchdog.pid, signal.SIGSTOP)
        for count in range(200_000):
            watchdog.add(first)
        watchdog.close()
        print(1, flush=True)
    elif ACTION == "suspended":
        os.kill(watchdog.pid, signal.SIGSTOP)
        watchdog.close()
        print(1, flush=True)
"""


def watchdog_alone(action: str, shell: str) -> str:
    """A program that starts a watchdog of two groups, and then does something."""
    return f"ACTION = {action!r}\nSHELL = {shell!r}\n" + textwrap.dedent(WATCHDOG_ALONE)


@contextmanager
def two_groups() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that lead groups."""
    groups = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2)]
    try:
        yield groups
    finally:
        for group in groups:
            group.kill()
            group.wait()


@pytest.mark.parametrize(
    ("action", "shell", "killed"),
    [
        ("nothing", "/bin/sh", True),
        ("nothing", "/bin/bash", True),
        ("close", "/bin/sh", True),
        ("killed", "/bin/sh", False),
        ("stopped", "/bin/sh", False),
        ("suspended", "/bin/sh", True),
    ],
)
def test_only_groups_that_are_still_listed_are_killed(
    action: str, shell: str, killed: bool
) -> None:
    """At the server's end or an orderly close; never by a watchdog that missed something.

    A watchdog that is gone or does not listen neither stops nor breaks the server.
    """
    with two_groups() as (first, second):
        with running(watchdog_alone(action, shell), str(first.pid), str(second.pid)) as server:
            (watchdog,) = numbers(server)
            with end_of(watchdog):
                assert server.stdin is not None
                server.stdin.close()
                if action != "nothing":
                    assert numbers(server) == [1]
            assert server.wait(PATIENCE) == 0
        if killed:
            assert second.wait(PATIENCE) == -signal.SIGKILL
        else:
            assert second.poll() is None
        assert first.poll() is None


def test_a_child_that_was_not_reported_is_killed() -> None:
    """The server may be killed as soon as it has forked."""
    program = """
        import os, signal
        from exec_server.engine.processes.spawn import SpawnSpec, spawn
        from exec_server.engine.processes.watchdog import Watchdog
        watchdog = Watchdog()
        watchdog.arm()
        child = spawn(SpawnSpec(["sleep", "1000"], "/", {}), watchdog.tags.new())
        print(watchdog.pid, child.pid, flush=True)
        input()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with running(program) as server, end_of(*numbers(server)):
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()


def test_a_sweep_spares_the_process_group_of_the_server() -> None:
    """A child that has just been forked still belongs to it."""
    program = """
        import os, subprocess
        from exec_server.engine.processes.process_tags import Sweep, Tagging, Tags
        tags = Tags()
        with Tagging(tags.new()):
            child = subprocess.Popen(["sleep", "1000"])
        for _ in Sweep(tags.__contains__, session=os.getsid(0)).steps():
            child.poll()
        print(-child.wait(), flush=True)
    """
    with running(program) as server:
        assert numbers(server) == [signal.SIGKILL]


def test_a_server_without_a_shell_has_no_watchdog_and_says_so() -> None:
    """Processes run normally."""
    program = """
        from exec_server.engine.processes.watchdog import Watchdog
        watchdog = Watchdog("/nowhere/sh")
        for _ in range(2):
            watchdog.arm()
            watchdog.add(1)
        watchdog.close()
        print(watchdog.pid)
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert finished.stdout == "None\n"
    (line,) = finished.stderr.splitlines()
    assert "/nowhere/sh" in line
    assert "killed" in line
