"""A recording proxy between a client and a server, and the servers that it is tried on."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exec_server_conformance import codex_binaries
from tests.support.checkout import ROOT
from tests.support.suite_runs import PROGRAM
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = str(Path(PROGRAM).with_name("codex-exec-server"))

_PEERS = ROOT / codex_binaries.DEFAULT_DIRECTORY


def command(server: str) -> str:
    """The command of a server: ``ours`` with a revision, or ``codex`` with a release."""
    name, _, version = server.partition(" ")
    if name == "ours":
        return f"{OURS} --protocol {version}"
    try:
        return " ".join(codex_binaries.command(version, _PEERS))
    except codex_binaries.BinaryMissing as error:
        pytest.skip(f"nothing proven on codex: {error}")


def arguments(server: str, out: Path, *more: str) -> list[str]:
    """The command line of a proxy in front of a server's command."""
    what = [PROGRAM, "record", "--proxy", "--cmd", server, "--out", str(out)]
    return [*what, "--source", "the test", *more]


@contextmanager
def proxy(
    server: str, out: Path, *more: str, ends: signal.Signals = signal.SIGINT
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A proxy that listens, by its URL; at the end a signal ends it, unless something has."""
    with subprocess.Popen(
        arguments(server, out, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("ws://"), process.communicate(timeout=PATIENCE)
            yield url, process
            if process.poll() is None:
                process.send_signal(ends)
            process.wait(PATIENCE)
        finally:
            process.kill()


def sessions(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of what was recorded, by the name of the session."""
    found = {}
    for path in sorted(out.rglob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[lines[0]["session"]] = lines
        assert path == out / f"{lines[0]['session']}.jsonl"
    return found
