"""Sandboxes that are set up while another program replaces files."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from fcntl import F_SETLEASE, F_UNLCK, F_WRLCK, fcntl
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import peer
from tests.support.sandboxes import READ_ALL, entry, glob, needs_sandbox, plain, run, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_sandbox

DATA = base64.b64encode(b"data").decode()

REPLACING = """
import ctypes, sys
exchange = ctypes.CDLL(None).renameat2
first, second = (path.encode() for path in sys.argv[1:])
print("ready", flush=True)
while True:
    exchange(-100, first, -100, second, 2)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a subdirectory for rules, and a link to outside of it."""
    root = tmp_path / "root"
    (root / "sub/keep").mkdir(parents=True)
    (root / "sub/secret").write_text("SECRET")
    (tmp_path / "outside/keep").mkdir(parents=True)
    (root / "link").symlink_to("../outside")
    return root


@contextmanager
def client() -> Iterator[peer.Client]:
    with peer.stdio("--protocol", "v2") as client:
        client.initialize()
        yield client


def start(client: peer.Client, name: str, *argv: str, **sandbox: Any) -> None:
    client.start(name, *argv, **sandbox)
    client.wait(lambda: any(e["method"] == "process/output" for e in client.events(name)))


@contextmanager
def fake_bubblewrap(
    directory: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> Iterator[None]:
    """Install a wrapper of bubblewrap that first changes ``options`` or files."""
    program = directory / "bin/bwrap"
    program.parent.mkdir()
    real = shutil.which("bwrap")
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, sys\n"
        f"if sys.argv[1] != '--args': os.execv({real!r}, sys.argv)\n"
        "number = int(sys.argv[2])\n"
        "options = open(number, closefd=False).read().split('\\0')\n"
        f"{script}\n"
        "os.ftruncate(number, 0)\n"
        "os.pwrite(number, '\\0'.join(options).encode(), 0)\n"
        "os.lseek(number, 0, 0)\n"
        f"os.execv({real!r}, sys.argv)\n"
    )
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        yield


def ended(client: peer.Client, name: str) -> tuple[str, int]:
    """Return the output of a process, and its exit code."""
    events = client.closed(name)
    chunks = (e["params"]["chunk"] for e in events if e["method"] == "process/output")
    (exited,) = (e["params"] for e in events if e["method"] == "process/exited")
    return b"".join(map(base64.b64decode, chunks)).decode(), exited["exitCode"]


@pytest.mark.parametrize(
    "rule",
    [
        lambda root: entry(plain(root / "sub/keep"), "read"),
        lambda root: entry(plain(root / "sub/keep"), "read", missing_path_behavior="skip"),
        lambda root: entry(plain(root / "sub/secret"), "deny"),
        lambda root: entry(glob(f"{root}/**/secret"), "deny"),
    ],
)
def test_a_directory_replaced_by_a_link_gives_no_access(root: Path, rule: Any) -> None:
    """Neither to files outside nor to denied files, in many attempts."""
    free = sandbox(READ_ALL, entry(plain(root), "write"))
    ruled = sandbox(READ_ALL, entry(plain(root), "write"), rule(root))
    script = "cat sub/secret link/secret; echo x > sub/by-process; echo x > link/by-process"
    outside = root.parent / "outside"
    with client() as one:
        exchanging = ("python3", "-c", REPLACING, str(root / "sub"), str(root / "link"))
        start(one, "exchanging", *exchanging, cwd=root.as_uri(), sandbox=free)
        for count in range(40):
            params = peer.start_params(
                f"p{count}", "sh", "-c", script, cwd="file:///", sandbox=ruled
            )
            params["argv"][2] = f"cd {root}; {script}"
            if "result" in one.answer(one.request("process/start", params)):
                said, _ = ended(one, f"p{count}")
                assert rule(root)["access"] != "deny" or "SECRET" not in said
            for name in ("sub/by-call", "link/by-call"):
                target = {"path": (root / name).as_uri(), "sandbox": ruled}
                one.answer(one.request("fs/writeFile", {**target, "dataBase64": DATA}))
            reading = {"path": (root / "sub/secret").as_uri(), "sandbox": ruled}
            read = one.answer(one.request("fs/readFile", reading))
            assert rule(root)["access"] != "deny" or "result" not in read
        assert sorted(os.listdir(outside)) == ["keep"]
        assert os.listdir(outside / "keep") == []


FOOLED = {
    "not mounted": "place = options.index({path}); del options[place - 2:place + 1]",
    "writable": "options[options.index({path}) - 2] = '--bind-fd'",
    "another": "place = options.index({path}); options[place - 2:place] = '--ro-bind', '/usr'",
    "elsewhere": "options[options.index({path})] = {other}",
}


@pytest.mark.parametrize("way", FOOLED)
def test_a_mount_that_differs_from_the_plan_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path, other = str(root / "sub"), str(root / "other")
    (root / "other").mkdir()
    change = FOOLED[way].format(path=repr(path), other=repr(other))
    script = f"if {path!r} in options: {change}"
    ruled = sandbox(READ_ALL, entry(plain(root), "write"), entry(plain(root / "sub"), "read"))
    with fake_bubblewrap(root.parent, monkeypatch, script), client() as one:
        said, exited = run(one, "echo x > sub/new", ruled, root)
        assert (said, exited["exitCode"]) == (
            f"sandbox: {path} was replaced while the sandbox was being set up; try again\n",
            101,
        )
        target = {"path": (root / "sub/new").as_uri(), "dataBase64": DATA, "sandbox": ruled}
        assert "was replaced" in one.error("fs/writeFile", target)["message"]
    assert not (root / "sub/new").exists()


@pytest.mark.parametrize("denied", ["sub", "sub/secret"])
def test_a_missing_denying_mount_is_detected(
    root: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    path = str(root / denied)
    script = (
        f"if {path!r} in options:\n"
        f"  place = options.index({path!r})\n"
        "  del options[options.index('--perms', place - 5):place + 1]\n"
        f"  if {path!r} in options:\n"
        f"    place = options.index({path!r}); del options[place - 1:place + 1]\n"
    )
    ruled = sandbox(READ_ALL, entry(plain(root / denied), "deny"))
    with fake_bubblewrap(root.parent, monkeypatch, script), client() as one:
        said, exited = run(one, "cat sub/secret", ruled, root)
        assert (f"{path} was replaced" in said, exited["exitCode"]) == (True, 101)
        target = {"path": (root / "sub/secret").as_uri(), "sandbox": ruled}
        assert "was replaced" in one.error("fs/readFile", target)["message"]


def test_bubblewrap_creates_nothing_outside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would create a missing mount point, even through a link into the old root."""
    victim, created = root / "victim", root.parent / "outside/created"
    victim.touch()
    script = (
        f"if {str(victim)!r} in options and not os.path.islink({str(victim)!r}):\n"
        f"  os.unlink({str(victim)!r}); os.symlink('/oldroot{created}', {str(victim)!r})"
    )
    free = sandbox(READ_ALL, entry(plain(root), "write"))
    ruled = sandbox(READ_ALL, entry(plain(root), "write"), entry(plain(victim), "deny"))
    with fake_bubblewrap(root.parent, monkeypatch, script), client() as one:
        start(one, "other", "sh", "-c", "echo; cat", cwd="file:///", pipeStdin=True, sandbox=free)
        one.call("process/start", peer.start_params("p", "true", cwd=root.as_uri(), sandbox=ruled))
        assert ended(one, "p")[1] != 0
    assert victim.is_symlink()
    assert not created.exists()


