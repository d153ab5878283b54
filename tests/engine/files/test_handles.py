"""File handles (v2 fs/open, readBlock, writeBlock, close)."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.files.handles import MAX_BLOCK_BYTES, MAX_HANDLES, Block, FileHandles
from exec_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def handles() -> Iterator[FileHandles]:
    """File handles, all closed after the test."""
    before = os.listdir("/proc/self/fd")
    umask = os.umask(0o022)
    handles = FileHandles()
    yield handles
    os.umask(umask)
    asyncio.run(handles.aclose())
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of ten bytes."""
    (tmp_path / "file").write_bytes(b"0123456789")
    return tmp_path / "file"


def refusal(operation: Callable[..., object], *arguments: Any) -> str:
    """Return the message of an InvalidRequest."""
    with pytest.raises(InvalidRequest) as caught:
        operation(*arguments)
    return str(caught.value)


def error_number(operation: Callable[..., object], *arguments: Any) -> int | None:
    """Return the errno of an OSError."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is what is looked at
        operation(*arguments)
    return caught.value.errno


class TestOpen:
    """v2 fs/open."""

    @pytest.mark.parametrize("handle_id", ["", "a", "a" * 32, "ü" * 16])
    def test_ids_are_chosen_by_the_client(
        self, handles: FileHandles, file: Path, handle_id: str
    ) -> None:
        """Up to 32 bytes, each once."""
        handles.open(handle_id, str(file))
        assert handles.read_block(handle_id, 0, 2).data == b"01"
        taken = f"file handle `{handle_id}` already exists"
        assert refusal(handles.open, handle_id, str(file)) == taken
        assert refusal(handles.open, handle_id, "/missing", "replace") == taken

    @pytest.mark.parametrize("handle_id", ["a" * 33, "ü" * 17])
    def test_ids_too_long(self, handles: FileHandles, file: Path, handle_id: str) -> None:
        """Refused by every method, before any other check."""
        too_long = "file handle ID must not exceed 32 bytes"
        assert refusal(handles.open, handle_id, "/missing") == too_long
        assert refusal(handles.read_block, handle_id, 0, 0) == too_long
        assert refusal(handles.write_block, handle_id, 0, b"") == too_long
        assert refusal(handles.close, handle_id) == too_long

    @pytest.mark.parametrize("path", ["", "/dev/null", "/dev/zero", "fifo", "link to directory"])
    def test_regular_files_only(self, handles: FileHandles, tmp_path: Path, path: str) -> None:
        """Refused without blocking; the message names the path."""
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link to directory").symlink_to(".")
        native = os.path.join(tmp_path, path).rstrip("/")
        assert refusal(handles.open, "a", native) == f"path `{native}` is not a file"

    def test_files_that_cannot_be_opened(self, handles: FileHandles, file: Path) -> None:
        """The system's error."""
        os.mkfifo(file.parent / "fifo")
        assert error_number(handles.open, "a", f"{file.parent}/missing") == errno.ENOENT
        assert error_number(handles.open, "a", f"{file}/x") == errno.ENOTDIR
        for path, expected in [
            (file.parent, errno.EISDIR),
            (file.parent / "fifo", errno.ENXIO),
            (file.parent / "missing" / "x", errno.ENOENT),
        ]:
            assert error_number(handles.open, "a", str(path), "replace") == expected
        assert refusal(handles.open, "a", "/dev/null", "replace") == (
            "path `/dev/null` is not a file"
        )
        handles.open("a", str(file))

    def test_replacing(self, handles: FileHandles, file: Path) -> None:
        """Truncates a file and keeps its mode, creates a missing one, follows links."""
        file.chmod(0o751)
        (file.parent / "dangling").symlink_to("created")
        handles.open("a", str(file), "replace")
        handles.open("b", f"{file.parent}/dangling", "replace")
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"", 0o751)
        created = (file.parent / "created").stat()
        assert (created.st_size, stat.S_IMODE(created.st_mode)) == (0, 0o644)

    def test_128_at_once(self, handles: FileHandles, file: Path) -> None:
        """No more until one is closed; a refused file is not changed."""
        for number in range(MAX_HANDLES):
            handles.open(f"{number}", str(file))
        assert refusal(handles.open, "more", str(file), "replace") == (
            "at most 128 file handles may be open per connection"
        )
        assert file.read_bytes() == b"0123456789"
        handles.close("5")
        handles.open("more", str(file))


