"""Files of the server's machine."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from exec_server.client import ServerError, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.targets import Target

pytestmark = pytest.mark.revisions("v1", "v2")

ODD = "a b#%?&'ü☃.txt"
"""A name with everything that a URI would take differently."""


async def test_bytes_and_text(target: Target, tmp_path: Path) -> None:
    """What is written is read again, whatever the name; writing replaces."""
    async with target.connect() as client:
        path = tmp_path / ODD
        await client.fs.write_bytes(path, bytes(range(256)))
        assert path.read_bytes() == bytes(range(256))
        assert await client.fs.read_bytes(path) == bytes(range(256))
        await client.fs.write_text(path, "grüß\n")
        assert path.read_text(encoding="utf-8") == "grüß\n"
        assert await client.fs.read_text(str(path)) == "grüß\n"
        await client.fs.write_text(path, "ü", encoding="latin-1")
        assert await client.fs.read_bytes(path) == b"\xfc"
        await client.fs.write_bytes(path, b"")
        assert await client.fs.read_bytes(path) == b""


async def test_stat(target: Target, tmp_path: Path) -> None:
    """Kinds, links, sizes and times."""
    (tmp_path / "file").write_bytes(bytes(1234))
    os.utime(tmp_path / "file", (1_700_000_000, 1_700_000_000.25))
    (tmp_path / "link").symlink_to("file")
    async with target.connect() as client:
        status = await client.fs.stat(tmp_path / "link")
        assert (status.is_file, status.is_dir, status.is_symlink) == (True, False, True)
        assert status.size == (1234 if target.family == "v2" else None)
        assert status.modified == 1_700_000_000.25
        assert (await client.fs.stat(tmp_path)).is_dir
        assert await client.fs.exists(tmp_path / "file")
        assert not await client.fs.exists(tmp_path / "none")
        assert not await client.fs.exists(tmp_path / "file" / "below")
        assert await client.fs.is_file(tmp_path / "link")
        assert not await client.fs.is_file(tmp_path)
        assert await client.fs.is_dir(tmp_path)
        assert not await client.fs.is_dir(tmp_path / "none")


async def test_errors(target: Target, tmp_path: Path) -> None:
    """What the system refuses is raised as it would be here, with the path."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    async with target.connect() as client:
        with pytest.raises(FileNotFoundError) as missing:
            await client.fs.read_bytes(tmp_path / "none")
        assert missing.value.filename == str(tmp_path / "none")
        assert isinstance(missing.value.__cause__, ServerError)
        with pytest.raises(IsADirectoryError):
            await client.fs.read_bytes(tmp_path)
        with pytest.raises(IsADirectoryError):
            await client.fs.write_bytes(tmp_path, b"x")
        with pytest.raises(FileNotFoundError):
            await client.fs.write_bytes(tmp_path / "none" / "file", b"x")
        with pytest.raises(NotADirectoryError):
            await client.fs.listdir(tmp_path / "file")
        with pytest.raises(FileExistsError):
            await client.fs.mkdir(tmp_path / "full")
        with pytest.raises(FileNotFoundError):
            await client.fs.mkdir(tmp_path / "none" / "below")
        with pytest.raises(OSError, match="not empty"):
            await client.fs.remove(tmp_path / "full")
        with pytest.raises(FileNotFoundError):
            await client.fs.remove(tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            await client.fs.copy(tmp_path / "none", tmp_path / "copy")
        with pytest.raises(ServerError, match="requires recursive"):
            await client.fs.copy(tmp_path / "full", tmp_path / "copy")
        with pytest.raises(ValueError, match="paths on the server are absolute, not 'file'"):
            await client.fs.read_bytes("file")


async def test_changing(target: Target, tmp_path: Path) -> None:
    """Directories are made, trees are copied and removed."""
    async with target.connect() as client:
        await client.fs.makedirs(tmp_path / "a" / "b" / "c")
        await client.fs.makedirs(tmp_path / "a" / "b" / "c")
        await client.fs.mkdir(tmp_path / "a" / "d")
        await client.fs.write_text(tmp_path / "a" / "b" / "file", "text")
        await client.fs.copy(tmp_path / "a" / "b" / "file", tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "text"
        await client.fs.copy(tmp_path / "a", tmp_path / "tree", recursive=True)
        assert (tmp_path / "tree" / "b" / "file").read_text() == "text"
        await client.fs.remove(tmp_path / "copy")
        await client.fs.remove(tmp_path / "a", recursive=True)
        await client.fs.remove(tmp_path / "a", missing_ok=True)
        assert sorted(os.listdir(tmp_path)) == ["tree"]


async def test_a_tree_at_once(target: Target, tmp_path: Path) -> None:
    """The same regular files and directories from every server, in the same order."""
    for path in ("b/file", "b/deep/er/file", ".hidden/file", "a/.file"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / ODD).write_text("")
    (tmp_path / "a" / "link").symlink_to("../b/file")
    (tmp_path / "a" / "up").symlink_to("..")
    os.mkfifo(tmp_path / "pipe")
    level_by_level = [
        *(("a b#%?&'ü☃.txt", False), (".hidden", True), ("a", True), ("b", True)),
        (".hidden/file", False),
        ("a/.file", False),
        *(("b/deep", True), ("b/file", False)),
        ("b/deep/er", True),
        ("b/deep/er/file", False),
    ]
    level_by_level[:4] = sorted(level_by_level[:4])
    expected = [(f"{tmp_path}/{name}", is_dir) for name, is_dir in level_by_level]
    async with target.connect() as client:
        tree = await client.fs.tree(tmp_path)
        assert [(entry.path, entry.is_dir) for entry in tree.entries] == expected
        assert (tree.errors, tree.truncated) == ([], False)
        pruned = await client.fs.tree(tmp_path, prune_hidden=True)
        hidden = f"{tmp_path}/.hidden/"
        assert [entry.path for entry in pruned.entries] == [
            path for path, _ in expected if not path.startswith(hidden)
        ]
        followed = await client.fs.tree(tmp_path / "a", follow_symlinks=True)
        names = [entry.path.removeprefix(f"{tmp_path}/a/") for entry in followed.entries]
        assert names[:2] == [".file", "up"]
        assert names.count("up/b/deep/er/file") == 1
        assert (await client.fs.tree(tmp_path / "b" / "file")).entries == []
        with pytest.raises(FileNotFoundError):
            await client.fs.tree(tmp_path / "none")


async def test_listing_and_walking(target: Target, tmp_path: Path) -> None:
    """A directory's entries, and a tree from the top down without going in circles."""
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "file").write_text("")
    (tmp_path / "one" / "deep" / ODD).write_text("")
    (tmp_path / "one" / "circle").symlink_to(tmp_path)
    async with target.connect() as client:
        entries = {entry.name: entry for entry in await client.fs.listdir(tmp_path / "one")}
        assert set(entries) == {"deep", "file", "circle"}
        assert (entries["deep"].is_dir, entries["file"].is_file) == (True, True)
        assert [step async for step in client.fs.walk(tmp_path)] == [
            (str(tmp_path), ["one", "two"], []),
            (str(tmp_path / "one"), ["circle", "deep"], ["file"]),
            (str(tmp_path / "one" / "deep"), [], [ODD]),
            (str(tmp_path / "two"), [], []),
        ]
        seen = []
        async for directory, directories, _ in client.fs.walk(tmp_path):
            seen.append(directory)
            directories[:] = [name for name in directories if name != "one"]
        assert seen == [str(tmp_path), str(tmp_path / "two")]
        assert await client.fs.resolve(tmp_path / "one" / "circle" / "two") == str(tmp_path / "two")


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (5 << 20) + 7])
async def test_streams(target: Target, tmp_path: Path, size: int) -> None:
    """Files are read and written piece by piece, whatever the pieces."""
    content = random.Random(size).randbytes(size)
    async with target.connect() as client:
        async with await client.fs.open_write(tmp_path / "file") as file:
            for start in range(0, size, 700_001):
                await file.write(content[start : start + 700_001])
        assert (tmp_path / "file").read_bytes() == content
        async with await client.fs.open_read(tmp_path / "file") as reader:
            assert b"".join([piece async for piece in reader]) == content
            assert await reader.read() == b""
        async with await client.fs.open_read(tmp_path / "file") as reader:
            start = await reader.read(1000)
            assert start == content[:1000]
            assert start + await reader.read() == content


