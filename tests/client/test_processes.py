"""Processes: running, starting, their events, output, input and end."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from typing import TYPE_CHECKING

import pytest

from exec_server.client import (
    Closed,
    CommandFailed,
    CommandTimedOut,
    Exited,
    Gap,
    InputRefused,
    Output,
    Unsupported,
)
from tests.support.waiting import PATIENCE, eventually, is_gone

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.targets import Target

PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
"""What revision v0, which inherits nothing, needs to find programs."""


async def test_run(target: Target) -> None:
    """A command's streams and exit code come back."""
    async with target.connect() as client:
        done = await client.run(["sh", "-c", "echo out; echo err >&2; exit 7"], env=PATH)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert done.text == "out\n"
    assert not done.truncated


async def test_checked_run(target: Target) -> None:
    """A checked command that fails raises, with what it wrote."""
    async with target.connect() as client:
        assert (await client.run(["true"], env=PATH, check=True)).returncode == 0
        with pytest.raises(CommandFailed, match="exited with 3") as failed:
            await client.run(["sh", "-c", "echo sorry >&2; exit 3"], env=PATH, check=True)
    assert (failed.value.returncode, failed.value.stderr) == (3, b"sorry\n")


async def test_run_timeout(target: Target, tmp_path: Path) -> None:
    """A command that takes too long is killed, and its output so far is told."""
    async with target.connect() as client:
        script = f"echo $$ >{tmp_path}/pid; echo began; exec sleep 600"
        with pytest.raises(CommandTimedOut, match=r"after 0\.5 seconds; it was killed") as late:
            await client.run(["sh", "-c", script], env=PATH, timeout=0.5)
        assert late.value.stdout == b"began\n"
        assert await eventually(lambda: is_gone(int((tmp_path / "pid").read_text())))


@pytest.mark.revisions("v1", "v2")
async def test_run_input(target: Target) -> None:
    """A command reads its input to the end, whatever its size."""
    data = bytes(range(256)) * 4096
    async with target.connect() as client:
        done = await client.run(["sha256sum"], input=data)
        assert done.text.split()[0] == hashlib.sha256(data).hexdigest()
        assert (await client.run(["cat"], input=b"")).stdout == b""
        assert (await client.run(["wc", "-c"], input=b"x")).text.strip() == "1"


@pytest.mark.revisions("v1", "v2")
async def test_unwanted_input(target: Target) -> None:
    """A command may end without reading its input."""
    async with target.connect() as client:
        done = await client.run(["sh", "-c", "exit 4"], input=bytes(3_000_000))
    assert done.returncode == 4


@pytest.mark.revisions("v0")
async def test_input_is_unsupported(target: Target) -> None:
    """Revision v0 has no pipe to write to, and says so."""
    async with target.connect() as client:
        with pytest.raises(Unsupported, match="revision v0 has no messages for a piped standard"):
            await client.run(["cat"], input=b"x", env=PATH)


async def test_limited_output(target: Target) -> None:
    """Only so much of the output is kept as the caller wants, and the rest is told of."""
    async with target.connect() as client:
        done = await client.run(
            ["sh", "-c", "head -c 3000000 /dev/zero; echo e >&2"], env=PATH, limit=1000
        )
    assert (done.stdout, done.stderr, done.truncated) == (bytes(1000), b"e\n", True)


async def test_directory_and_environment(target: Target, tmp_path: Path) -> None:
    """A command runs where, and with which variables, it is told to."""
    odd = tmp_path / "a b#%ü"
    odd.mkdir()
    async with target.connect() as client:
        done = await client.run(
            ["sh", "-c", 'pwd; echo "$GREETING"'], cwd=odd, env={**PATH, "GREETING": "grüß"}
        )
    assert done.text == f"{odd}\ngrüß\n"


