"""Sandboxed commands: access to files and the network, system calls, signals and terminals."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.processes.process_state import ExitStatus
from exec_server.engine.sandbox import bubblewrap
from exec_server.engine.sandbox.policy import MINIMAL_PATHS, Rule, SandboxPolicy
from exec_server.errors import InvalidArgument, InvalidRequest, OperationFailed
from tests.support.process_harness import (
    asynchronous,
    children,
    is_running,
    open_fds,
    within_bounds,
)
from tests.support.sandbox_harness import (
    READ_ALL,
    SandboxBench,
    denied,
    readable,
    writable,
)
from tests.support.sandboxes import needs_sandbox
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exec_server.engine.sandbox.policy import Access

pytestmark = needs_sandbox

PROBE = """
import errno, socket
pair = socket.socketpair()
try:
    {call}
except OSError as error:
    print(errno.errorcode[error.errno])
else:
    print("done")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a few files."""
    for name in ("root/file", "root/sub/file", "root/sub/deep/file", "outside/file"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


# Files


@asynchronous
async def test_only_the_writable_directory_can_be_written(tree: Path) -> None:
    async with SandboxBench(writable(tree / "root")) as bench:
        said, code = await bench.finish(
            f"echo new > {tree}/root/new; echo x > {tree}/outside/new; cat {tree}/outside/file"
        )
    assert (tree / "root/new").read_text() == "new\n"
    assert not (tree / "outside/new").exists()
    assert (said.count("Read-only file system"), "outside/file" in said, code) == (1, True, 0)


@asynchronous
async def test_the_rule_of_the_longest_path_applies(tree: Path) -> None:
    root = tree / "root"
    rules = writable(root), readable(root / "sub"), writable(root / "sub/deep")
    async with SandboxBench(*rules) as bench:
        await bench.finish("touch new sub/new sub/deep/new", cwd=str(root))
    found = {name: (root / name).exists() for name in ("new", "sub/new", "sub/deep/new")}
    assert found == {"new": True, "sub/new": False, "sub/deep/new": True}


@asynchronous
async def test_denied_paths_cannot_be_read_listed_or_replaced(tree: Path) -> None:
    root = tree / "root"
    async with SandboxBench(writable(root), denied(root / "file"), denied(root / "sub")) as bench:
        for command in ("cat file", "ls sub", "cat sub/file", "touch sub/new"):
            said, code = await bench.finish(command, cwd=str(root))
            assert "Permission denied" in said, command
            assert code, command
        for command in ("rm -f file", "mv sub other", "echo x > file"):
            _, code = await bench.finish(command, cwd=str(root))
            assert code, command
    assert (root / "file").read_text() == "root/file"
    assert (root / "sub/file").read_text() == "root/sub/file"


@asynchronous
async def test_a_path_below_a_denied_directory_can_be_allowed(tree: Path) -> None:
    root = tree / "root"
    rules = denied(root / "sub"), readable(root / "sub/deep")
    async with SandboxBench(writable(root), *rules) as bench:
        said, _ = await bench.finish("cat sub/deep/file; cat sub/file; ls sub", cwd=str(root))
    assert said.startswith("root/sub/deep/file")
    assert "root/sub/file\n" not in said
    assert "cannot open directory" in said


@asynchronous
async def test_paths_without_a_rule_are_hidden(tree: Path) -> None:
    policy = SandboxPolicy(
        (*(Rule(path, "read") for path in MINIMAL_PATHS), writable(tree / "root"))
    )
    async with SandboxBench() as bench:
        said, _ = await bench.finish(
            f"cat {tree}/outside/file; ls {tree}; touch {tree}/new; touch new && ls new",
            policy=policy,
            cwd=str(tree / "root"),
        )
    assert "outside/file: No such file or directory" in said
    assert said.splitlines()[1:2] == ["root"]
    assert "Read-only file system" in said
    assert said.splitlines()[-1] == "new"


@asynchronous
async def test_patterns_deny_their_matches(tree: Path) -> None:
    root = tree / "root"
    policy = SandboxPolicy((READ_ALL, writable(root)), (f"{root}/**/file",), scan_depth=2)
    async with SandboxBench() as bench:
        said, _ = await bench.finish(
            "for f in file sub/file sub/deep/file; do cat $f 2>/dev/null && echo; done",
            policy=policy,
            cwd=str(root),
        )
    assert said == "root/sub/deep/file\n"


@pytest.mark.parametrize("name", [".git", ".agents", ".codex", ".aws"])
@asynchronous
async def test_protected_names_are_read_only(tree: Path, name: str) -> None:
    """Existing or not; a missing one is still missing afterwards."""
    root = tree / "root"
    script = f"touch {name}/new; mkdir {name}; mv {name} other; rm -rf {name}; ls -d {name}"
    async with SandboxBench(writable(root)) as bench:
        said, _ = await bench.finish(script, cwd=str(root))
        assert said.splitlines()[-1] == name
        assert not (root / name).exists()
        (root / name).mkdir()
        (root / name / "config").write_text("kept")
        await bench.finish(script, cwd=str(root))
    assert (root / name / "config").read_text() == "kept"
    assert os.listdir(root / name) == ["config"]


@asynchronous
async def test_a_rule_for_a_protected_name_overrides_the_protection(tree: Path) -> None:
    root = tree / "root"
    (root / ".git").mkdir()
    async with SandboxBench(writable(root), writable(root / ".git")) as bench:
        await bench.finish("touch .git/new", cwd=str(root))
    assert (root / ".git/new").exists()


@asynchronous
async def test_the_repository_of_a_worktree_is_protected(tree: Path) -> None:
    root, repository = tree / "root", tree / "outside/repository"
    repository.mkdir()
    (root / ".git").write_text(f"gitdir: {repository}\n")
    async with SandboxBench(writable(root), writable(tree / "outside")) as bench:
        await bench.finish(f"echo x > .git; touch {repository}/new", cwd=str(root))
    assert (root / ".git").read_text() == f"gitdir: {repository}\n"
    assert os.listdir(repository) == []


@asynchronous
async def test_directories_above_a_rule_cannot_be_moved(tree: Path) -> None:
    """The file would otherwise be accessible in the next sandbox."""
    root = tree / "root"
    async with SandboxBench(writable(root), denied(root / "sub/deep/file")) as bench:
        _, code = await bench.finish("mv sub elsewhere", cwd=str(root))
        assert code
        _, code = await bench.finish("mv sub/deep sub/elsewhere", cwd=str(root))
        assert code
    assert (root / "sub/deep/file").exists()


@asynchronous
async def test_missing_paths_cannot_be_created_unless_they_are_skipped(tree: Path) -> None:
    root = tree / "root"
    rules = denied(root / "a"), readable(root / "b/c"), Rule(str(root / "d"), "deny", True)
    async with SandboxBench(writable(root), *rules) as bench:
        await bench.finish("mkdir a; mkdir -p b/c; echo x > d; chmod 777 a b", cwd=str(root))
    assert sorted(os.listdir(root)) == ["d", "file", "sub"]


@asynchronous
async def test_concurrent_commands_share_placeholders(tree: Path) -> None:
    root = tree / "root"
    async with SandboxBench(writable(root)) as bench:
        gate = bench.gate()
        waiting = bench.sandboxed(f"echo ready; read x <{gate}; mkdir .git", cwd=str(root))
        await bench.has_output(waiting, b"ready")
        await bench.finish("true", cwd=str(root))
        assert (root / ".git").is_dir()
        gate.open()
        assert b"File exists" in (await bench.has_closed(waiting)).text()
    assert not (root / ".git").exists()


@asynchronous
async def test_a_writable_root_keeps_other_restrictions(tree: Path) -> None:
    policy = SandboxPolicy((Rule("/", "write"), denied(tree / "root/sub")))
    async with SandboxBench() as bench:
        said, _ = await bench.finish(
            f"touch {tree}/root/.git {tree}/new; cat {tree}/root/sub/file; test -w /dev/full && "
            "echo x >/dev/null && echo devices",
            policy=policy,
        )
    assert (tree / "root/.git").exists()
    assert (tree / "new").exists()
    assert "Permission denied" in said
    assert said.splitlines()[-1] == "devices"


# The network


@pytest.mark.parametrize(
    ("call", "without", "with_network"),
    [
        ("socket.socket(socket.AF_INET)", "EPERM", "done"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "EPERM", "done"),
        ("socket.socket(socket.AF_VSOCK)", "EPERM", "EPERM"),
        ("socket.socket(socket.AF_UNIX).connect('{path}')", "EPERM", "done"),
        ("pair[0].sendmsg([b'x'])", "done", "done"),
        ("pair[0].send(b'x')", "EPERM", "done"),
    ],
)
@asynchronous
async def test_the_network_is_available_only_if_allowed(
    tree: Path, call: str, without: str, with_network: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        listener.listen()
        probe = ["python3", "-c", PROBE.format(call=call.format(path=tree / "socket"))]
        async with SandboxBench() as bench:
            assert await bench.finish(probe) == (f"{without}\n", 0)
            policy = SandboxPolicy((READ_ALL,), allows_network=True)
            assert await bench.finish(probe, policy=policy) == (f"{with_network}\n", 0)


# Isolation from the host


@asynchronous
async def test_a_command_has_no_capabilities_and_sees_no_other_process() -> None:
    async with SandboxBench() as bench:
        said, _ = await bench.finish(
            "grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapEff):' /proc/self/status; ls -d /proc/[0-9]*"
        )
    rights, processes = (
        dict(line.split(":\t") for line in said.splitlines() if ":" in line),
        [line for line in said.splitlines() if line.startswith("/proc/")],
    )
    assert rights == {
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "CapBnd": "0" * 16,
        "CapEff": "0" * 16,
    }
    assert len(processes) < 6


@asynchronous
async def test_a_command_gets_only_the_requested_descriptors_and_variables() -> None:
    async with SandboxBench() as bench:
        said, _ = await bench.finish(
            "ls /proc/self/fd; env | sort", env={"PATH": "/bin:/usr/bin", "A=B": "c"}, cwd="/usr"
        )
    assert said.split() == ["0", "1", "2", "3", "A=B=c", "PATH=/bin:/usr/bin", "PWD=/usr"]


WRITABLE_IN_PROC = """
import os
for directory, names, files in os.walk("/proc"):
    if directory == "/proc":
        names[:] = [name for name in names if not name.isdecimal() and name != "pressure"]
    for path in (os.path.join(directory, name) for name in files):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
        except OSError:
            continue
        print(path)
