"""Text of the operating system as UTF-8, whatever the locale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exec_server.engine.native_text import decode, encode

LATIN_1_SERVER = """
import asyncio, os, sys
from exec_server.engine.native_text import environment
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.engine.processes.table import ProcessTable

class Events:
    def __init__(self):
        self.output = b""
        self.closed = asyncio.Event()
    def on_output(self, process, chunk):
        self.output += chunk.data
    def on_exited(self, process, seq, status):
        pass
    def on_closed(self, process, seq):
        self.closed.set()

async def main():
    assert sys.getfilesystemencoding() == "iso8859-1"
    events = Events()
    table = ProcessTable(events, loop=asyncio.get_running_loop())
    table.start("p", SpawnSpec(
        argv=["pr\\u00f6gram", "\\u00e4\\u20ac\\udcff"], cwd=sys.argv[1] + "/d\\u00efr",
        env={"PATH": sys.argv[1], "NAME": "\\u00f6", "INHERITED": environment()["INHERITED"]},
    ), context=None)
    await events.closed.wait()
    await table.aclose()
    sys.stdout.buffer.write(events.output)

asyncio.run(main())
"""

PROGRAM = """#!/bin/sh
/usr/bin/printf '%s\\n' "$1" "$INHERITED" "$PWD"
/usr/bin/env
"""


@pytest.fixture(scope="module")
def latin_1_locale(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that choose a Latin-1 locale."""
    localedef = shutil.which("localedef")
    if localedef is None or not Path("/usr/share/i18n/locales/en_US").exists():
        pytest.skip("needs localedef and the source of the locale en_US")
    directory = tmp_path_factory.mktemp("locales")
    command = [localedef, "-i", "en_US", "-f", "ISO-8859-1", f"{directory}/en_US.ISO-8859-1"]
    subprocess.run(command, check=True, timeout=60)
    return {"LOCPATH": str(directory), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"}


def test_a_byte_that_is_not_utf8_is_a_lone_surrogate() -> None:
    """Any bytes survive a round trip."""
    native = bytes(range(256))
    assert encode(decode(native)) == native
    with pytest.raises(UnicodeEncodeError):
        encode("\ud800")


def test_a_latin_1_locale_changes_no_argument(
    tmp_path: Path, latin_1_locale: dict[str, str]
) -> None:
    """Program, arguments, working directory and variables arrive as UTF-8."""
    (tmp_path / "dïr").mkdir()
    program = tmp_path / "prögram"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", LATIN_1_SERVER, str(tmp_path)],
        env={**os.environ, **latin_1_locale, "INHERITED": "ß€"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    argument, inherited, cwd, *variables = result.stdout.split(b"\n")
    assert argument == "ä€".encode() + b"\xff"
    assert inherited == "ß€".encode()
    assert cwd == os.fsencode(tmp_path / "dïr")
    assert "NAME=ö".encode() in variables