class TestReadBlock:
    """v2 fs/readBlock."""

    @pytest.mark.parametrize(
        ("offset", "length", "block"),
        [
            (0, 4, Block(b"0123", eof=False)),
            (4, 6, Block(b"456789", eof=False)),
            (4, 7, Block(b"456789", eof=True)),
            (10, 1, Block(b"", eof=True)),
            (1000, 10, Block(b"", eof=True)),
            (0, MAX_BLOCK_BYTES, Block(b"0123456789", eof=True)),
            (2**63 - 1 - 10, 10, Block(b"", eof=True)),
        ],
    )
    def test_blocks(
        self, handles: FileHandles, file: Path, offset: int, length: int, block: Block
    ) -> None:
        """A short block indicates the end; reading can continue after it."""
        handles.open("a", str(file))
        assert handles.read_block("a", offset, length) == block
        assert handles.read_block("a", 0, 1) == Block(b"0", eof=False)

    def test_a_whole_file(self, handles: FileHandles, file: Path) -> None:
        """In the largest blocks."""
        content = os.urandom(1000) * 2500
        file.write_bytes(content)
        handles.open("a", str(file))
        blocks = [handles.read_block("a", number * 2**20, 2**20) for number in range(3)]
        assert b"".join(block.data for block in blocks) == content
        assert [block.eof for block in blocks] == [False, False, True]

    @pytest.mark.parametrize("length", [0, MAX_BLOCK_BYTES + 1, 2**64 - 1])
    def test_other_lengths(self, handles: FileHandles, file: Path, length: int) -> None:
        """Refused, for an unknown handle too; the handle stays."""
        message = "file read block length must be between 1 and 1048576"
        handles.open("a", str(file))
        assert refusal(handles.read_block, "a", 0, length) == message
        assert refusal(handles.read_block, "unknown", 0, length) == message
        assert handles.read_block("a", 0, 1).data == b"0"

    @pytest.mark.parametrize("offset", [2**63 - 10, 2**63 - 1, 2**63, 2**64 - 1])
    def test_an_offset_beyond_the_maximum(
        self, handles: FileHandles, file: Path, offset: int
    ) -> None:
        """EINVAL; as after any system error, the handle is closed."""
        handles.open("a", str(file))
        assert error_number(handles.read_block, "a", offset, 20) == errno.EINVAL
        with pytest.raises(NotFound, match=r"^unknown file handle `a`$"):
            handles.read_block("a", 0, 1)
        handles.open("a", str(file))

    def test_a_file_open_for_writing(self, handles: FileHandles, file: Path) -> None:
        """EBADF, and the handle is closed."""
        handles.open("a", str(file), "replace")
        assert error_number(handles.read_block, "a", 0, 1) == errno.EBADF
        with pytest.raises(NotFound):
            handles.write_block("a", 0, b"x")

    def test_the_file_that_was_opened(self, handles: FileHandles, file: Path) -> None:
        """Even after its name is reused; appended data can be read."""
        handles.open("a", str(file))
        file.rename(file.parent / "moved")
        file.write_bytes(b"another")
        with (file.parent / "moved").open("ab") as moved:
            moved.write(b"+")
        (file.parent / "moved").unlink()
        assert handles.read_block("a", 0, 20) == Block(b"0123456789+", eof=True)


