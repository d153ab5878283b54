"""Copies of files, links and directory trees (v1 fs/copy)."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files.operations import copy, remove
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with files of every type."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    tree.chmod(0o700)
    write(tree / "a", "A", 0o640)
    write(tree / "sub" / "b", "B", 0o755)
    (tree / "to a").symlink_to("a")
    (tree / "to sub").symlink_to("sub")
    (tree / "dangling").symlink_to("no where")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "sub" / "socket", stat.S_IFSOCK | 0o600)
    return tree


COPIED_TREE = {
    "": 0o755,
    "a": ("A", 0o640),
    "sub": 0o755,
    "sub/b": ("B", 0o755),
    "to a": "a",
    "to sub": "sub",
    "dangling": "no where",
}
"""A copy of ``tree`` in the form of ``look``."""


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def look(root: Path) -> dict[str, object]:
    """Return a tree as data: modes of directories, text and mode of files, targets of links."""
    found: dict[str, object] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        name = str(path.relative_to(root)) if path != root else ""
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = mode
        else:
            found[name] = (path.read_text(), mode)
    return found


def set_capability(path: Path) -> None:
    """Grant a program raw sockets, by revision 2 of the attribute."""
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    except OSError:
        pytest.skip("only root can give capabilities")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with one megabyte of space."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount")
    yield place
    subprocess.run(["umount", place], check=True)


def failure(source: Path, destination: Path, recursive: bool = True) -> int | None:
    """Return the errno of a copy that fails, None if it succeeds."""
    try:
        copy(str(source), str(destination), recursive)
    except OSError as error:
        return error.errno
    return None


class TestFiles:
    """A regular file as source."""

    @pytest.mark.parametrize("mode", [0o644, 0o400, 0o751, 0o6755])
    def test_to_a_new_name(self, tmp_path: Path, mode: int) -> None:
        """Contents and permission bits, whatever the umask."""
        write(tmp_path / "from", "text", mode)
        copy(f"{tmp_path}/from", f"{tmp_path}/to", False)
        assert (tmp_path / "to").read_text() == "text"
        assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == mode

    def test_over_an_existing_file(self, tmp_path: Path) -> None:
        """The rest of a longer file is removed, and its mode is replaced."""
        write(tmp_path / "from", "new", 0o754)
        write(tmp_path / "to", "something longer", 0o600)
        copy(f"{tmp_path}/from/", f"{tmp_path}/to/", True)
        assert (tmp_path / "to").read_text() == "new"
        assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o754

    def test_links_at_the_destination_are_followed(self, tmp_path: Path) -> None:
        """An existing target is overwritten, a missing one created."""
        write(tmp_path / "from", "new")
        write(tmp_path / "target", "old")
        (tmp_path / "link").symlink_to("target")
        (tmp_path / "dangling").symlink_to("created")
        for name, target in [("link", "target"), ("dangling", "created")]:
            copy(f"{tmp_path}/from", f"{tmp_path}/{name}", False)
            assert (tmp_path / name).is_symlink()
            assert (tmp_path / target).read_text() == "new"

    @pytest.mark.parametrize("size", [0, 1, 65_537, 5_000_001])
    def test_any_size(self, tmp_path: Path, size: int) -> None:
        """Byte for byte."""
        data = os.urandom(1000) * (size // 1000) + b"x" * (size % 1000)
        (tmp_path / "from").write_bytes(data)
        copy(f"{tmp_path}/from", f"{tmp_path}/to", False)
        assert (tmp_path / "to").read_bytes() == data

    def test_from_proc_and_to_a_device(self, tmp_path: Path) -> None:
        """Copies that copy_file_range does not support."""
        copy("/proc/version", f"{tmp_path}/version", False)
        assert (tmp_path / "version").read_text().startswith("Linux version")
        mode = os.stat("/dev/null").st_mode
        copy(f"{tmp_path}/version", "/dev/null", False)
        assert os.stat("/dev/null").st_mode == mode

    @pytest.mark.parametrize("is_there", [False, True])
    @pytest.mark.parametrize("owner", [(1234, 0), (0, 1234), (1234, 1234)])
    def test_set_id_bits_of_another_owner(
        self, tmp_path: Path, owner: tuple[int, int], is_there: bool
    ) -> None:
        """They would grant the rights of root to a program of another user."""
        if os.geteuid():
            pytest.skip("only root can give a file to another user")
        write(tmp_path / "from", "text")
        os.chown(tmp_path / "from", *owner)
        (tmp_path / "from").chmod(0o6755)
        if is_there:
            write(tmp_path / "to", "old", 0o6711)
        copy(f"{tmp_path}/from", f"{tmp_path}/to", False)
        assert (tmp_path / "to").read_text() == "text"
        assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o755

    def test_capabilities(self, tmp_path: Path) -> None:
        """Neither those of the source nor those of the old file are kept."""
        for name in ("from", "to"):
            write(tmp_path / name, name, 0o755)
            set_capability(tmp_path / name)
        copy(f"{tmp_path}/from", f"{tmp_path}/to", False)
        assert (tmp_path / "to").read_text() == "from"
        assert "security.capability" not in os.listxattr(tmp_path / "to")

    @pytest.mark.parametrize("is_there", [False, True])
    def test_holes_are_preserved(self, tmp_path: Path, small_disk: Path, is_there: bool) -> None:
        """A sparse file larger than the disk can be copied to it."""
        size = 1 << 40
        with (tmp_path / "from").open("wb") as file:
            file.seek(size // 2)
            file.write(b"middle")
            file.truncate(size)
        if is_there:
            write(small_disk / "to", "old")
        copy(f"{tmp_path}/from", f"{small_disk}/to", False)
        status = (small_disk / "to").stat()
        assert status.st_size == size
        assert status.st_blocks * 512 < 1 << 20
        with (small_disk / "to").open("rb") as file:
            assert file.read(3) == bytes(3)
            file.seek(size // 2 - 1)
            assert file.read(8) == b"\0middle\0"

    @pytest.mark.parametrize("end", [b"", b"end"])
    def test_holes_over_a_file_written_in_place(self, tmp_path: Path, end: bytes) -> None:
        """None of the old contents remains."""
        with (tmp_path / "from").open("wb") as file:
            file.write(b"begin")
            file.truncate(1 << 20)
            file.seek(0, os.SEEK_END)
            file.write(end)
        (tmp_path / "to").write_bytes(b"old" * 1_000_000)
        (tmp_path / "other name").hardlink_to(tmp_path / "to")
        copy(f"{tmp_path}/from", f"{tmp_path}/to", False)
        assert (tmp_path / "other name").read_bytes() == (tmp_path / "from").read_bytes()

    def test_larger_than_the_free_space(self, tmp_path: Path, small_disk: Path) -> None:
        """ENOSPC before anything is written, without leftovers."""
        (tmp_path / "from").write_bytes(b"x" * (2 << 20))
        free = os.statvfs(small_disk).f_bavail
        assert failure(tmp_path / "from", small_disk / "to") == errno.ENOSPC
        assert os.listdir(small_disk) == []
        assert os.statvfs(small_disk).f_bavail == free

    def test_onto_itself(self, tmp_path: Path) -> None:
        """By the same name, through links, as a hard link: the file is unchanged."""
        path = tmp_path / "file"
        write(path, "precious", 0o640)
        (tmp_path / "link").symlink_to("file")
        (tmp_path / "hard link").hardlink_to(path)
        (tmp_path / "here").symlink_to(".")
        for other in ("file", "./file/", "link", "hard link", "here/file", "here/link"):
            copy(str(path), f"{tmp_path}/{other}", False)
            assert path.read_text() == "precious"
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
        copy(f"{tmp_path}/hard link", str(path), True)
        assert path.read_text() == "precious"

    def test_failures(self, tmp_path: Path) -> None:
        """None changes the source."""
        source = tmp_path / "from"
        write(source, "text")
        (tmp_path / "loop").symlink_to("loop")
        assert failure(source, tmp_path) == errno.EISDIR
        assert failure(source, tmp_path / "no" / "such") == errno.ENOENT
        assert failure(source, source / "x") == errno.ENOTDIR
        assert failure(source, tmp_path / "loop") == errno.ELOOP
        assert failure(tmp_path / "missing", tmp_path / "x") == errno.ENOENT
        assert failure(source / "x", tmp_path / "x") == errno.ENOTDIR
        assert source.read_text() == "text"
        assert not (tmp_path / "x").exists()


class TestLinks:
    """A symbolic link as source."""

    @pytest.mark.parametrize("target", ["file", "tree", "nowhere", "../up", "link"])
    def test_a_link_is_recreated(self, tmp_path: Path, target: str) -> None:
        """With the same target, existing or not."""
        write(tmp_path / "file", "text")
        (tmp_path / "tree").mkdir()
        (tmp_path / "link").symlink_to(target)
        for recursive in (True, False):
            copy(f"{tmp_path}/link", f"{tmp_path}/copy{recursive}", recursive)
            assert os.readlink(tmp_path / f"copy{recursive}") == target

    def test_something_is_at_the_destination(self, tmp_path: Path) -> None:
        """EEXIST for any type, including the link itself."""
        write(tmp_path / "file", "text")
        (tmp_path / "dir").mkdir()
        (tmp_path / "link").symlink_to("file")
        (tmp_path / "other").symlink_to("nowhere")
        for name in ("file", "dir", "link", "other"):
            assert failure(tmp_path / "link", tmp_path / name) == errno.EEXIST
        assert (tmp_path / "file").read_text() == "text"


class TestTrees:
    """A directory as source."""

    def test_needs_recursive(self, tree: Path, tmp_path: Path) -> None:
        """Also onto itself."""
        for destination in (tmp_path / "new", tree):
            with pytest.raises(InvalidRequest, match=r"^fs/copy requires recursive: true when "):
                copy(str(tree), str(destination), False)
        assert not (tmp_path / "new").exists()

    def test_to_a_new_place(self, tree: Path, tmp_path: Path) -> None:
        """With missing parents; default modes for directories; no fifo, no socket."""
        copy(str(tree), f"{tmp_path}/x/y/new", True)
        assert look(tmp_path / "x" / "y" / "new") == COPIED_TREE
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o755

    def test_merged_into_an_existing_directory(self, tree: Path, tmp_path: Path) -> None:
        """Same names are overwritten, others stay, also where the destination is a link."""
        there = tmp_path / "there"
        (there / "sub").mkdir(parents=True)
        (there / "sub").chmod(0o750)
        write(there / "a", "old", 0o600)
        write(there / "sub" / "mine", "kept")
        (tmp_path / "link").symlink_to("there")
        copy(str(tree), f"{tmp_path}/link", True)
        assert look(there) == COPIED_TREE | {"sub": 0o750, "sub/mine": ("kept", 0o644)}

    def test_merged_through_a_link_inside(self, tree: Path, tmp_path: Path) -> None:
        """A link to a directory is treated as the directory."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "sub").symlink_to("../elsewhere")
        copy(str(tree), f"{tmp_path}/there", True)
        assert (tmp_path / "there" / "sub").is_symlink()
        assert os.listdir(tmp_path / "elsewhere") == ["b"]

    def test_a_tree_holding_hard_links_to_the_source(self, tree: Path, tmp_path: Path) -> None:
        """No file is truncated."""
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "a").hardlink_to(tree / "a")
        copy(str(tree), f"{tmp_path}/there", True)
        assert look(tmp_path / "there") == COPIED_TREE
        assert (tree / "a").read_text() == "A"

    @pytest.mark.parametrize(
        "destination",
        ["tree", "tree/sub", "tree/new/deep", "link", "link/new", "tree/to sub/x", "l2/new"],
    )
    def test_into_itself(self, tree: Path, tmp_path: Path, destination: str) -> None:
        """Refused under any name, and nothing is created."""
        (tmp_path / "link").symlink_to("tree")
        (tmp_path / "l2").symlink_to("tree/not there yet")
        before = sorted(os.listdir(tree))
        with pytest.raises(
            InvalidRequest,
            match=r"^fs/copy cannot copy a directory to itself or one of its descendants$",
        ):
            copy(str(tree), f"{tmp_path}/{destination}", True)
        assert sorted(os.listdir(tree)) == before

    def test_beside_itself_with_a_longer_name(self, tree: Path, tmp_path: Path) -> None:
        """``tree2`` is not inside ``tree``."""
        copy(str(tree), f"{tmp_path}/tree2", True)
        assert look(tmp_path / "tree2") == COPIED_TREE

    def test_another_type_of_file_exists(self, tree: Path, tmp_path: Path) -> None:
        """A file or a dangling link, at the top or inside."""
        write(tmp_path / "file", "text")
        (tmp_path / "dangling").symlink_to("nowhere")
        (tmp_path / "loop").symlink_to("loop")
        assert failure(tree, tmp_path / "file") == errno.EEXIST
        assert failure(tree, tmp_path / "dangling") == errno.EEXIST
        assert failure(tree, tmp_path / "loop") == errno.EEXIST
        assert failure(tree, tmp_path / "file" / "x") == errno.ENOTDIR
        for name, kind, expected in [
            ("a", "directory", errno.EISDIR),
            ("sub", "file", errno.EEXIST),
            ("to a", "file", errno.EEXIST),
        ]:
            there = tmp_path / f"there {name}"
            there.mkdir()
            if kind == "file":
                write(there / name, "mine")
            else:
                (there / name).mkdir()
            assert failure(tree, there) == expected
            assert kind == "directory" or (there / name).read_text() == "mine"

    def test_very_deep(self, tmp_path: Path) -> None:
        """Deeper than the recursion limit of Python."""
        path = tmp_path / "from"
        deep = f"{path}" + "/d" * 1500
        os.makedirs(path)
        descriptor = os.open(path, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)
        copy(str(path), f"{tmp_path}/to", True)
        assert os.path.isdir(deep.replace("/from/", "/to/"))
        remove(str(path))
        remove(f"{tmp_path}/to")
        assert os.listdir(tmp_path) == []

    def test_no_descriptor_is_left_open(self, tree: Path, tmp_path: Path) -> None:
        """After success and after failure."""
        before = os.listdir("/proc/self/fd")
        copy(str(tree), f"{tmp_path}/to", True)
        assert failure(tree, tmp_path / "to") == errno.EEXIST
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("source", ["fifo", "socket", "/dev/null"])
def test_other_kinds_of_source(tmp_path: Path, source: str) -> None:
    """Refused."""
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    for recursive in (True, False):
        with pytest.raises(
            InvalidRequest,
            match=r"^fs/copy only supports regular files, directories, and symlinks$",
        ):
            copy(os.path.join(str(tmp_path), source), f"{tmp_path}/to", recursive)
