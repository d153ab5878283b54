"""The life of a process: output, exit, closing, ids, reaping (v1 process/start · terminate)."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.processes.process_state import ExitStatus
from exec_server.engine.processes.spawn import SpawnSpec
from exec_server.errors import InvalidArgument, InvalidRequest
from tests.support.process_harness import ENV, Bench, asynchronous, children, is_running, open_fds
from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from exec_server.engine.processes.process import Process


@asynchronous
async def test_a_silent_process_exits_and_closes() -> None:
    """Exit and closing take the numbers 1 and 2."""
    async with Bench() as bench:
        told = await bench.has_closed(bench.start("true"))
        assert (told.exit_seq, told.closed_seq) == (1, 2)
        assert told.status == ExitStatus(code=0, signal=None)
        assert told.chunks == []


@asynchronous
async def test_streams_are_told_apart() -> None:
    """Standard output and error arrive under their names, before the exit."""
    async with Bench() as bench:
        told = await bench.has_closed(bench.shell("echo out; echo err >&2; exit 7"))
        assert told.text("stdout") == b"out\n"
        assert told.text("stderr") == b"err\n"
        assert told.status == ExitStatus(code=7, signal=None)
        assert told.closed_seq == told.exit_seq + 1


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_exit_statuses(tty: bool) -> None:
    """A code or a signal, the same on pipes and terminals."""
    async with Bench() as bench:
        scripts = {
            "exit 0": ExitStatus(0, None),
            "exit 255": ExitStatus(255, None),
            "kill -TERM $$": ExitStatus(None, signal.SIGTERM),
            "kill -KILL $$": ExitStatus(None, signal.SIGKILL),
        }
        processes = {script: bench.shell(script, tty=tty) for script in scripts}
        for script, process in processes.items():
            assert (await bench.has_closed(process)).status == scripts[script]


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_output_precedes_the_exit(tty: bool) -> None:
    """Output written before the exit is reported before the exit."""
    async with Bench() as bench:
        for _ in range(100):
            told = await bench.has_closed(bench.start("echo done", tty=tty))
            assert told.text() == (b"done\r\n" if tty else b"done\n")
            assert told.after_exit == b""


@asynchronous
async def test_nothing_is_told_before_the_starter_is_back_on_the_loop() -> None:
    """A starter has time to say that the start succeeded."""
    async with Bench() as bench:
        processes = [bench.start("echo x") for _ in range(30)]
        assert [bench.told(process).last_seq for process in processes] == [0] * 30
        for process in processes:
            assert (await bench.has_closed(process)).last_seq == 3


@asynchronous
async def test_a_process_carries_what_its_starter_gave() -> None:
    """Id, context and kind can be read off the process."""
    async with Bench() as bench:
        context = object()
        spec = SpawnSpec(argv=["cat"], cwd="/", env=ENV, pipe_stdin=True)
        process = bench.table.start("ein Prozeß", spec, context=context)
        assert bench.table.get("ein Prozeß") is process
        assert list(bench.table) == [process]
        assert len(bench.table) == 1
        assert (process.id, process.context) == ("ein Prozeß", context)
        assert (process.tty, process.pipe_stdin, process.exited) == (False, True, False)
        assert bench.table.get("another") is None


@asynchronous
async def test_an_id_is_taken_while_running_and_while_retained() -> None:
    """Only after its retention can an id be used again; closed starts the time."""
    async with Bench(retention_seconds=0.05) as bench:
        first = bench.start("cat", process_id="id", pipe_stdin=True)
        with pytest.raises(InvalidRequest, match=r"^process id already exists$"):
            bench.start("true", process_id="id")
        first.terminate()
        await bench.has_closed(first)
        with pytest.raises(InvalidRequest, match=r"^process id already exists$"):
            bench.start("true", process_id="id")
        assert await eventually(lambda: bench.table.get("id") is None)
        second = bench.start("true", process_id="id")
        await bench.has_closed(second)
        assert bench.table.get("id") is second


@asynchronous
async def test_retention_starts_at_closing() -> None:
    """An exited process whose output is still open is not forgotten, whatever the time."""
    async with Bench(retention_seconds=0) as bench:
        gate = bench.gate()
        process = bench.shell(f"(read x <{gate}; echo late) & exit 0", process_id="id")
        await bench.has_exited(process)
        await bench.turns()
        assert bench.table.get("id") is process
        gate.open()
        assert (await bench.has_closed(process)).text() == b"late\n"
        assert await eventually(lambda: bench.table.get("id") is None)


@asynchronous
async def test_an_empty_argv_is_refused_before_a_taken_id() -> None:
    """The argument is looked at first (v1, process/start)."""
    async with Bench() as bench:
        bench.start("true", process_id="id")
        with pytest.raises(InvalidArgument, match="argv must not be empty"):
            bench.start([], process_id="id")


@asynchronous
async def test_a_failed_start_leaves_the_id_free() -> None:
    """No entry, no descriptor, no child."""
    async with Bench() as bench:
        before = open_fds()
        for tty in (False, True):
            with pytest.raises(FileNotFoundError):
                bench.start("/does/not/exist", process_id="id", tty=tty, pipe_stdin=True)
        assert len(bench.table) == 0
        assert open_fds() == before
        await bench.has_closed(bench.start("true", process_id="id"))


@asynchronous
async def test_much_output_arrives_whole() -> None:
    """Twenty megabytes, nothing lost or doubled, and the newest mebibyte can be read again."""
    async with Bench() as bench:
        process = bench.shell("seq 1 2600000")
        digest = hashlib.sha256()
        for number in range(1, 2_600_001):
            digest.update(b"%d\n" % number)
        told = await bench.has_closed(process)
        text = told.text()
        assert hashlib.sha256(text).digest() == digest.digest()
        retained = b"".join(chunk.data for chunk in process.read().chunks)
        assert text.endswith(retained)
        assert 1_048_576 - 65_536 < len(retained) <= 1_048_576


@asynchronous
async def test_a_descendant_that_holds_the_pipe_keeps_the_process_open() -> None:
    """Its output is told after the exit; terminate has nothing to kill any more."""
    async with Bench() as bench:
        gate = bench.gate()
        process = bench.shell(f"echo early; (read x <{gate}; echo late) & exit 3")
        assert await bench.has_exited(process) == ExitStatus(3, None)
        assert not process.terminate()
        process.signal(signal.SIGKILL)
        await bench.turns()
        assert not process.closed
        gate.open()
        told = await bench.has_closed(process)
        assert told.text() == b"early\nlate\n"
        assert told.after_exit == b"late\n"
        assert told.chunks[-1].seq > told.exit_seq


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_terminate_kills_the_whole_group_at_once(tty: bool) -> None:
    """No trap runs, children of the child die too, and closed follows."""
    async with Bench() as bench:
        process = bench.shell(
            "trap 'echo trapped' TERM INT HUP; sleep 1000 & echo child $!.; while :; do wait; done",
            tty=tty,
        )
        await bench.has_output(process, b".")
        child = int(bench.told(process).text().split()[1].rstrip(b"."))
        assert process.terminate()
        assert not process.terminate()
        told = await bench.has_closed(process)
        assert told.status == ExitStatus(None, signal.SIGKILL)
        assert b"trapped" not in told.text()
        assert not process.terminate()
        assert await eventually(lambda: not is_running(child))


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_after_terminate_closed_does_not_wait_for_a_holder_of_the_output(tty: bool) -> None:
    """A descendant in a session of its own survives, but is no longer listened to."""
    async with Bench() as bench:
        process = bench.shell("setsid sleep 1000 & echo $!.; wait", tty=tty)
        await bench.has_output(process, b".")
        assert await eventually(lambda: _sleeps(process) is not None)
        holder = _sleeps(process)
        assert holder is not None
        try:
            assert process.terminate()
            await bench.has_closed(process)
            assert is_running(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


def _sleeps(process: Process[object]) -> int | None:
    """The child of a process that has left its session, once it has."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as listing:
        for pid in map(int, listing.read().split()):
            with open(f"/proc/{pid}/comm") as name:
                if os.getsid(pid) != process.pid and name.read() == "sleep\n":
                    return pid
    return None


