"""The real script, on pipes and on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from exec_server_conformance import codex_binaries
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

BIN = Path(sys.executable).parent

SCRIPT = str(BIN / "exec-server")

SERVER = str(BIN / "codex-exec-server")

_PEERS = ROOT / codex_binaries.DEFAULT_DIRECTORY


def environment(**more: str) -> dict[str, str]:
    """The variables of this process, none about a server but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXEC_SERVER")}
    return {**kept, "TERM": "xterm", **more}


def run(
    *arguments: str,
    url: str | None = f"stdio:{SERVER}",
    input: bytes = b"",  # noqa: A002
    **more: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run the script to its end, on pipes."""
    if url is not None:
        more["EXEC_SERVER_URL"] = url
    return subprocess.run(
        [SCRIPT, *arguments],
        input=input,
        capture_output=True,
        env=environment(**more),
        timeout=PATIENCE,
        check=False,
    )


@contextlib.contextmanager
def started(*arguments: str, url: str = f"stdio:{SERVER}") -> Iterator[subprocess.Popen[bytes]]:
    """The script on pipes, running; it is gone afterwards."""
    process = subprocess.Popen(
        [SCRIPT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(EXEC_SERVER_URL=url),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def codex(release: str) -> list[str]:
    """The command line of a codex release, but for how it listens; skips the test without it."""
    try:
        return codex_binaries.command(release, _PEERS)
    except codex_binaries.BinaryMissing as error:
        pytest.skip(f"nothing proven on codex: {error}")


@contextlib.contextmanager
def listening(name: str) -> Iterator[str]:
    """The URL of a server of its own: this project's with a protocol, or a codex release."""
    kind, _, release = name.partition(" ")
    if kind == "codex":
        argv = codex(release)
    else:
        argv = [SERVER, "--protocol", "auto" if kind == "draft" else kind]
    server = subprocess.Popen(
        [*argv, "--listen", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().decode().strip()
        finally:
            server.terminate()
            server.wait(PATIENCE)


class Terminal:
    """The script in a terminal of 30 rows and 90 columns. Use it in ``with``."""

    def __init__(self, *arguments: str, url: str = f"stdio:{SERVER}") -> None:
        self._master, self._slave = pty.openpty()
        self.seen = b""
        self.before = b""
        """Output ahead of the text that was expected last."""
        self.resize(30, 90)
        self.modes = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [SCRIPT, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(EXEC_SERVER_URL=url),
        )

    def resize(self, rows: int, cols: int) -> None:
        """Change its size; who tells the script is the caller."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes) -> None:
        """Wait until that is shown, behind what was expected before."""
        give_up_at = time.monotonic() + PATIENCE
        while text not in self.seen:
            left = give_up_at - time.monotonic()
            ready = select.select([self._master], [], [], max(0, left))[0]
            assert ready, f"{text!r} was not shown, but {self.seen!r}"
            try:
                self.seen += os.read(self._master, 65536)
            except OSError:
                raise AssertionError(f"ended without {text!r}, with {self.seen!r}") from None
        self.before, _, self.seen = self.seen.partition(text)

    def end(self) -> int:
        """Wait for the exit code; the terminal must be as it was."""
        code = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self._slave) == self.modes
        return code

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)
