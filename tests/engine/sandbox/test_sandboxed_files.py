"""Confined file operations: the kernel's answers, and workers that come and go."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files.requests import (
    Canonicalize,
    Copy,
    CreateDirectory,
    GetMetadata,
    OpenForRead,
    OpenRegular,
    ReadDirectory,
    Remove,
    Walk,
    WriteFile,
)
from exec_server.engine.files.walk import WalkOptions
from exec_server.engine.sandbox import sandboxed_files
from exec_server.engine.sandbox.policy import MINIMAL_PATHS, Rule, SandboxPolicy
from exec_server.engine.sandbox.sandboxed_files import ConfinedFiles
from exec_server.errors import InvalidRequest, OperationFailed
from tests.support.process_harness import asynchronous, children, open_fds, within_bounds
from tests.support.sandbox_harness import READ_ALL, denied, needs_sandbox, writable
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from exec_server.engine.files.requests import Operation

pytestmark = needs_sandbox


@asynccontextmanager
async def confined() -> AsyncIterator[ConfinedFiles]:
    """Workers of which nothing is left afterwards."""
    before = open_fds(), children()
    files = ConfinedFiles()
    yield files
    await within_bounds(files.aclose())
    assert (open_fds(), children()) == before


async def contents(files: ConfinedFiles, policy: SandboxPolicy, path: bytes) -> bytes:
    descriptor = await files.run(policy, OpenForRead(path, regular_only=True))
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


async def failure(files: ConfinedFiles, policy: SandboxPolicy, operation: Operation[object]) -> int:
    """The errno that an operation gives."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the errno is what is compared
        await files.run(policy, operation)
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("inside")
    (root / "sub/secret").write_text("secret")
    (tmp_path / "outside").write_text("outside")
    return root


@asynchronous
async def test_every_operation_works_where_it_may(root: Path) -> None:
    path = os.fsencode(root)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with confined() as files:
        await files.run(policy, CreateDirectory(path + b"/a/b", recursive=True))
        await files.run(policy, WriteFile(path + b"/a/\xff", b"x" * 100_000))
        await files.run(policy, Copy(path + b"/a", path + b"/c", recursive=True))
        await files.run(policy, Remove(path + b"/a", recursive=True, force=False))
        assert (await files.run(policy, GetMetadata(path + b"/c/\xff"))).size == 100_000
        assert len(await contents(files, policy, path + b"/c/\xff")) == 1000
        names = {entry.file_name for entry in await files.run(policy, ReadDirectory(path))}
        assert names >= {"file", "sub", "c"}
        os.symlink(b"c/\xff", path + b"/link")
        assert await files.run(policy, Canonicalize(path + b"/link")) == path + b"/c/\xff"
        walked = await files.run(policy, Walk(path + b"/sub", WalkOptions(1, 9, 9, False)))
        assert [entry.path for entry in walked.entries] == [(root / "sub/secret").as_uri()]
        descriptor = await files.run(policy, OpenRegular(path + b"/new", "replace"))
        os.write(descriptor, b"streamed")
        os.close(descriptor)
    assert (root / "new").read_text() == "streamed"
    assert (root / "c").is_dir()
    assert not (root / "a").exists()


@asynchronous
async def test_the_kernel_says_no(root: Path) -> None:
    """Read-only, hidden and denied places give errors of their own, also beyond links."""
    outside = os.fsencode(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    shown = SandboxPolicy((READ_ALL, writable(root), denied(root / "sub")))
    hidden = SandboxPolicy((writable(root),))
    async with confined() as files:
        for path in (outside, os.fsencode(root / "link"), os.fsencode(root / ".git/config")):
            assert await failure(files, shown, WriteFile(path, b"x")) == errno.EROFS
        assert await contents(files, shown, os.fsencode(root / "link")) == b"outside"
        for operation in (
            OpenForRead(os.fsencode(root / "sub/secret"), regular_only=True),
            OpenRegular(os.fsencode(root / "sub/new"), "replace"),
            ReadDirectory(os.fsencode(root / "sub")),
            WriteFile(os.fsencode(root / "sub/new"), b"x"),
        ):
            assert await failure(files, shown, operation) == errno.EACCES
        assert (await files.run(shown, GetMetadata(os.fsencode(root / "sub")))).is_directory
        for path in (outside, os.fsencode(root / "link")):
            assert await failure(files, hidden, GetMetadata(path)) == errno.ENOENT
    assert (root.parent / "outside").read_text() == "outside"


@asynchronous
async def test_errors_of_the_engine_come_through(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL,))
    async with confined() as files:
        with pytest.raises(InvalidRequest, match="is not a file"):
            await files.run(policy, OpenForRead(os.fsencode(root), regular_only=True))
        with pytest.raises(InvalidRequest, match="greater than zero"):
            await files.run(policy, Walk(b"/", WalkOptions(1, 0, 1, False)))