@pytest.mark.revisions("v1", "v2")
async def test_inherited_environment(target: Target) -> None:
    """Variables of the server are inherited, all, a few or none."""
    async with target.connect() as client:
        everything = (await client.run(["env"])).text
        few = (await client.run(["env"], inherit="core")).text
        none = (await client.run(["/usr/bin/env"], inherit="none", env={"A": "b"})).text
    assert "PATH=" in everything
    assert "PATH=" in few
    assert set(few.splitlines()) <= set(everything.splitlines())
    assert none == "A=b\n"


@pytest.mark.revisions("v0")
async def test_inheriting_is_unsupported(target: Target) -> None:
    """Revision v0 inherits nothing, and says so when asked to."""
    async with target.connect() as client:
        assert (await client.run(["/usr/bin/env"])).text == ""
        with pytest.raises(Unsupported, match="inheriting variables"):
            await client.run(["/usr/bin/env"], inherit="all")


async def test_what_cannot_be_started(target: Target, tmp_path: Path) -> None:
    """A start that fails raises what starting it here would raise."""
    program = tmp_path / "plain"
    program.write_text("no program")
    async with target.connect() as client:
        with pytest.raises(FileNotFoundError):
            await client.start(["/nowhere/program"], env=PATH)
        with pytest.raises(FileNotFoundError):
            await client.start(["true"], env=PATH, cwd="/nowhere")
        with pytest.raises(PermissionError):
            await client.start([str(program)], env=PATH)


@pytest.mark.revisions("v1", "v2")
async def test_what_cannot_be_started_on_a_terminal(target: Target, tmp_path: Path) -> None:
    """Servers say it in words of their own."""
    program = tmp_path / "plain"
    program.write_text("no program")
    async with target.connect() as client:
        for name in ("no-such-program", "/nowhere/program"):
            with pytest.raises(FileNotFoundError):
                await client.start([name], tty=True)
        for name in (str(program), str(tmp_path)):
            with pytest.raises(PermissionError):
                await client.start([name], tty=True)


async def test_events(target: Target) -> None:
    """Events come in the order of their numbers, from 1, each once, the close at the end."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "for i in 1 2 3 4 5; do echo $i; echo $i >&2; done; exit 5"], env=PATH
        )
        events = [event async for event in process]
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert isinstance(events[-1], Closed)
        assert [event.code for event in events if isinstance(event, Exited)] == [5]
        for stream in ("stdout", "stderr"):
            output = [e.data for e in events if isinstance(e, Output) and e.stream == stream]
            assert b"".join(output) == b"1\n2\n3\n4\n5\n"
        assert process.returncode == 5


async def test_reading_the_streams(target: Target) -> None:
    """Standard output and error can be read as bytes and by lines, each at its own pace."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "printf 'one\\ntwo\\nrest'; printf 'abcdef' >&2"], env=PATH
        )
        assert await process.stderr.readexactly(4) == b"abcd"
        assert await process.stdout.readline() == b"one\n"
        assert [line async for line in process.stdout] == [b"two\n", b"rest"]
        assert await process.stdout.read() == b""
        assert await process.stderr.read() == b"ef"
        with pytest.raises(EOFError):
            await process.stderr.readexactly(1)
        with pytest.raises(RuntimeError, match="being read through stdout"):
            aiter(process)


async def test_lines_without_end(target: Target) -> None:
    """A line longer than the caller bears is an error that loses nothing."""
    async with target.connect() as client:
        process = await client.start(["sh", "-c", "printf %05000d 7; echo"], env=PATH)
        with pytest.raises(ValueError, match=r"no .* bytes"):
            await process.stdout.readline(limit=1000)
        assert len(await process.stdout.readline()) == 5001


async def test_terminal(target: Target) -> None:
    """A process with a terminal echoes, and takes control characters and the end of input."""
    async with target.connect() as client:
        process = await client.start(["sh", "-c", "tty; cat; echo over"], env=PATH, tty=True)
        assert (await process.stdout.readline()).startswith(b"/dev/pts/")
        await process.write(b"hello\n")
        assert await process.stdout.readline() == b"hello\r\n"
        assert await process.stdout.readline() == b"hello\r\n"
        await process.close_stdin()
        assert (await process.stdout.readline()).endswith(b"over\r\n")
        assert await process.wait() == 0
        assert await process.stderr.read() == b""