async def test_large_files(target: Target, tmp_path: Path) -> None:
    """Tens of megabytes go both ways; more than the server can take is refused beforehand."""
    content = random.Random(0).randbytes(1 << 20) * 40
    async with target.connect() as client:
        await client.fs.write_bytes(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
        assert await client.fs.read_bytes(tmp_path / "file") == content
        if target.revision == "v1":
            with pytest.raises(Unsupported, match="accepts files of up to"):
                await client.fs.write_bytes(tmp_path / "file", bytes(60 << 20))
            assert (tmp_path / "file").read_bytes() == content
        else:
            await client.fs.write_bytes(tmp_path / "file", bytes(60 << 20))
            assert (tmp_path / "file").stat().st_size == 60 << 20


async def test_stream_errors(target: Target, tmp_path: Path) -> None:
    """Opening what cannot be read or written is an error, and closing is always possible."""
    async with target.connect() as client:
        with pytest.raises(FileNotFoundError):
            await client.fs.open_read(tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            async with await client.fs.open_write(tmp_path / "none" / "file") as file:
                await file.write(b"x")
        file = await client.fs.open_write(tmp_path / "file")
        await file.write(b"written")
        await file.aclose()
        await file.aclose()
        with pytest.raises(ValueError, match="closed"):
            await file.write(b"x")
        assert (tmp_path / "file").read_bytes() == b"written"


async def test_interrupted_stream(target: Target, tmp_path: Path) -> None:
    """A file that is left half read or half written leaves nothing open."""
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    async with target.connect() as client:
        for _ in range(140):  # more than a connection may have open at once
            async with await client.fs.open_read(tmp_path / "large") as reader:
                if target.family == "v2":
                    assert await reader.read(10) == bytes(10)
            if target.revision == "v1":
                break
        file = await client.fs.open_write(tmp_path / "file")
        await file.write(b"begun")
        await file.__aexit__(RuntimeError, RuntimeError(), None)
        assert (tmp_path / "file").read_bytes() == b"begun"


@pytest.mark.revisions("v2")
async def test_names_that_are_not_text(target: Target, tmp_path: Path) -> None:
    """A name of bytes that are no UTF-8 is reached through surrogates, as ``os`` has it."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    async with target.connect() as client:
        await client.fs.write_text(path, "x")
        assert await client.fs.read_text(path) == "x"
        assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe"]
        assert await client.fs.resolve(path) == path


async def test_environment(target: Target) -> None:
    """What the server tells about its machine, in native paths."""
    async with target.connect() as client:
        environment = await client.environment()
        assert environment.shell_path is not None
        assert environment.shell_path.startswith("/")
        if target.family == "v2":
            assert environment.cwd == os.getcwd()
            assert environment.platform == "linux"
            assert "fileWriteStreaming" in environment.capabilities
        assert await client.environment() is environment
