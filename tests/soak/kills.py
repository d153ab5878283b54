"""Kill servers at random moments while they start processes, and look for what is left.

    python -m tests.soak.kills --kills N --seed N --jobs N

Each job is a process of its own and a subreaper, so every process that a killed server leaves is
reparented to it. As root, every other server runs as an ordinary user, if that user can
run this interpreter. Exits 1 if anything was left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from tests.soak.client import PROGRAM, descendants, start_params
from tests.soak.raw import UPGRADE, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE: Final = 20.0
"""Seconds until a process that is still there counts as left."""

_SPREAD: Final = 1.2
"""Servers are killed at moments up to this multiple of the time that a whole round takes here."""

_LOOKS: Final = 3
"""Looks in a row that must find nothing."""

_MAX_STARTS: Final = 6
"""Starts of a round. The first takes as long as all others."""

_NOBODY: Final = 65534
_AS_NOBODY: Final = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")

_PR_SET_CHILD_SUBREAPER: Final = 36
"""linux/prctl.h."""

_COMMANDS: Final = (
    ("sleep", "1000"),
    ("true",),
    ("sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"),
    ("sh", "-c", "setsid -f setsid -f sleep 1000"),
    # A chain: each process starts the next one and exits. It ends by itself after some seconds.
    ("sh", "-c", 'c() { [ "$1" -gt 3000 ] || (c $(($1 + 1)) &) ; }; c 0'),
)
"""Programs that stay, end at once, or leave something behind."""

_ANSWER: Final = b'"sandboxType"'
"""Part of the answer to a start (v2), and of nothing else."""

_SANDBOX: Final = {
    "permissions": {
        "type": "managed",
        "file_system": {
            "type": "restricted",
            "entries": [{"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}],
        },
        "network": "restricted",
    },
    "windowsSandboxLevel": "disabled",
}
"""Everything may be read, nothing written (v2, process/start)."""


_FILE_CALL: Final = {
    "id": "file",
    "method": "fs/readFile",
    "params": {"path": "file:///etc/hostname", "sandbox": _SANDBOX},
}
"""A call that a worker in a sandbox carries out."""

_FILE_CALLS: Final = 0.3
"""The share of the rounds that have one: most are about starts."""


@dataclass
class Result:
    """The outcome of some kills."""

    kills: dict[str, int] = field(default_factory=dict)
    """By user and transport."""
    starts: int = 0
    answered: int = 0
    """Number of starts answered before the server died."""
    slowest_seconds: float = 0.0
    """The longest time until nothing was left."""
    left: list[str] = field(default_factory=list)
    """The rounds after which a process was left, and its command line."""

    def add(self, other: Result) -> None:
        """Add the outcome of other kills."""
        for name, count in other.kills.items():
            self.kills[name] = self.kills.get(name, 0) + count
        self.starts += other.starts
        self.answered += other.answered
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.left += other.left


def kill_servers(kills: int, seed: int) -> Result:
    """Kill so many servers, one after the other, in this process, which becomes a subreaper."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    chance = random.Random(seed)
    result = Result()
    seconds = _SPREAD * _kill_one((), "stdio", chance, Result(), seconds=None)
    users = ["own"]
    # A shell in between, since setpriv itself still has root's access when it executes a program.
    if os.geteuid() == 0 and _succeeds([*_AS_NOBODY, "sh", "-c", '"$0" --help', PROGRAM]):
        users.append("nobody")
    for number in range(kills):
        user = users[number % len(users)]
        transport = chance.choice(("stdio", "ws"))
        name = f"{user}, {transport}"
        result.kills[name] = result.kills.get(name, 0) + 1
        _kill_one(
            _AS_NOBODY if user == "nobody" else (), transport, chance, result, seconds=seconds
        )
        killed = time.monotonic()
        left = _wait_for_nothing()
        result.slowest_seconds = max(result.slowest_seconds, time.monotonic() - killed)
        result.left += (f"seed {seed}, kill {number}: {command}" for command in left)
    return result


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _kill_one(
    prefix: Sequence[str],
    transport: str,
    chance: random.Random,
    result: Result,
    *,
    seconds: float | None,
) -> float:
    """Start a server and some processes, and kill it within ``seconds``.

    None stands for the moment when all are started. Returns how long it has lived since the first.
    """
    starts = chance.randint(1, _MAX_STARTS) if seconds else _MAX_STARTS
    messages = [_start(number, chance) for number in range(1, starts + 1)]
    if chance.random() < _FILE_CALLS:
        messages.insert(chance.randint(0, starts), _FILE_CALL)
    listen = "stdio" if transport == "stdio" else "ws://127.0.0.1:0"
    with subprocess.Popen(
        [*prefix, PROGRAM, "--protocol", "v2", "--listen", listen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            with _connected(server, transport) as (send, reader):
                begin = time.monotonic()
                for message in messages:
                    send(message)
                answers = 0
                if seconds is not None:
                    time.sleep(chance.uniform(0, seconds))
                else:
                    while answers < starts and (line := reader.readline()):
                        answers += line.count(_ANSWER)
                lived = time.monotonic() - begin
                server.kill()
                result.starts += starts
                with contextlib.suppress(ConnectionResetError):
                    result.answered += answers + reader.read().count(_ANSWER)
                return lived
        finally:
            server.kill()


def _start(number: int, chance: random.Random) -> dict[str, Any]:
    """A start, with or without a terminal and a sandbox."""
    options: dict[str, Any] = {"tty": chance.random() < 0.5}
    if chance.random() < 0.5:
        options["sandbox"] = _SANDBOX
    command = chance.choice(_COMMANDS)
    params = start_params(f"p{number}", *command, cwd="file:///", **options)
    return {"id": number, "method": "process/start", "params": params}


@contextlib.contextmanager
def _connected(
    server: subprocess.Popen[bytes], transport: str
) -> Iterator[tuple[Callable[[dict[str, Any]], None], IO[bytes]]]:
    """Do the handshake; yields a function that sends a message, and what comes back."""
    assert server.stdin is not None
    assert server.stdout is not None
    with contextlib.ExitStack() as stack:
        if transport == "stdio":
            stdin = server.stdin
            reader: IO[bytes] = server.stdout

            def send(message: dict[str, Any]) -> None:
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()
        else:
            host, port = server.stdout.readline().decode().strip()[len("ws://") :].split(":")
            sock = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            reader = stack.enter_context(sock.makefile("rb"))
            sock.sendall(UPGRADE)
            while reader.readline() != b"\r\n":
                pass

            def send(message: dict[str, Any]) -> None:
                sock.sendall(frame(json.dumps(message).encode()))

        send({"id": 0, "method": "initialize", "params": {"clientName": "kills"}})
        # The answer is a line, or begins with two bytes of a frame's header.
        if not (reader.readline() if transport == "stdio" else reader.read(2)):
            raise SystemExit("the server has ended before it was killed")
        send({"method": "initialized", "params": {}})
        yield send, reader


def _wait_for_nothing() -> list[str]:
    """Wait until this process has no descendant; returns the command lines of those left, killed.

    A process that forks and exits during a look can be missed, so it takes several.
    """
    deadline = time.monotonic() + PATIENCE
    misses = 0
    left: dict[int, str] = {}
    while misses < _LOOKS and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = {pid: _command_line(pid) for pid in descendants(os.getpid())}
        misses = 0 if left else misses + 1
        time.sleep(0.005)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "ended meanwhile"


def _run_jobs(kills: int, seed: int, jobs: int) -> Result:
    """Divide the kills among processes, which print their results as JSON."""
    command = [sys.executable, "-m", "tests.soak.kills", "--jobs", "0"]
    shares = [kills // jobs + (number < kills % jobs) for number in range(jobs)]
    running = [
        subprocess.Popen(
            [*command, "--kills", str(share), "--seed", str(seed + number)],
            stdout=subprocess.PIPE,
        )
        for number, share in enumerate(shares)
    ]
    total = Result()
    for job in running:
        output, _ = job.communicate()
        if job.returncode:
            raise SystemExit(f"a job failed with {job.returncode}")
        total.add(Result(**json.loads(output)))
    return total


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=20_261_130, help="default: %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes; 0: this one, prints JSON (default: 2)"
    )
    options = parser.parse_args()
    if not options.jobs:
        print(json.dumps(asdict(kill_servers(options.kills, options.seed))))
        return 0
    result = _run_jobs(options.kills, options.seed, options.jobs)
    for name, count in sorted(result.kills.items()):
        print(f"{'servers killed: ' + name:32} {count:,}")
    print(f"{'starts asked for':32} {result.starts:,}")
    print(f"{'starts answered before the kill':32} {result.answered:,}")
    print(f"{'longest until nothing was left':32} {result.slowest_seconds:.2f} s")
    print(f"{'processes left':32} {len(result.left)}")
    for left in result.left[:20]:
        print(f"WRONG: {left}")
    return 1 if result.left else 0


if __name__ == "__main__":
    sys.exit(main())