@asynchronous
async def test_output_written_before_terminate_is_told() -> None:
    """Killing loses nothing that was in the pipe."""
    async with Bench() as bench:
        process = bench.shell("head -c 60000 /dev/zero; kill -STOP $$")
        assert await eventually(lambda: _state(process) == "T")
        process.terminate()
        assert len((await bench.has_closed(process)).text()) == 60000


def _state(process: Process[object]) -> str:
    with open(f"/proc/{process.pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


@asynchronous
async def test_signals_reach_the_whole_group() -> None:
    """As a terminal's would; to a process that has ended, nothing happens."""
    async with Bench() as bench:
        process = bench.shell(
            "trap 'echo outer; exit 4' INT;"
            "sh -c 'trap \"echo inner; exit\" INT; echo ready; while :; do sleep 0.01; done'"
        )
        await bench.has_output(process, b"ready")
        process.signal(signal.SIGINT)
        told = await bench.has_closed(process)
        assert told.text() == b"ready\ninner\nouter\n"
        assert told.status == ExitStatus(4, None)
        process.signal(signal.SIGINT)


@asynchronous
async def test_a_flood_does_not_starve_others() -> None:
    """A short process runs through while another writes without end."""
    async with Bench() as bench:
        flood = bench.start("yes")
        await bench.has_output(flood, b"y")
        for _ in range(20):
            assert (await bench.has_closed(bench.start("echo hi"))).text() == b"hi\n"
        flood.terminate()
        await bench.has_closed(flood)


@asynchronous
async def test_a_thousand_processes_leave_nothing() -> None:
    """No descriptor and no zombie, already while the table lives."""
    async with Bench(retention_seconds=0) as bench:
        fds, pids = open_fds(), children()
        for round_number in range(50):
            processes = [
                bench.start("true", tty=index % 5 == 0, pipe_stdin=index % 3 == 0)
                for index in range(20)
            ]
            for process in processes:
                await bench.has_closed(process)
            assert children() == pids, round_number
        assert open_fds() == fds
        assert await eventually(lambda: len(bench.table) == 0)


@asynchronous
async def test_children_of_others_are_left_alone() -> None:
    """Other code in this process can wait for its own children."""
    async with Bench() as bench:
        with subprocess.Popen(["sh", "-c", "exit 9"]) as other:  # noqa: ASYNC220
            for _ in range(20):
                await bench.has_closed(bench.start("true"))
            assert other.wait(timeout=PATIENCE) == 9


@asynchronous
async def test_an_exit_that_other_code_waited_for_is_still_reported() -> None:
    """Its code is lost, but the process ends."""
    async with Bench() as bench:
        process = bench.shell("exit 5")
        os.waitpid(process.pid, 0)  # noqa: ASYNC222
        assert (await bench.has_closed(process)).status == ExitStatus(-1, None)


@pytest.mark.parametrize("tty", [False, True])
@asynchronous
async def test_without_descriptors_a_start_fails_and_leaves_nothing(tty: bool) -> None:
    """The error names the limit at every step, and the id stays free."""
    async with Bench() as bench:
        before = open_fds()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(fd.split()[0]) for fd in before)
        failures = 0
        try:
            for limit in range(1, highest + 20):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    process = bench.start("true", process_id="id", tty=tty, pipe_stdin=True)
                except OSError as error:
                    if error.errno != errno.EMFILE:
                        raise
                    failures += 1
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    assert open_fds() == before
                    assert len(bench.table) == 0
                else:
                    break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert failures >= 2
        assert (await bench.has_closed(process)).status == ExitStatus(0, None)