print("searched")
"""
"""Lists writable files, except those of processes and the triggers of pressure."""


@pytest.mark.parametrize("place", ["read", "write"])
@asynchronous
async def test_kernel_settings_are_read_only(place: Access) -> None:
    """Also for root, for whom the kernel requires no capability."""
    policy = SandboxPolicy((Rule("/", place),))
    async with SandboxBench() as bench:
        said = await bench.finish(["python3", "-c", WRITABLE_IN_PROC], policy=policy)
    assert said == ("searched\n", 0)


@asynchronous
async def test_no_datagram_or_descriptor_is_sent_without_network(tree: Path) -> None:
    """Neither from a new socket nor from one of a pair, which can be given an address, too."""
    probe = """
import os, socket, struct, sys
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))]
alone = lambda kind: socket.socket(socket.AF_UNIX, kind)
paired = lambda kind: socket.socketpair(type=kind)[0]
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    for make in (alone, paired):
        try:
            make(kind).sendmsg([b"leak"], rights, 0, sys.argv[1])
        except OSError as error:
            print(error.errno)
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as outside:
        outside.bind(str(tree / "socket"))
        async with SandboxBench() as bench:
            said = await bench.finish(["python3", "-c", probe, str(tree / "socket")])
        assert said == ("1\n" * 4, 0)
        with pytest.raises(BlockingIOError):
            outside.recv(100)


