"""The exec-server that a client uses: this project's, or the one of the client's own release."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from exec_server_conformance import codex_binaries
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Maker: TypeAlias = Literal["ours", "codex"]


def command(maker: Maker, version: str) -> list[str]:
    """The command that runs an exec-server, without ``--listen``."""
    if maker == "ours":
        return [str(Path(sys.executable).with_name("codex-exec-server"))]
    return [str(codex_binaries.binary(version)), "exec-server"]


@dataclass(slots=True)
class ListeningServer:
    """A server on a free loopback port."""

    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(
        cls,
        command: list[str],
        *arguments: str,
        directory: Path,
        environment: Mapping[str, str],
    ) -> ListeningServer:
        """Start the command in a directory; return when it listens."""
        with (directory / "server-stderr").open("wb") as errors:
            process = subprocess.Popen(
                [*command, "--listen", "ws://127.0.0.1:0", *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert url.startswith("ws://"), (directory / "server-stderr").read_text()
        return cls(process, url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """Tell the server to end; return its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)