class TestWriteBlock:
    """v2 fs/writeBlock."""

    def test_anywhere_in_any_order(self, handles: FileHandles, file: Path) -> None:
        """Gaps read as zeros and take no space."""
        handles.open("a", str(file), "replace")
        handles.write_block("a", 2**32, b"end")
        handles.write_block("a", 0, b"hello")
        handles.write_block("a", 3, b"p!" + bytes(MAX_BLOCK_BYTES - 2))
        assert file.stat().st_size == 2**32 + 3
        assert file.stat().st_blocks * 512 < 2**22
        with file.open("rb") as reader:
            assert reader.read(6) == b"help!\0"
            reader.seek(2**32 - 1)
            assert reader.read() == b"\0end"

    @pytest.mark.parametrize("length", [0, MAX_BLOCK_BYTES + 1])
    def test_other_lengths(self, handles: FileHandles, file: Path, length: int) -> None:
        """Refused, for an unknown handle too; the handle stays."""
        message = "file write block length must be between 1 and 1048576"
        handles.open("a", str(file), "replace")
        assert refusal(handles.write_block, "a", 2**63, bytes(length)) == message
        assert refusal(handles.write_block, "unknown", 0, bytes(length)) == message
        handles.write_block("a", 0, b"x")
        assert file.read_bytes() == b"x"

    @pytest.mark.parametrize(
        ("offset", "data"), [(2**63 - 1, b"x"), (2**63 - 2, b"xx"), (2**63, b"x"), (2**64, b"x")]
    )
    def test_beyond_the_largest_offset(
        self, handles: FileHandles, file: Path, offset: int, data: bytes
    ) -> None:
        """Refused; the handle stays."""
        message = "file write range exceeds the signed 64-bit file offset limit"
        handles.open("a", str(file), "replace")
        assert refusal(handles.write_block, "a", offset, data) == message
        assert refusal(handles.write_block, "unknown", offset, data) == message
        handles.write_block("a", 0, b"x")

    def test_an_error_of_the_system(self, handles: FileHandles, file: Path) -> None:
        """EBADF for a file open for reading, EFBIG beyond the limit; handles stay open."""
        handles.open("a", str(file))
        assert error_number(handles.write_block, "a", 0, b"x") == errno.EBADF
        assert handles.read_block("a", 0, 1).data == b"0"
        handles.open("b", str(file), "replace")
        assert error_number(handles.write_block, "b", 2**63 - 2, b"x") in (
            errno.EFBIG,
            errno.EINVAL,
        )
        handles.write_block("b", 0, b"x")

    def test_readers_see_the_written_data(self, handles: FileHandles, file: Path) -> None:
        """At once, and after the writer is closed."""
        handles.open("reader", str(file))
        handles.open("writer", str(file), "replace")
        handles.write_block("writer", 0, b"abc")
        assert handles.read_block("reader", 0, 10) == Block(b"abc", eof=True)
        handles.close("writer")
        assert handles.read_block("reader", 0, 10) == Block(b"abc", eof=True)


class TestClose:
    """v2 fs/close."""

    def test_once_or_more(self, handles: FileHandles, file: Path) -> None:
        """Repeated and unknown ids are accepted; the handle is unknown afterwards."""
        handles.open("a", str(file))
        for handle_id in ("a", "a", "unknown"):
            handles.close(handle_id)
        for operation in (
            lambda: handles.read_block("a", 0, 1),
            lambda: handles.write_block("a", 0, b"x"),
        ):
            with pytest.raises(NotFound, match=r"^unknown file handle `a`$"):
                operation()

    def test_all_at_the_end(self, file: Path) -> None:
        """All descriptors are closed; aclose is idempotent."""
        before = os.listdir("/proc/self/fd")
        handles = FileHandles()
        for number in range(10):
            handles.open(f"{number}", str(file))

        async def close_twice() -> None:
            await handles.aclose()
            await handles.aclose()

        asyncio.run(close_twice())
        assert os.listdir("/proc/self/fd") == before