async def test_interrupting_a_terminal(target: Target) -> None:
    """SIGINT reaches a process with a terminal in every revision."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"],
            env=PATH,
            tty=True,
        )
        assert await process.stdout.readline() == b"ready\r\n"
        await process.signal(signal.SIGINT)
        assert b"caught\r\n" in await process.stdout.read()
        assert await process.wait() == 9


@pytest.mark.revisions("v2")
async def test_interrupting_a_pipe(target: Target) -> None:
    """SIGINT reaches a process without a terminal."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"]
        )
        assert await process.stdout.readline() == b"ready\n"
        await process.signal(signal.SIGINT)
        assert await process.stdout.read() == b"caught\n"
        assert await process.wait() == 9


@pytest.mark.released
async def test_what_a_revision_cannot(target: Target) -> None:
    """What the revision has no message for is an error that says so, and the process goes on."""
    async with target.connect() as client:
        process = await client.start(["sleep", "600"], env=PATH)
        if target.revision != "v2":
            with pytest.raises(Unsupported, match=f"revision {target.revision} has no messages"):
                await process.signal(signal.SIGINT)
        with pytest.raises(Unsupported, match="SIGUSR1"):
            await process.signal(signal.SIGUSR1)
        with pytest.raises(Unsupported, match="resizing a terminal"):
            await process.resize(10, 20)
        with pytest.raises(Unsupported, match="the size of a terminal"):
            await client.start(["true"], env=PATH, tty=True, size=(10, 20))
        with pytest.raises(Unsupported, match="closing standard input"):
            await process.close_stdin()
        with pytest.raises(Unsupported, match="listing processes"):
            await client.processes()
        with pytest.raises(Unsupported, match="excerpts of the output"):
            await process.excerpts()
        with pytest.raises(Unsupported, match="asking a process to end"):
            await process.terminate(graceful=1)
        with pytest.raises(Unsupported, match="cannot close standard input"):
            await process.communicate(b"x")
        assert process.returncode is None
        assert await process.terminate()


@pytest.mark.revisions("draft")
async def test_sizes_of_terminals(target: Target) -> None:
    """A terminal has the size it is started with, and the one it is given later."""
    async with target.connect() as client:
        script = (
            "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
        )
        process = await client.start(["sh", "-c", script], tty=True, size=(10, 20))
        assert await process.stdout.readline() == b"10 20\r\n"
        assert await process.stdout.readline() == b"ready\r\n"
        await process.resize(33, 44)
        assert await process.stdout.readline() == b"33 44\r\n"
        assert await process.wait() == 0


@pytest.mark.revisions("draft")
async def test_listing_processes(target: Target) -> None:
    """What the session has, in the order of the starts, with the ends."""
    async with target.connect() as client:
        assert await client.processes() == []
        await client.run(["sh", "-c", "exit 3"])
        async with await client.start(["cat"], tty=True, process_id="second"):
            ended, running = await client.processes()
    assert (ended.argv, ended.tty) == (["sh", "-c", "exit 3"], False)
    assert (ended.exit_code, ended.closed) == (3, True)
    assert (running.id, running.argv, running.tty) == ("second", ["cat"], True)
    assert (running.exit_code, running.closed) == (None, False)
    assert running.pid > 0


@pytest.mark.revisions("draft")
async def test_excerpts_of_the_output(target: Target) -> None:
    """Beginning and end of each stream, with the gap counted, while events go on."""
    async with target.connect() as client:
        script = "echo first >&2; seq 400000; echo last; exit 2"
        process = await client.start(["sh", "-c", script], buffer_bytes=None)
        assert await process.wait_closed() == 2
        found = await process.excerpts()
        whole = await process.stdout.read()
        assert (found.stderr.head, found.stderr.omitted, found.stderr.tail) == (b"first\n", 0, b"")
        assert found.stdout.omitted > 0
        assert found.stdout.head.startswith(b"1\n2\n")
        assert found.stdout.tail.endswith(b"400000\nlast\n")
        size = len(found.stdout.head) + found.stdout.omitted + len(found.stdout.tail)
        assert size == len(whole)
        assert (found.exit_code, found.closed) == (2, True)
        assert (await process.read(found.next_seq - 1)).outputs == []

        async with await client.start(["sh", "-c", "echo shown; cat"], tty=True) as shown:
            assert await shown.stdout.readline() == b"shown\r\n"
            found = await shown.excerpts()
        assert (found.stdout.head, found.stderr.head) == (b"shown\r\n", b"")
        assert (found.exit_code, found.closed) == (None, False)


