"""Running the suite's command against a server with one fault, on sessions made for the test."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import RUN_SECONDS

PROGRAM = str(Path(sys.executable).with_name("exec-server-conformance"))
WRONG_SERVER = Path(__file__).with_name("wrong_server.py")

SESSION: list[dict[str, Any]] = [
    {"session": "v1/test/one", "description": "one process", "transports": ["stdio"]},
    {
        "call": "process/start",
        "params": {"processId": "p", "argv": ["x"], "cwd": "/", "env": {}, "tty": False},
        "expect": {"result": {"processId": "p"}},
    },
    {"process": "p", "expect": {"output": {"stdout": "hi"}, "exitCode": 0}},
    {"call": "process/terminate", "params": {}, "expect": {"error": {"code": -32602}}},
]


def written(directory: Path, lines: list[dict[str, Any]] | None = None) -> Path:
    """A folder with one session."""
    lines = lines or SESSION
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = directory / f"{lines[0]['session']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return directory


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=RUN_SECONDS
    )


def against(fault: str, *revisions: str) -> str:
    return shlex.join([sys.executable, str(WRONG_SERVER), fault, *revisions])


def marked(mark: str) -> list[str]:
    """The command lines of the processes, but this one, with a variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if int(path.name) == os.getpid():
            continue
        try:
            if mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
