"""Atomic replacement of file contents (v1 and v2 fs/writeFile, fs/copy)."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files import operations as files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD = b"precious " * 1000
NEW = b"replaced " * 5000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def write(path: Path, data: bytes = NEW) -> None:
    files.write_file(str(path), data)


def copy(path: Path, data: bytes = NEW) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        source = Path(elsewhere, "source")
        source.write_bytes(data)
        files.copy(str(source), str(path), False)


both = pytest.mark.parametrize("put", [write, copy])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file with contents, alone in its directory."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def alone(path: Path) -> bool:
    """Return True if a file is alone in its directory."""
    return os.listdir(path.parent) == [path.name]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of this process's files, with the effect of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own with little room."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
    )
    if mount.returncode:
        pytest.skip("cannot mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Run without the rights of root."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)
            os.setegid(group)


class TestFailures:
    """State after a failed write."""

    def test_a_new_file_is_not_left_in_part(self, tmp_path: Path) -> None:
        """Neither a written nor a copied one."""
        source = tmp_path / "source"
        source.write_bytes(NEW)
        with largest_file(20_000):
            with pytest.raises(OSError, match="File too large"):
                files.write_file(f"{tmp_path}/file", NEW)
            with pytest.raises(OSError, match="File too large"):
                files.copy(str(source), f"{tmp_path}/file", False)
        assert alone(source)

    def test_an_old_file_keeps_its_contents(self, old: Path) -> None:
        """All of them."""
        with largest_file(20_000), pytest.raises(OSError, match="File too large"):
            write(old)
        assert old.read_bytes() == OLD
        assert alone(old)

    def test_an_old_file_written_in_place_keeps_its_contents(
        self, old: Path, tmp_path: Path
    ) -> None:
        """It is written in place because it has two names."""
        other = tmp_path / "other"
        other.hardlink_to(old)
        with largest_file(20_000), pytest.raises(OSError, match="File too large"):
            write(old)
        assert other.read_bytes() == OLD

    @needs_root
    @both
    def test_a_full_disk(self, tmp_path: Path, put: Callable[[Path], None]) -> None:
        """Old contents are kept and new files are removed, in place or not."""
        with small_disk(tmp_path, "32k") as disk:
            path = disk / "file"
            path.write_bytes(OLD)
            (disk / "other").hardlink_to(path)
            for name in ("file", "new"):
                with pytest.raises(OSError, match="No space left"):
                    put(disk / name)
            assert path.read_bytes() == OLD
            (disk / "other").unlink()
            with pytest.raises(OSError, match="No space left"):
                put(path)
            assert path.read_bytes() == OLD
            assert alone(path)

    @needs_root
    @both
    def test_a_disk_without_room_for_both(
        self, tmp_path: Path, put: Callable[[Path, bytes], None]
    ) -> None:
        """The file is overwritten in place."""
        with small_disk(tmp_path, "64k") as disk:
            path = disk / "file"
            path.write_bytes(b"x" * 45_000)
            put(path, NEW)
            assert path.read_bytes() == NEW
            put(path, OLD)
            assert path.read_bytes() == OLD

    @pytest.mark.parametrize("exists", [True, False])
    def test_the_end_of_the_process_in_the_middle(self, tmp_path: Path, exists: bool) -> None:
        """The kernel removes an unnamed file."""
        path = tmp_path / "file"
        if exists:
            path.write_bytes(OLD)
        program = """
import os, signal, sys
from exec_server.engine.files.replace import Contents, put
def half(descriptor):
    os.write(descriptor, b"half")
    os.kill(os.getpid(), signal.SIGKILL)
