"""Real clients keep the contract, as far as the suite can make them show it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .codex_client import Release, Transport

_HERE = Path(__file__).parent
_CASE_SECONDS = 70
"""Time limit of a case: clients try 45 seconds to resume a session."""

_SECONDS = 280
"""Time limit of all cases."""


def test_a_real_client_keeps_the_contract(fetched: Release, transport: Transport) -> None:
    """Every case of its revision passes, but for what it does to output for its model."""
    place = "{url}" if transport == "ws" else "'{command}'"
    program = shlex.join([sys.executable, "-m", "tests.peers.as_client", str(fetched)])
    done = subprocess.run(
        [
            Path(sys.executable).with_name("exec-server-conformance"),
            "client",
            *("--cmd", f"{program} {place}", "--input-cmd", f"{program} {place} -i"),
            *("--revision", "v2" if fetched.speaks_v2 else "v1"),
            *("--level", "contract"),
            *("--known-deviations", _HERE / "client-deviations.toml"),
            *("--timeout", str(_CASE_SECONDS), "--jobs", "4"),
        ],
        cwd=_HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed, 3 known deviations, " in done.stdout
