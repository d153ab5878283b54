"""Fuzz the server and report; exits 1 if it crashed, hung, lost an answer, or leaked."""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.fuzz.costs import CostFuzzer
from tests.fuzz.messages import REVISIONS, Generator
from tests.fuzz.server import (
    PATIENCE,
    Connection,
    Ended,
    Hung,
    StdioConnection,
    WebSocketConnection,
    children,
    command,
    descriptors,
    memory_bytes,
    random_frames,
    running,
)
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import subprocess

EXPECTED: Final = re.compile("listening on|warning: running as root")
"""Lines that a server writes on standard error when it starts."""

WEBSOCKET_SHARE: Final = 0.8
ROUND: Final = 1000
"""Messages of one connection, unless one of them ends it."""

STDIO_ROUND: Final = 20_000
BATCH: Final = 50
"""Messages between two looks whether the server still answers."""

WARM: Final = 10_000
"""Messages after which memory is taken as the measure of what comes."""

GROWTH: Final = 1.1

PROGRESS: Final = 50_000
"""Messages between two lines of progress."""


@dataclass
class Result:
    """Counts and faults of a run."""

    sent: int = 0
    valid: int = 0
    ended: int = 0
    connections: int = 0
    frames: int = 0
    skipped: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, words: str) -> None:
        """Note a fault and print it at once."""
        print(f"WRONG: {words}", file=sys.stderr, flush=True)
        self.faults.append(words)


class Fuzzer:
    """Sends random messages until enough were sent or time is up."""

    def __init__(self, seed: int, folder: str, messages: int, seconds: float) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._generator = Generator(self._chance, folder)
        self._messages = messages
        self._begin = time.monotonic()
        self._seconds = seconds
        self.result = Result()
        self._count = 0

    def is_done(self, share: float) -> bool:
        """Return True once a share of the messages was sent, or of the time has passed."""
        passed = time.monotonic() - self._begin
        return self.result.sent >= share * self._messages or passed > share * self._seconds

    def bombard(self, connection: Connection, count: int) -> None:
        """Send messages until the server ends the connection, as it may.

        What was valid, and sent before anything else could have ended it, must be answered.
        """
        result = self.result
        result.connections += 1
        # In the eyes of v0, whatever is malformed ends the connection.
        revisions = REVISIONS if self._chance.random() < 0.1 else REVISIONS[1:]
        sent_valid: set[str] = set()
        try:
            connection.handshake()
            for number in range(count):
                self._count += 1
                name = f"m{self._count}"
                message = self._generator.message(name, revisions)
                is_valid = self._chance.random() < 0.3
                if is_valid:
                    data = self._generator.encoded(message)
                else:
                    data = self._generator.mutated(message)
                    if not self._generator.is_safe(data):
                        result.skipped += 1
                        continue
                    if self._generator.is_violation(data) and self._chance.random() > 0.01:
                        continue
                connection.send(data)
                result.sent += 1
                if result.sent % PROGRESS == 0:
                    print(f"{result.sent:,} messages", file=sys.stderr, flush=True)
                if is_valid and message["method"] not in SLOW:
                    result.valid += 1
                    sent_valid.add(name)
                if number % BATCH == BATCH - 1:
                    connection.sync()
            connection.sync()
            connection.settle(sent_valid)
        except Ended:
            result.ended += 1
        except Hung as error:
            result.fault(f"hung after message {self._count}: {error}")

    def over_websocket(self) -> tuple[int, int]:
        """Fuzz one server over many connections; returns its memory when warm and at the end."""
        arguments = ("--listen", "ws://127.0.0.1:0", "--detached-seconds", "0")
        with running(command(self._folder, *arguments)) as process:
            return self._fuzz_listening(process)

    def _fuzz_listening(self, process: subprocess.Popen[bytes]) -> tuple[int, int]:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        fds = descriptors(process.pid)
        warm = 0
        while not self.is_done(WEBSOCKET_SHARE) and process.poll() is None:
            try:
                connection = WebSocketConnection(url)
                self.bombard(connection, ROUND)
                connection.close()
                self._send_frames(url)
            except (Ended, Hung) as error:
                self.result.fault(f"no connection after {self._count}: {error!r}")
                break
            if not warm and self.result.sent >= min(WARM, self._messages / 10):
                warm = memory_bytes(process.pid)
        last = self._look_after(process, fds)
        self._end(process)
        return warm, last

    def _send_frames(self, url: str) -> None:
        """Bytes that need not be frames at all."""
        connection = WebSocketConnection(url)
        with contextlib.suppress(Ended):
            connection.send_raw(random_frames(self._chance))
            self.result.frames += 1
        connection.close()

    def over_stdio(self) -> None:
        """Fuzz servers over their standard streams, each until it ends or has had enough."""
        argv = command(self._folder)
        while not self.is_done(1.0):
            with running(argv) as process:
                self.bombard(StdioConnection(process), STDIO_ROUND)
                self._end(process)

    def _look_after(self, process: subprocess.Popen[bytes], fds: int) -> int:
        """Report processes and descriptors left after all clients; return the memory used."""
        if process.poll() is not None:
            return 0
        if not wait_until(lambda: not children(process.pid) and descriptors(process.pid) <= fds):
            self.result.fault(
                f"left: {children(process.pid)} processes, "
                f"{descriptors(process.pid) - fds} descriptors"
            )
        return memory_bytes(process.pid)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Let a server end; it must do so in an orderly way, and have said nothing of itself."""
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            while process.stdout.read(1 << 20):
                pass
            words = process.stderr.read().decode(errors="replace")
        code = process.wait(PATIENCE)
        if code != 0:
            self.result.fault(f"exit code {code}")
        complaints = [line for line in words.splitlines() if line and not EXPECTED.search(line)]
        for line in complaints[:5]:
            self.result.fault(line)


SLOW: Final = frozenset(("process/read", "process/write", "process/wait", "http/request"))
"""Their answers may come when the session ends."""


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop earlier")
    parser.add_argument(
        "--cost-cases", type=int, default=450, help="measured costs; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=20_261_121, help="default: %(default)s")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(options.seed, folder, options.messages, options.seconds)
        warm, last = fuzzer.over_websocket()
        fuzzer.over_stdio()
    result = fuzzer.result
    with tempfile.TemporaryDirectory() as folder:
        costs = CostFuzzer(random.Random(options.seed), folder)
        for problem in costs.run(options.cost_cases):
            result.fault(problem)
    if warm and last > GROWTH * warm:
        result.fault(f"memory grew by more than {GROWTH - 1:.0%}")
    seconds = time.monotonic() - begin
    print(f"seed {options.seed}: {result.sent:,} messages in {seconds:.0f} s")
    print(f"valid and answered: {result.valid:,}; too dangerous to send: {result.skipped:,}")
    print(f"connections: {result.connections:,}, ended by the server: {result.ended:,}")
    print(
        f"measured costs: {options.cost_cases:,}; another connection waited for "
        f"{costs.longest_wait * 1000:.0f} ms at most"
    )
    print(f"sets of random frames: {result.frames:,}")
    print(
        f"memory after {WARM:,} messages {warm / 2**20:.1f} MiB, at the end {last / 2**20:.1f} MiB"
    )
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
