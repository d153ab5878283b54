"""A real codex client that runs one program, for the suite to judge:

    exec-server-conformance client --cmd "python -m tests.peers.as_client 0.169.0 {url}"

A third argument makes it type its standard input into the program, which then has a terminal. With
``'{command}'`` in place of ``{url}`` the client starts its server, and speaks over pipes.

The model that the client works for asks for one command, waits for its end, and is told its output
and exit code as text. They become this program's own; 125 tells that there was no exit code.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exec_server_conformance import codex_binaries

from .codex_client import CodexClient, Connection, Release
from .mock_model import MockModel
from .stage import CommandResult, run_command, type_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .mock_model import Item, ModelRequest

NO_EXIT_CODE: Final = 125

MOST_TURNS: Final = 6
"""Number of times that the model asks if the program has exited."""

_WAIT: Final = {"yield_time_ms": 20_000}
"""The longest that a tool call may wait for a program."""


def main(version: str, server: str, *types: str) -> int:
    """Run the program on a server, by its URL or command; returns the program's exit code."""
    # What was started is ended also when the suite has seen enough.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NO_EXIT_CODE))
    homes = codex_binaries.homes()
    homes.mkdir(parents=True, exist_ok=True)
    ended: list[CommandResult] = []
    with ExitStack() as exits:
        directory = Path(tempfile.mkdtemp(prefix="client-", dir=homes))
        exits.callback(shutil.rmtree, directory, ignore_errors=True)
        workspace = directory / "workspace"
        (workspace / ".git").mkdir(parents=True)

        def go_on(call: int, text: str) -> Any:
            def turn(request: ModelRequest) -> Sequence[Item]:
                result = CommandResult.of(request, f"call-{call}")
                if result.exit_code is not None or result.session_id is None:
                    ended.append(result)
                    return []
                return [type_into(f"call-{call + 1}", result.session_id, text, **_WAIT)]

            return turn

        texts = [sys.stdin.read() if types else "", *[""] * (MOST_TURNS - 1)]
        options = {"tty": True, "yield_time_ms": 250} if types else _WAIT
        turns = [
            [run_command("call-0", "probe", **options)],
            *(go_on(*numbered) for numbered in enumerate(texts)),
        ]
        model = exits.enter_context(MockModel(turns))
        is_url = server.startswith("ws://")
        connection = Connection(server) if is_url else Connection(command=shlex.split(server))
        environment = {
            "PATH": os.environ["PATH"],
            "RUST_LOG": "warn",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        client = exits.enter_context(
            CodexClient(
                Release(version),
                directory / "home",
                workspace,
                connection,
                model.base_url,
                environment,
            )
        )
        client.wait()
        if not ended or ended[0].exit_code is None:
            told = model.requests[-1].body["input"][-1] if model.requests else "nothing"
            print(f"no exit code; the model was told {told}", file=sys.stderr)
            return NO_EXIT_CODE
    sys.stdout.write(ended[0].output)
    return ended[0].exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
