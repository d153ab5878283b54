"""Sandboxed file operations: results, errors of the kernel, and the life cycle of workers."""

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
from exec_server.engine.sandbox.sandboxed_files import SandboxedFiles
from exec_server.errors import InvalidRequest, OperationFailed
from tests.support.process_harness import asynchronous, children, open_fds, within_bounds
from tests.support.sandbox_harness import READ_ALL, denied, writable
from tests.support.sandboxes import needs_sandbox
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from exec_server.engine.files.requests import Operation

pytestmark = needs_sandbox


@asynccontextmanager
async def sandboxed() -> AsyncIterator[SandboxedFiles]:
    """Yield workers, and check that no process or descriptor remains."""
    before = open_fds(), children()
    files = SandboxedFiles()
    yield files
    await within_bounds(files.aclose())
    assert (open_fds(), children()) == before


async def contents(files: SandboxedFiles, policy: SandboxPolicy, path: bytes) -> bytes:
    descriptor = await files.run(policy, OpenForRead(path, regular_only=True))
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


async def failure(
    files: SandboxedFiles, policy: SandboxPolicy, operation: Operation[object]
) -> int:
    """Return the errno of an operation that fails."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the errno is compared by the caller
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
async def test_all_operations_succeed_in_a_writable_directory(root: Path) -> None:
    path = os.fsencode(root)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with sandboxed() as files:
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
async def test_the_kernel_denies_access(root: Path) -> None:
    """Read-only, hidden and denied paths give different errors, also beyond links."""
    outside = os.fsencode(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    shown = SandboxPolicy((READ_ALL, writable(root), denied(root / "sub")))
    hidden = SandboxPolicy((writable(root),))
    async with sandboxed() as files:
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
async def test_errors_of_the_engine_are_passed_on(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL,))
    async with sandboxed() as files:
        with pytest.raises(InvalidRequest, match="is not a file"):
            await files.run(policy, OpenForRead(os.fsencode(root), regular_only=True))
        with pytest.raises(InvalidRequest, match="greater than zero"):
            await files.run(policy, Walk(b"/", WalkOptions(1, 0, 1, False)))


@asynchronous
async def test_a_policy_that_denies_the_worker_is_refused(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL, Rule("/usr", "deny")))
    async with sandboxed() as files:
        with pytest.raises(InvalidRequest, match="because this server needs it"):
            await files.run(policy, GetMetadata(b"/"))


@asynchronous
async def test_programs_may_be_hidden(root: Path) -> None:
    policy = SandboxPolicy((writable(root),))
    async with sandboxed() as files:
        assert await contents(files, policy, os.fsencode(root / "file")) == b"inside"
        assert await failure(files, policy, GetMetadata(b"/usr/bin/env")) == errno.ENOENT
        minimal = SandboxPolicy(tuple(Rule(path, "read") for path in MINIMAL_PATHS))
        assert (await files.run(minimal, GetMetadata(b"/usr/bin/env"))).is_file


@asynchronous
async def test_a_worker_is_reused_for_the_same_view(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with sandboxed() as files:
        started = children()
        for _ in range(3):
            await files.run(policy, GetMetadata(os.fsencode(root)))
            assert len(children() - started) == 1


@asynchronous
async def test_changes_of_files_take_effect_at_once(root: Path) -> None:
    """Such as a replaced directory, and new matches of a pattern."""
    policy = SandboxPolicy((READ_ALL, writable(root)), (f"{root}/**/secret",))
    async with sandboxed() as files:
        path = os.fsencode(root / "secret")
        await files.run(policy, WriteFile(path, b"not yet denied"))
        opening = OpenForRead(path, regular_only=True)
        assert await failure(files, policy, opening) == errno.EACCES
        root.rename(root.parent / "moved")
        root.mkdir()
        await files.run(policy, WriteFile(os.fsencode(root / "new"), b"x"))
    assert (root / "new").read_text() == "x"


@asynchronous
async def test_an_idle_worker_is_ended_with_its_placeholders(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxed_files, "IDLE_SECONDS", 0.0)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with sandboxed() as files:
        for _ in range(2):
            before = children()
            await files.run(policy, WriteFile(os.fsencode(root / "file"), b"x"))
            assert await eventually(lambda before=before: children() == before)  # type: ignore[misc]
            assert not (root / ".git").exists()


@asynchronous
async def test_the_number_of_workers_is_limited(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxed_files, "MAX_WORKERS", 2)
    async with sandboxed() as files:
        before = children()
        for name in "abc":
            (root / name).mkdir()
            policy = SandboxPolicy((READ_ALL, writable(root / name)))
            await files.run(policy, WriteFile(os.fsencode(root / name / "file"), b"x"))
        assert await eventually(lambda: len(children() - before) == 2)


@asynchronous
async def test_a_killed_worker_fails_only_its_current_operation(root: Path) -> None:
    fifo = os.fsencode(root / "fifo")
    os.mkfifo(fifo)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with sandboxed() as files:
        await files.run(policy, GetMetadata(fifo))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        # More than the capacity of a pipe, so the worker waits for the reader.
        writing = asyncio.ensure_future(files.run(policy, WriteFile(fifo, bytes(1_000_000))))
        assert await eventually(lambda: bool(_readable(reader)))
        (worker,) = (each for each in files._workers.values() if each.is_busy)
        os.killpg(worker.pid, signal.SIGKILL)
        with pytest.raises(OperationFailed, match="the worker for file operations failed"):
            await within_bounds(writing)
        os.close(reader)
        assert (await files.run(policy, GetMetadata(os.fsencode(root / "file")))).is_file


@asynchronous
async def test_the_reply_to_a_cancelled_operation_is_discarded(root: Path) -> None:
    fifo = os.fsencode(root / "fifo")
    os.mkfifo(fifo)
    policy = SandboxPolicy((READ_ALL, writable(root)))
    async with sandboxed() as files:
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


@asynchronous
async def test_new_files_can_be_written_where_proc_is_denied(root: Path) -> None:
    policy = SandboxPolicy((READ_ALL, writable(root), Rule("/proc", "deny")))
    async with sandboxed() as files:
        for data in (b"created", b"replaced"):
            await files.run(policy, WriteFile(os.fsencode(root / "new"), data))
            assert (root / "new").read_bytes() == data
        await files.run(
            policy, Copy(os.fsencode(root / "new"), os.fsencode(root / "copy"), recursive=False)
        )
    assert sorted(os.listdir(root)) == ["copy", "file", "new", "sub"]
