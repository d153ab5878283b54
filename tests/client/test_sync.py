"""The client for programs without an event loop."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import exec_server.client as asynchronous
from exec_server.client import (
    Closed,
    CommandFailed,
    CommandTimedOut,
    ConnectFailed,
    Exited,
    Output,
    sync,
)
from exec_server.client import filesystem as async_filesystem
from exec_server_codegen import client_files
from tests.support.targets import OURS, PROGRAM, Target, listening
from tests.support.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["stdio", "ws", "in-process"])
def client(request: pytest.FixtureRequest) -> Iterator[sync.Client]:
    """A client, over each transport."""
    if request.param == "ws":
        target: Target = next(target for target in OURS if target.transport == "ws")
        with listening(target) as url, sync.connect(url) as client:
            yield client
    elif request.param == "stdio":
        with sync.connect_stdio([PROGRAM]) as client:
            yield client
    else:
        with sync.connect("in-process:") as client:
            yield client


def test_it_is_up_to_date() -> None:
    """The synchronous client, and the page about both, are what the asynchronous one says."""
    for path, text in client_files.render().items():
        assert path.read_text() == text


def test_signatures() -> None:
    """Each public method takes what its asynchronous counterpart takes."""
    for name in ("run", "start", "attach"):
        counterpart = inspect.signature(getattr(asynchronous.Client, name))
        assert inspect.signature(getattr(sync.Client, name)).parameters == counterpart.parameters
    public = {name for name in vars(async_filesystem.FileSystem) if not name.startswith("_")}
    assert public == {name for name in vars(sync.FileSystem) if not name.startswith("_")}


def test_running(client: sync.Client) -> None:
    """Commands, their failures and their input."""
    done = client.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert client.run(["cat"], input=b"x" * 100_000).stdout == b"x" * 100_000
    with pytest.raises(CommandFailed):
        client.run(["false"], check=True)
    with pytest.raises(CommandTimedOut):
        client.run(["sleep", "600"], timeout=0.2)
    with pytest.raises(FileNotFoundError):
        client.run(["/nowhere/program"])


def test_processes(client: sync.Client) -> None:
    """Events, readers, input and the end of a process."""
    process = client.start(["sh", "-c", "echo one; exit 3"])
    assert process.argv == ["sh", "-c", "echo one; exit 3"]
    events = list(process)
    assert [type(event) for event in events] == [Output, Exited, Closed]
    assert process.returncode == process.wait() == 3
    with client.start(["cat"], tty=True) as terminal:
        terminal.write(b"hello\n")
        assert terminal.stdout.readline() == b"hello\r\n"
        assert next(terminal.stdout) == b"hello\r\n"
        terminal.close_stdin()
        assert terminal.wait(timeout=PATIENCE) == 0
        assert list(terminal.stderr) == []
    with client.start(["sleep", "600"]) as sleeper:
        assert "sleep" in repr(sleeper)
    assert sleeper.wait() != 0


def test_files(client: sync.Client, tmp_path: Path) -> None:
    """Files whole and piece by piece, and a tree."""
    client.fs.write_text(tmp_path / "file", "text")
    assert client.fs.read_text(tmp_path / "file") == "text"
    with client.fs.open_write(tmp_path / "large") as file:
        for _ in range(3):
            file.write(bytes(1_000_000))
    with client.fs.open_read(tmp_path / "large") as reader:
        assert sum(map(len, reader)) == 3_000_000
    assert list(client.fs.walk(tmp_path)) == [(str(tmp_path), [], ["file", "large"])]
    assert client.fs.stat(tmp_path / "file").size == 4
    with pytest.raises(FileNotFoundError):
        client.fs.read_bytes(tmp_path / "none")


def test_threads(client: sync.Client) -> None:
    """Any number of threads share a client."""
    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(lambda n: client.run(["echo", f"{n}"]).text, range(64)))
    assert done == [f"{n}\n" for n in range(64)]


def test_closing() -> None:
    """A closed client says so, and leaves no thread behind."""
    before = threading.active_count()
    client = sync.connect_stdio([PROGRAM])
    assert client.revision == "draft"
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.run(["true"])
    with pytest.raises(ConnectFailed):
        sync.connect("ws://127.0.0.1:1")
    assert threading.active_count() == before


def test_interrupting(tmp_path: Path) -> None:
    """Ctrl-C ends a running command and leaves nothing behind."""
    command = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"
    script = (
        "from exec_server.client.sync import connect_stdio\n"
        f"with connect_stdio([{PROGRAM!r}]) as client:\n"
        "    try:\n"
        f"        client.run(['sh', '-c', {command!r}])\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', client.run(['echo', 'still here']).text)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    pid_file = tmp_path / "pid"
    assert wait_until(pid_file.exists)
    program.send_signal(signal.SIGINT)
    output, _ = program.communicate(timeout=PATIENCE)
    assert output == b"interrupted still here\n\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
