"""Reading of files: complete, in chunks, and with waiting (v1 fs/readFile)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import stat
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files import operations as files
from exec_server.engine.memory_budget import MemoryBudget
from exec_server.errors import InvalidRequest
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

TOO_LARGE = r"^file is too large to read: limit is 536870912 bytes$"


def run(coroutine: Coroutine[Any, Any, bytes]) -> bytes:
    """Run a coroutine with a time limit."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def take(source: files.ReadSource, piece: int = 72 * 1024) -> list[bytes]:
    """Return the chunks of a source with a known size."""
    assert source.size is not None
    return list(iter(lambda: source.read(piece), b""))


def unread(pipe: int) -> bool:
    """Return True if a pipe contains unread data."""
    return fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) != bytes(4)


async def load(path: str) -> bytes:
    """Return the contents of a file that may not be available at once."""
    source = files.open_for_read(path)
    try:
        await source.load(MemoryBudget())
        return b"".join(take(source))
    finally:
        source.close()


@pytest.mark.parametrize("size", [0, 1, 4096, 131_071, 131_072, 131_073, 1_000_000])
def test_the_size_is_known_and_chunks_add_up(tmp_path: Path, size: int) -> None:
    """No chunk is larger than requested, nor than 128 KiB."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    for piece in (1000, 73_728, 1 << 30):
        source = files.open_for_read(f"{tmp_path}/file")
        pieces = take(source, piece)
        source.close()
        assert source.size == size
        assert b"".join(pieces) == data
        assert all(len(part) <= min(piece, 128 * 1024) for part in pieces)
    assert files.read_file(f"{tmp_path}/file") == data


def test_links_are_followed(tmp_path: Path) -> None:
    """To the file at their end."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert files.read_file(f"{tmp_path}/link") == b"x"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Directories and sockets."""
    with pytest.raises(IsADirectoryError):
        files.open_for_read(str(tmp_path))
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        files.open_for_read(f"{tmp_path}/socket")
    assert caught.value.errno == errno.ENXIO


def test_devices_and_proc(tmp_path: Path) -> None:
    """An empty device, and files that report a size of 0 but are not empty."""
    assert run(load("/dev/null")) == b""
    assert files.read_file("/proc/self/stat").startswith(f"{os.getpid()} ".encode())
    assert run(load("/proc/self/cmdline")) == Path("/proc/self/cmdline").read_bytes()
    (tmp_path / "link").symlink_to("/proc/version")
    assert files.read_file(f"{tmp_path}/link").startswith(b"Linux version")


SYS_FILE = "/sys/devices/system/cpu/online"


@pytest.mark.skipif(not os.path.exists(SYS_FILE), reason="needs /sys")
def test_a_sys_file_that_reports_more_than_it_contains() -> None:
    """The reported size is a page, the contents are a few bytes."""
    source = files.open_for_read(SYS_FILE)
    content = b"".join(take(source))
    assert source.size == len(content) < 4096


def test_a_file_over_the_limit(tmp_path: Path) -> None:
    """Refused without reading; the limit itself is accepted."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(536_870_913)
    with pytest.raises(InvalidRequest, match=TOO_LARGE):
        files.open_for_read(f"{tmp_path}/file")
    os.truncate(tmp_path / "file", 536_870_912)
    source = files.open_for_read(f"{tmp_path}/file")
    assert source.size == 536_870_912
    assert source.read(1 << 30) == bytes(128 * 1024)
    source.close()


def test_an_endless_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read up to the limit, and then refused; the event loop is not blocked meanwhile."""
    monkeypatch.setattr("exec_server.engine.files.source.READ_LIMIT_BYTES", 16 * 1024 * 1024)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read() -> bytes:
        counting = asyncio.create_task(count_turns())
        try:
            return await load("/dev/zero")
        finally:
            counting.cancel()

    with pytest.raises(InvalidRequest, match="too large"):
        run(read())
    assert turns > 4