put(os.fsencode(sys.argv[1]), Contents(8, half))
"""
        run = subprocess.run([sys.executable, "-c", program, path])
        assert run.returncode == -signal.SIGKILL
        assert [(name, (tmp_path / name).read_bytes()) for name in os.listdir(tmp_path)] == (
            [("file", OLD)] if exists else []
        )

    def test_no_descriptor_is_left_open(self, old: Path, tmp_path: Path) -> None:
        """After success and after failure."""
        before = os.listdir("/proc/self/fd")
        write(old)
        write(tmp_path / "new")
        copy(old)
        with largest_file(20_000), pytest.raises(OSError, match="File too large"):
            write(old)
        for wrong in (tmp_path, tmp_path / "no" / "such", old / "x"):
            with pytest.raises(OSError, match="directory"):
                write(wrong)
        assert os.listdir("/proc/self/fd") == before


@both
def test_readers_see_the_old_or_the_new_contents(
    old: Path, put: Callable[[Path, bytes], None]
) -> None:
    """In many reads during the replacement."""
    versions = [bytes([letter]) * 300_000 for letter in b"ab"]
    put(old, versions[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(old.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for turn in range(100):
            put(old, versions[turn % 2])
    finally:
        done.set()
        reader.join()
    assert seen <= set(versions)


@both
def test_an_open_old_file_is_unchanged(old: Path, put: Callable[[Path], None]) -> None:
    """Such as a script that is being executed."""
    with old.open("rb") as opened:
        put(old)
        assert opened.read() == OLD
    assert old.read_bytes() == NEW


class TestWhatIsKept:
    """Properties of the old file that are kept."""

    def test_the_mode(self, old: Path) -> None:
        """Whatever the umask."""
        old.chmod(0o606)
        write(old)
        assert stat.S_IMODE(old.stat().st_mode) == 0o606

    @needs_root
    @both
    def test_the_owner(self, old: Path, put: Callable[[Path], None]) -> None:
        """User and group."""
        os.chown(old, 1234, 4321)
        put(old)
        assert (old.stat().st_uid, old.stat().st_gid) == (1234, 4321)
        assert old.read_bytes() == NEW

    @both
    def test_extended_attributes(self, old: Path, put: Callable[[Path], None]) -> None:
        """Access control lists are kept as such."""
        try:
            os.setxattr(old, "user.origin", b"somewhere")
        except OSError:
            pytest.skip("no extended attributes here")
        put(old)
        assert old.read_bytes() == NEW
        assert os.getxattr(old, "user.origin") == b"somewhere"

    @both
    def test_every_name(self, old: Path, tmp_path: Path, put: Callable[[Path], None]) -> None:
        """A file with two names has the new contents under both."""
        other = tmp_path / "other"
        other.hardlink_to(old)
        put(old)
        assert other.read_bytes() == NEW
        assert os.path.samefile(old, other)

    @both
    def test_links_to_it(self, old: Path, tmp_path: Path, put: Callable[[Path], None]) -> None:
        """In a row, and from another directory."""
        (tmp_path / "sub").mkdir()
        first = tmp_path / "sub" / "first"
        first.symlink_to("../second")
        (tmp_path / "second").symlink_to(old)
        put(first)
        assert old.read_bytes() == NEW
        assert not old.is_symlink()
        assert sorted(os.listdir(tmp_path)) == ["file", "second", "sub"]
        assert os.listdir(tmp_path / "sub") == ["first"]

    def test_the_file_itself_when_it_is_emptied(self, old: Path) -> None:
        """Processes that append to a log keep their file."""
        with old.open("ab", buffering=0) as log:
            write(old, b"")
            assert old.read_bytes() == b""
            log.write(b"more")
        assert old.read_bytes() == b"more"

    @both
    def test_set_user_id(self, old: Path, put: Callable[[Path], None]) -> None:
        """The kernel decides about the bit, so the file is written in place."""
        old.chmod(0o4755)
        inode = old.stat().st_ino
        put(old)
        assert (old.read_bytes(), old.stat().st_ino) == (NEW, inode)

    @needs_root
    @both
    def test_a_mount_point(self, old: Path, tmp_path: Path, put: Callable[[Path], None]) -> None:
        """A file that another one is mounted on cannot be replaced, but written."""
        mounted = tmp_path / "mounted"
        mounted.write_bytes(b"")
        if subprocess.run(["mount", "--bind", old, mounted], capture_output=True).returncode:
            pytest.skip("cannot mount")
        try:
            put(mounted)
            assert old.read_bytes() == NEW
        finally:
            subprocess.run(["umount", mounted], check=True)
        assert sorted(os.listdir(tmp_path)) == ["file", "mounted"]

    def test_a_deleted_file_that_is_still_open(self, tmp_path: Path) -> None:
        """Reached through /proc."""
        with (tmp_path / "file").open("wb+") as opened:
            (tmp_path / "file").unlink()
            write(Path(f"/proc/self/fd/{opened.fileno()}"))
            assert opened.read() == NEW
        assert os.listdir(tmp_path) == []


class TestRights:
    """Writable files in directories where no file can be created."""

    @pytest.mark.parametrize("directory_mode", [0o555, 0o1777])
    def test_a_directory_that_lets_nothing_be_replaced(self, directory_mode: int) -> None:
        """One without write permission; a sticky one with another user's file."""
        with tempfile.TemporaryDirectory() as root:
            Path(root).chmod(0o755)
            folder = Path(root, "folder")
            folder.mkdir()
            path = folder / "file"
            path.write_bytes(OLD)
            path.chmod(0o666)
            folder.chmod(directory_mode)
            with as_ordinary_user():
                files.write_file(str(path), NEW)
            assert path.read_bytes() == NEW
            assert alone(path)
            folder.chmod(0o755)

    @needs_root
    def test_a_file_that_may_not_be_written(self) -> None:
        """It is not replaced, although its directory is writable."""
        with tempfile.TemporaryDirectory() as root:
            Path(root).chmod(0o777)
            path = Path(root, "file")
            path.write_bytes(OLD)
            path.chmod(0o444)
            with as_ordinary_user(), pytest.raises(PermissionError):
                files.write_file(str(path), NEW)
            assert path.read_bytes() == OLD


@pytest.fixture
def no_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without unnamed files, such as some network file systems."""
    plain = os.open

    def limited(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return plain(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", limited)


@pytest.mark.usefixtures("no_unnamed_files")
class TestWithoutUnnamedFiles:
    """A temporary hidden name is used instead."""

    @both
    def test_old_and_new(self, old: Path, tmp_path: Path, put: Callable[[Path], None]) -> None:
        """No other file remains."""
        put(old)
        put(tmp_path / "new")
        assert old.read_bytes() == (tmp_path / "new").read_bytes() == NEW
        assert sorted(os.listdir(tmp_path)) == ["file", "new"]

    def test_failures(self, old: Path, tmp_path: Path) -> None:
        """No file remains."""
        with largest_file(20_000):
            for path in (old, tmp_path / "new"):
                with pytest.raises(OSError, match="File too large"):
                    write(path)
        assert old.read_bytes() == OLD
        assert alone(old)


@pytest.mark.parametrize("name", ["file", "new", "linked"])
def test_durable_means_that_file_and_directory_reach_the_disk(
    old: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contents before the file gets its name, the name before the response."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "linked").write_bytes(b"")
    (tmp_path / "hidden" / "other").hardlink_to(tmp_path / "linked")
    write(tmp_path / name)
    assert synced == []
    if name == "new":
        (tmp_path / "new").unlink()
    files.write_file(f"{tmp_path}/{name}", OLD, durable=True)
    if name == "linked":
        assert synced == [str(tmp_path / "linked")]
    else:
        assert len(synced) == 2
        assert synced[0].endswith("(deleted)")
        assert synced[1] == str(tmp_path)