@asynchronous
async def test_no_keyring_is_shared_without_network() -> None:
    """Keyrings are inherited, so their contents could be read outside."""
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    probe = f"import ctypes; print(ctypes.CDLL(None).syscall({number}, 0, -3, 1))"
    async with SandboxBench() as bench:
        assert await bench.finish(["python3", "-c", probe]) == ("-1\n", 0)


@pytest.mark.parametrize("allows_network", [True, False])
@asynchronous
async def test_user_namespaces_give_no_capabilities(allows_network: bool) -> None:
    policy = SandboxPolicy((READ_ALL,), allows_network=allows_network)
    async with SandboxBench() as bench:
        said, code = await bench.finish("unshare --user true", policy=policy)
    assert (code, "unshare failed" in said) == (1, True)


# Processes


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
@asynchronous
async def test_the_exit_code_is_reported(script: str, code: int) -> None:
    async with SandboxBench() as bench:
        assert (await bench.finish(script))[1] == code


@asynchronous
async def test_a_command_that_cannot_be_executed_reports_an_error(tree: Path) -> None:
    root = tree / "root"
    hidden = SandboxPolicy(tuple(Rule(path, "read") for path in MINIMAL_PATHS))
    async with SandboxBench() as bench:
        said = "sandbox: cannot run nonesuch: No such file or directory (os error 2)\n"
        assert await bench.finish(["nonesuch"]) == (said, 101)
        said = f"sandbox: cannot enter {root}: No such file or directory (os error 2)\n"
        assert await bench.finish("pwd", policy=hidden, cwd=str(root)) == (said, 101)
        said = f"sandbox: cannot enter {root}: Permission denied (os error 13)\n"
        policy = SandboxPolicy((READ_ALL, denied(root)))
        assert await bench.finish("pwd", policy=policy, cwd=str(root)) == (said, 101)


@asynchronous
async def test_invalid_specs_are_refused_as_without_a_sandbox() -> None:
    async with SandboxBench() as bench:
        with pytest.raises(InvalidArgument, match="argv"):
            bench.sandboxed([])
        with pytest.raises(OperationFailed, match="missing program"):
            bench.sandboxed([""])
        with pytest.raises(OperationFailed, match="nul byte"):
            bench.sandboxed(["a\0b"])
        with pytest.raises(FileNotFoundError):
            bench.sandboxed("true", cwd="/nonexistent")