@pytest.mark.revisions("draft")
async def test_closing_input(target: Target) -> None:
    """A pipe can be closed behind what was written, and then takes nothing more."""
    async with target.connect() as client:
        process = await client.start(["sha256sum"], stdin=True)
        data = bytes(1_000_000)
        await process.write(data)
        await process.close_stdin()
        assert (await process.stdout.read()).split()[0].decode() == hashlib.sha256(data).hexdigest()
        other = await client.start(["cat"], stdin=True)
        assert await other.communicate(b"said") == (b"said", b"")
        with pytest.raises(InputRefused):
            await other.write(b"more")
        with pytest.raises(FileNotFoundError):
            await client.run(["/nowhere/program"], input=b"x")


@pytest.mark.revisions("draft")
async def test_gentle_end(target: Target) -> None:
    """A process is asked to end, and killed if it does not."""
    async with target.connect() as client:
        willing = await client.start(
            ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"]
        )
        stubborn = await client.start(
            ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
        )
        for process in (willing, stubborn):
            assert await process.stdout.readline() == b"ready\n"
        assert await willing.terminate(graceful=20)
        assert await willing.wait() == 5
        assert await willing.stdout.read() == b"bye\n"
        assert await stubborn.terminate(graceful=0.3)
        assert await stubborn.wait() != 0


@pytest.mark.revisions("v1", "v2")
async def test_piped_input(target: Target) -> None:
    """Writes to a pipe arrive in order; concurrent ones do not mix."""
    async with target.connect() as client:
        process = await client.start(["cat"], stdin=True)
        pieces = [bytes([65 + n]) * 300_000 for n in range(4)]
        await asyncio.gather(*map(process.write, pieces))
        arrived = await process.stdout.readexactly(1_200_000)
        assert sorted(
            arrived[start : start + 300_000] for start in range(0, 1_200_000, 300_000)
        ) == (pieces)
        await process.terminate()


async def test_refused_input(target: Target) -> None:
    """Writing to a process that takes no input is a broken pipe."""
    async with target.connect() as client:
        process = await client.start(["sleep", "600"], env=PATH)
        with pytest.raises(InputRefused) as refused:
            await process.write(b"x")
        assert isinstance(refused.value, BrokenPipeError)
        await process.terminate()


async def test_terminate(target: Target) -> None:
    """Terminating kills the whole group, and tells whether there was something to kill."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait"], env=PATH
        )
        child = int(await process.stdout.readline())
        assert await process.terminate() is True
        assert await process.wait() != 0
        assert await process.stdout.read() == b""
        assert await eventually(lambda: is_gone(child))
        assert await process.terminate() is False


async def test_kill_signal(target: Target) -> None:
    """SIGKILL works in every revision."""
    async with target.connect() as client:
        process = await client.start(["sleep", "600"], env=PATH)
        await process.signal(signal.SIGKILL)
        assert await process.wait() != 0


async def test_waiting(target: Target) -> None:
    """Waiting needs no reading; the exit comes before the end of a descendant's output."""
    async with target.connect() as client:
        process = await client.start(["sh", "-c", "(sleep 0.4; echo late) & exit 6"], env=PATH)
        with pytest.raises(TimeoutError):
            await (await client.start(["sleep", "600"], env=PATH)).wait(timeout=0.1)
        assert await process.wait() == 6
        if target.revision != "v0":
            assert await process.wait_closed() == 6
            assert await process.stdout.read() == b"late\n"