def test_mount_points_in_a_directory_writable_for_others(root: Path) -> None:
    """Such a view also has links and placeholders."""
    free = sandbox(READ_ALL, entry(plain(root), "write"))
    ruled = sandbox(READ_ALL, entry(plain(root), "write"), entry(plain(root / "sub/keep"), "read"))
    with client() as one:
        start(one, "other", "sh", "-c", "echo; cat", cwd="file:///", pipeStdin=True, sandbox=free)
        said, exited = run(
            one,
            "echo x > new && echo x > sub/new && echo x > sub/keep/new; echo x > ../new;"
            "ls /proc | grep -c '^[0-9]'; echo x > /dev/null; exit 7",
            ruled,
            root,
        )
        assert exited["exitCode"] == 7
        assert said.count("Read-only file system") == 2
        data = {"dataBase64": DATA, "sandbox": ruled}
        one.call("fs/writeFile", {"path": (root / "by-call").as_uri(), **data})
    assert {"new", "by-call"} <= set(os.listdir(root))
    assert os.listdir(root / "sub/keep") == []


@pytest.mark.parametrize("form", ["rule", "pattern"])
def test_a_rule_that_crosses_a_planted_link_is_refused(root: Path, form: str) -> None:
    """The rule would apply to the link's target instead of the original file."""
    free = sandbox(READ_ALL, entry(plain(root), "write"))
    path = root / "sub/secret"
    denied = entry(plain(path) if form == "rule" else glob(f"{root}/sub/*"), "deny")
    with client() as one:
        assert run(one, "cat sub/secret", sandbox(READ_ALL, denied), root)[0].startswith("cat:")
        run(one, "mv sub moved; ln -s moved sub", free, root)
        params = peer.start_params("p", "true", cwd="file:///", sandbox=sandbox(READ_ALL, denied))
        error = one.error("process/start", params)
        assert (error["code"], f"symbolic link {root}/sub" in error["message"]) == (-32600, True)
        target = {"path": path.as_uri(), "sandbox": sandbox(READ_ALL, denied)}
        assert one.error("fs/readFile", target)["code"] == -32600


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold a lease, so that a blocking open of the file waits."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl(descriptor, F_SETLEASE, F_WRLCK)
        yield
        fcntl(descriptor, F_SETLEASE, F_UNLCK)
    finally:
        os.close(descriptor)
        signal.signal(signal.SIGIO, before)


def test_a_repository_file_that_blocks_delays_no_request(root: Path) -> None:
    (root / ".git").write_text("gitdir: nowhere\n")
    ruled = sandbox(READ_ALL, entry(plain(root), "write"))
    target = {"path": (root / "new").as_uri(), "sandbox": ruled}
    with client() as one, lease(root / ".git"):
        assert one.call("fs/getMetadata", {**target, "path": root.as_uri()})["isDirectory"] is True
        start_params = peer.start_params("p", "true", cwd="file:///", sandbox=ruled)
        for method, params in (
            ("process/start", start_params),
            ("fs/writeFile", {**target, "dataBase64": DATA}),
        ):
            error = one.error(method, params)
            assert (error["code"], "lease" in error["message"]) == (-32600, True), error
