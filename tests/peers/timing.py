"""Latency of a short command for a model, through our server and through codex's own.

Command line::

    python -m tests.peers.timing [--runs N] [VERSION ...]

For each release and transport, N clients per server run the same command, by turns, on the same
machine; each runs it once before it counts. Two times are taken: *command*, from the model's call
until the model is told, and *client*, the whole run of ``codex exec``, which over stdio includes
the start of the server. Printed are the medians in milliseconds, and ours divided by codex's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from exec_server_conformance import codex_binaries

from .codex_client import Release, Transport
from .stage import CommandResult, Stage, run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .exec_server import Maker
    from .mock_model import Item, ModelRequest

DEFAULT_VERSIONS = ("0.139.0", "0.169.0")
MAKERS: tuple[Maker, ...] = ("ours", "codex")


def run(stage: Stage) -> tuple[float, float]:
    """Run a client; return the seconds of the command and of the client."""
    marks: list[float] = []

    def begin(_: ModelRequest) -> Sequence[Item]:
        marks.append(time.perf_counter())
        return [run_command("run", "echo hello")]

    def end(request: ModelRequest) -> Sequence[Item]:
        marks.append(time.perf_counter())
        assert CommandResult.of(request, "run").output == "hello\n"
        return [run_command("after", "true")]

    began = time.perf_counter()
    stage.play([run_command("before", "true")], begin, end)
    return marks[1] - marks[0], time.perf_counter() - began


def compare(release: Release, transport: Transport, runs: int) -> str:
    """Return a line for people."""
    times: dict[Maker, list[tuple[float, float]]] = {maker: [] for maker in MAKERS}
    with ExitStack() as exits:
        stages = {
            maker: exits.enter_context(Stage(release, transport, maker, watched=False))
            for maker in MAKERS
        }
        for _ in range(runs):
            for maker, stage in stages.items():
                times[maker].append(run(stage))
    columns = [f"codex {release} over {transport:5}"]
    for index, name in enumerate(("command", "client")):
        ours, codex = (
            statistics.median(pair[index] for pair in times[maker]) * 1000 for maker in MAKERS
        )
        columns.append(f"{name}: ours {ours:6.1f} ms, codex {codex:6.1f} ms, {ours / codex:.2f}x")
    return "   ".join(columns)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time real clients on our server and on codex's.")
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument("versions", nargs="*", default=DEFAULT_VERSIONS, metavar="VERSION")
    options = parser.parse_args()
    for version in options.versions:
        codex_binaries.fetch(version)
        release = Release(version)
        for transport in release.transports:
            print(compare(release, transport, options.runs), flush=True)


if __name__ == "__main__":
    main()