@asynchronous
async def test_what_cannot_be_confined_is_refused(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL, Rule("/usr", "deny")))
    async with confined() as files:
        with pytest.raises(InvalidRequest, match="which this server needs"):
            await files.run(policy, GetMetadata(b"/"))


@asynchronous
async def test_programs_need_not_be_visible(root: Path) -> None:
    policy = SandboxPolicy((writable(root),))
    async with confined() as files:
        assert await contents(files, policy, os.fsencode(root / "file")) == b"inside"
        assert await failure(files, policy, GetMetadata(b"/usr/bin/env")) == errno.ENOENT
        minimal = SandboxPolicy(tuple(Rule(path, "read") for path in MINIMAL_PATHS))
        assert (await files.run(minimal, GetMetadata(b"/usr/bin/env"))).is_file


@asynchronous
async def test_one_worker_serves_as_long_as_nothing_changes(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with confined() as files:
        started = children()
        for _ in range(3):
            await files.run(policy, GetMetadata(os.fsencode(root)))
            assert len(children() - started) == 1


@asynchronous
async def test_what_has_changed_counts_at_once(root: Path) -> None:
    """A directory in the place of another, and new matches of a pattern."""
    policy = SandboxPolicy((READ_ALL, writable(root)), (f"{root}/**/secret",))
    async with confined() as files:
        path = os.fsencode(root / "secret")
        await files.run(policy, WriteFile(path, b"free for once"))
        opening = OpenForRead(path, regular_only=True)
        assert await failure(files, policy, opening) == errno.EACCES
        root.rename(root.parent / "moved")
        root.mkdir()
        await files.run(policy, WriteFile(os.fsencode(root / "new"), b"x"))
    assert (root / "new").read_text() == "x"


@asynchronous
async def test_an_idle_worker_ends_and_its_placeholders_go(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxed_files, "IDLE_SECONDS", 0.0)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with confined() as files:
        for _ in range(2):
            before = children()
            await files.run(policy, WriteFile(os.fsencode(root / "file"), b"x"))
            assert await eventually(lambda before=before: children() == before)  # type: ignore[misc]
            assert not (root / ".git").exists()


@asynchronous
async def test_no_more_workers_than_allowed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed_files, "MAX_WORKERS", 2)
    async with confined() as files:
        before = children()
        for name in "abc":
            (root / name).mkdir()
            policy = SandboxPolicy((READ_ALL, writable(root / name)))
            await files.run(policy, WriteFile(os.fsencode(root / name / "file"), b"x"))
        assert await eventually(lambda: len(children() - before) == 2)


@asynchronous
async def test_a_killed_worker_fails_what_it_does_and_nothing_else(root: Path) -> None:
    fifo = os.fsencode(root / "fifo")
    os.mkfifo(fifo)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with confined() as files:
        await files.run(policy, GetMetadata(fifo))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        # More than a pipe takes, so the worker waits for the reader.
        writing = asyncio.ensure_future(files.run(policy, WriteFile(fifo, bytes(1_000_000))))
        assert await eventually(lambda: bool(_readable(reader)))
        (worker,) = (each for each in files._workers.values() if each._waiting)
        os.killpg(worker._child.pid, signal.SIGKILL)
        with pytest.raises(OperationFailed, match="the worker for file operations failed"):
            await within_bounds(writing)
        os.close(reader)
        assert (await files.run(policy, GetMetadata(os.fsencode(root / "file")))).is_file


@asynchronous
async def test_one_that_is_given_up_does_not_answer_the_next(root: Path) -> None:
    fifo = os.fsencode(root / "fifo")
    os.mkfifo(fifo)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with confined() as files:
        await files.run(policy, GetMetadata(fifo))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        writing = asyncio.ensure_future(files.run(policy, WriteFile(fifo, bytes(1_000_000))))
        assert await eventually(lambda: bool(_readable(reader)))
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        os.close(reader)
        assert (await files.run(policy, GetMetadata(os.fsencode(root / "file")))).size == 6


def _readable(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1)
    except BlockingIOError:
        return b""