@asynchronous
async def test_arg0_is_passed_to_the_command() -> None:
    async with SandboxBench() as bench:
        assert await bench.finish(["sh", "-c", "echo $0"], arg0="other") == ("other\n", 0)


@asynchronous
async def test_a_command_receives_input() -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed("read line; echo got $line", pipe_stdin=True)
        assert await process.write(b"it\n") == "accepted"
        assert (await bench.has_closed(process)).text() == b"got it\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@asynchronous
async def test_a_command_receives_signals_sent_during_setup(signum: signal.Signals) -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed(["sleep", "1000"])
        process.signal(signum)
        await bench.has_closed(process)
        assert process.status == ExitStatus(128 + signum, None)


@asynchronous
async def test_a_command_can_trap_signals() -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed("trap 'echo trapped; exit 7' INT; echo ready; sleep 1000 & wait")
        await bench.has_output(process, b"ready")
        process.signal(signal.SIGINT)
        told = await bench.has_closed(process)
        assert (told.text(), process.status) == (b"ready\ntrapped\n", ExitStatus(7, None))


@asynchronous
async def test_no_process_or_placeholder_remains_of_a_command(tree: Path) -> None:
    """Including descendants in other process groups and sessions."""
    root = tree / "root"
    script = "setsid sleep 1000 & sleep 1000 & echo ready; read line"
    async with SandboxBench(writable(root)) as bench:
        for way in ("ends", "killed"):
            process = bench.sandboxed(script, pipe_stdin=True, cwd=str(root))
            await bench.has_output(process, b"ready")
            descendants = _descendants(process.pid)
            assert len(descendants) >= 4
            if way == "killed":
                process.terminate()
            else:
                await process.write(b"\n")
            await bench.has_closed(process)
            assert await eventually(lambda pids=descendants: not any(map(is_running, pids)))  # type: ignore[misc]
            assert not (root / ".git").exists()


def _descendants(pid: int) -> set[int]:
    try:
        children = set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return set()
    return children.union(*map(_descendants, children))


# Terminals


@asynchronous
async def test_the_terminal_is_the_controlling_terminal() -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed(
            "echo typed >/dev/tty; stty size; echo $SHELL", tty=True, rows=7, cols=9
        )
        lines = (await bench.has_closed(process)).text().split()
    assert lines[:3] == [b"typed", b"7", b"9"]
    assert len(lines) == 4


@asynchronous
async def test_control_c_interrupts_only_the_command() -> None:
    script = "trap 'echo trapped' INT; echo ready; while ! read line; do :; done; echo got $line"
    async with SandboxBench() as bench:
        process = bench.sandboxed(script, tty=True)
        await bench.has_output(process, b"ready")
        await process.write(b"\x03")
        await bench.has_output(process, b"trapped")
        await process.write(b"it\n")
        assert (await bench.has_closed(process)).text().endswith(b"got it\r\n")


@asynchronous
async def test_control_c_is_not_lost_during_setup() -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed(["sleep", "1000"], tty=True)
        await within_bounds(process.write(b"\x03"))
        await bench.has_closed(process)
        assert process.status == ExitStatus(130, None)


@asynchronous
async def test_shells_control_jobs_on_a_terminal() -> None:
    async with SandboxBench() as bench:
        process = bench.sandboxed(
            ["bash", "--norc", "-i"], tty=True, env={"PS1": "$ ", "PATH": "/bin"}
        )
        # The job prints when it is in the foreground. Before that, the shell would handle Ctrl-C
        # itself, and discard the input after it.
        await process.write(b"sh -c 'echo sta\"\"rted; exec sleep 1000'\n")
        await bench.has_output(process, b"started")
        await process.write(b"\x03")
        await process.write(b"echo $?' is the code'; exit 5\n")
        await bench.has_output(process, b"130 is the code")
        await bench.has_closed(process)
        assert process.status == ExitStatus(5, None)


# Hosts without sandboxes


@pytest.fixture
def without_probe_result(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Discard the result of the probe of bubblewrap, before and after the test."""
    bubblewrap._probe.cache_clear()
    yield
    monkeypatch.undo()
    bubblewrap._probe.cache_clear()


@pytest.mark.usefixtures("without_probe_result")
def test_a_missing_bubblewrap_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not bubblewrap.is_available()
    with pytest.raises(InvalidRequest, match=r"bubblewrap \(bwrap\) is not installed"):
        bubblewrap.require()


@pytest.mark.usefixtures("without_probe_result")
def test_a_failing_bubblewrap_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: no namespaces' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = open_fds(), children()
    with pytest.raises(InvalidRequest, match="does not work: bwrap: no namespaces"):
        bubblewrap.require()
    assert (open_fds(), children()) == before