@asynchronous
async def test_without_processes_a_start_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's refusal to fork passes through."""
    async with Bench() as bench:

        def refuse(*_: object, **__: object) -> int:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_spawn", refuse)
            for tty in (False, True):
                with pytest.raises(BlockingIOError):
                    bench.start("/bin/true", process_id="id", tty=tty, pipe_stdin=True)
        assert len(bench.table) == 0
        await bench.has_closed(bench.start("true", process_id="id"))


@asynchronous
async def test_a_child_that_cannot_be_watched_does_not_survive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither without a pidfd nor when the loop's selector is full."""
    async with Bench() as bench:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for target, name in ((os, "pidfd_open"), (bench.loop, "add_reader")):
            with monkeypatch.context() as patch:
                patch.setattr(target, name, refuse)
                for tty in (False, True):
                    with pytest.raises(OSError, match="No space left"):
                        bench.start("sleep 1000", process_id="id", tty=tty, pipe_stdin=True)
        assert len(bench.table) == 0
        await bench.has_closed(bench.start("true", process_id="id"))


@pytest.mark.parametrize("moment", ["output", "exited", "closed"])
@pytest.mark.parametrize("action", ["terminate", "kill_all", "pause"])
@asynchronous
async def test_a_listener_may_act_on_what_it_hears(moment: str, action: str) -> None:
    """Ending everything, or pausing, from within an event keeps every rule."""
    async with Bench() as bench:

        def act(process: Process[object], event: str) -> None:
            if event == moment:
                if action == "terminate":
                    process.terminate()
                elif action == "kill_all":
                    bench.table.kill_all()
                else:
                    bench.table.pause_reading()
                    bench.loop.call_soon(bench.table.resume_reading)

        bench.on_event = act
        processes = [bench.shell("echo 1; echo 2 >&2; echo 3") for _ in range(5)]
        for process in processes:
            told = await bench.has_closed(process)
            if action == "pause":
                assert told.text("stdout") == b"1\n3\n"
                assert told.text("stderr") == b"2\n"