async def test_context_manager(target: Target) -> None:
    """A process that still runs at the end of its block is killed."""
    async with target.connect() as client:
        async with await client.start(["sleep", "600"], env=PATH) as process:
            assert process.returncode is None
        assert await process.wait() != 0


async def test_cancelled_run(target: Target, tmp_path: Path) -> None:
    """Cancelling a run kills its command."""
    async with target.connect() as client:
        script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"
        running = asyncio.create_task(client.run(["sh", "-c", script], env=PATH))
        assert await eventually((tmp_path / "pid").exists)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await eventually(lambda: is_gone(int((tmp_path / "pid").read_text())))


async def test_cancelled_start(target: Target, tmp_path: Path) -> None:
    """Cancelling a start leaves no process, whether the server had started it or not."""
    async with target.connect() as client:
        for number in range(5):
            script = f"echo $$ >{tmp_path}/{number}; exec sleep 600"
            starting = asyncio.create_task(client.start(["sh", "-c", script], env=PATH))
            for _ in range(number):
                await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        await client.run(["true"], env=PATH)

        def none_runs() -> bool:
            pids = [file.read_text().strip() for file in tmp_path.iterdir()]
            return all(is_gone(int(pid)) for pid in pids if pid)

        assert await eventually(none_runs)


@pytest.mark.revisions("v1", "v2")
async def test_reading_again(target: Target) -> None:
    """Retained output can be read by number, at once or when there is some."""
    async with target.connect() as client:
        process = await client.start(
            ["sh", "-c", "echo one; read line; echo two; exit 3"], stdin=True
        )
        first = await process.read(wait=10)
        assert [output.data for output in first.outputs] == [b"one\n"]
        nothing = await process.read(first.next_seq - 1)
        assert (nothing.outputs, nothing.exit_code, nothing.closed) == ([], None, False)
        waiting = asyncio.create_task(process.read(first.next_seq - 1, wait=10))
        # A wait in a server that serves one request at a time must not keep this back.
        await process.write(b"\n")
        assert [output.data for output in (await waiting).outputs] == [b"two\n"]
        assert await process.wait_closed() == 3
        everything = await process.read()
        assert b"".join(output.data for output in everything.outputs) == b"one\ntwo\n"
        assert (everything.exit_code, everything.closed) == (3, True)
        assert not [event async for event in process if isinstance(event, Gap)]


@pytest.mark.revisions("v0")
async def test_nothing_to_read_again(target: Target) -> None:
    """Revision v0 retains nothing, and says so."""
    async with target.connect() as client:
        process = await client.start(["true"], env=PATH)
        with pytest.raises(Unsupported, match="reading output again"):
            await process.read()


async def test_communicate(target: Target) -> None:
    """All of the output of a started process at once."""
    async with target.connect() as client:
        process = await client.start(["sh", "-c", "echo out; echo err >&2"], env=PATH)
        assert await process.communicate() == (b"out\n", b"err\n")
        terminal = await client.start(["cat"], env=PATH, tty=True)
        shown, _ = await terminal.communicate(b"hi\n", timeout=PATIENCE)
        assert shown.startswith(b"hi\r\n")
        unfinished = await client.run(
            ["cat"], env=PATH, tty=True, input=b"no newline", timeout=PATIENCE
        )
        assert unfinished.stdout.startswith(b"no newline")


async def test_many_processes(target: Target) -> None:
    """A hundred processes at once, each with its own output."""
    async with target.connect() as client:
        done = await asyncio.gather(
            *(client.run(["sh", "-c", f"echo {n}; exit {n}"], env=PATH) for n in range(100))
        )
    assert [(one.returncode, one.text) for one in done] == [(n, f"{n}\n") for n in range(100)]


async def test_large_output(target: Target) -> None:
    """Megabytes arrive whole and in order."""
    async with target.connect() as client:
        done = await client.run(["sh", "-c", "seq 1 600000"], env=PATH)
    assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 600_001))