def test_a_truncated_file_ends_early(tmp_path: Path) -> None:
    """Appended data is ignored."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    shrinking, growing = files.open_for_read(str(path)), files.open_for_read(str(path))
    with path.open("ab") as file:
        file.write(b"more")
    assert sum(map(len, take(growing))) == growing.size == 1_000_000
    os.truncate(path, 200_000)
    assert sum(map(len, take(shrinking))) == 200_000
    shrinking.close()
    growing.close()


def test_a_file_stays_readable_when_it_is_removed_or_replaced(tmp_path: Path) -> None:
    """The opened file is read."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 200_000)
    source = files.open_for_read(str(path))
    path.unlink()
    path.write_bytes(b"b")
    assert b"".join(take(source)) == b"a" * 200_000
    source.close()


def test_a_fifo_is_read_from_its_first_writer_to_its_last(tmp_path: Path) -> None:
    """Opening does not block; the end is reached when the last writer closes it."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    async def read() -> bytes:
        source = files.open_for_read(fifo)
        assert source.size is None
        loading = asyncio.create_task(source.load(MemoryBudget()))
        await asyncio.sleep(0)
        assert not loading.done()
        first = os.open(fifo, os.O_WRONLY)
        second = os.open(fifo, os.O_WRONLY)
        os.write(first, b"one ")
        os.close(first)
        while unread(second):  # noqa: ASYNC110 - a pipe does not report when it has been read
            await asyncio.sleep(0)
        assert not loading.done()
        os.write(second, b"two")
        os.close(second)
        await loading
        return b"".join(take(source))

    assert run(read()) == b"one two"


def test_a_writer_that_writes_nothing_ends_a_fifo(tmp_path: Path) -> None:
    """Opened and closed again: empty."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    async def read() -> bytes:
        loading = asyncio.create_task(load(fifo))
        await asyncio.sleep(0)
        os.close(os.open(fifo, os.O_WRONLY))
        return await loading

    assert run(read()) == b""


def test_waiting_for_a_fifo_can_be_cancelled(tmp_path: Path) -> None:
    """No descriptor remains open; other FIFOs are read meanwhile."""
    os.mkfifo(tmp_path / "silent")
    os.mkfifo(tmp_path / "other")

    async def read() -> bytes:
        before = os.listdir("/proc/self/fd")
        silent = asyncio.create_task(load(f"{tmp_path}/silent"))
        other = asyncio.create_task(load(f"{tmp_path}/other"))
        await asyncio.sleep(0)
        writer = os.open(tmp_path / "other", os.O_WRONLY)
        os.write(writer, b"x")
        os.close(writer)
        content = await other
        silent.cancel()
        await asyncio.wait([silent])
        assert silent.cancelled()
        assert os.listdir("/proc/self/fd") == before
        return content

    assert run(read()) == b"x"


def test_a_fifo_cannot_be_read_at_once(tmp_path: Path) -> None:
    """``read_file`` never blocks."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BlockingIOError):
        files.read_file(f"{tmp_path}/fifo")


def test_a_terminal_is_read_as_input_arrives() -> None:
    """Until the end-of-file character."""

    async def read() -> bytes:
        master, slave = pty.openpty()
        try:
            source = files.open_for_read(os.ttyname(slave))
            loading = asyncio.create_task(source.load(MemoryBudget()))
            await asyncio.sleep(0)
            assert not loading.done()
            os.write(master, b"line\n\x04")
            await loading
            content = b"".join(take(source))
            source.close()
            return content
        finally:
            os.close(master)
            os.close(slave)

    assert run(read()) == b"line\n"


def test_closing_twice(tmp_path: Path) -> None:
    """Closing is idempotent, and no data remains."""
    (tmp_path / "file").write_bytes(bytes(200_000))
    before = os.listdir("/proc/self/fd")
    source = files.open_for_read(f"{tmp_path}/file")
    source.close()
    source.close()
    assert source.read(10) == b""
    assert os.listdir("/proc/self/fd") == before
