"""File operations that pass through no symbolic link (v2 fs/*, ``followSymlinks: false``), and
reading regular files only (v2 fs/readFile)."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.files import operations as files
from exec_server.errors import InvalidRequest, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    umask = os.umask(0o022)
    yield
    os.umask(umask)
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files, directories, and links of every kind to them."""
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "file").write_bytes(b"inner")
    (tmp_path / "file").write_bytes(b"outer")
    for link, target in [
        ("to file", "file"),
        ("to dir", "dir"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
    ]:
        (tmp_path / link).symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


LINKS = ["to file", "to dir", "dangling", "loop"]


def failure(operation: Callable[..., object], *arguments: Any, **options: Any) -> object:
    """The errno or the words with which an operation fails; None if it does not."""
    try:
        operation(*arguments, **options)
    except OSError as error:
        return error.errno
    except (InvalidRequest, OperationFailed) as error:
        return type(error), str(error)
    return None


OPERATIONS: dict[str, Callable[[str], object]] = {
    "read": lambda path: files.read_file(path, follow_symlinks=False),
    "open": lambda path: files.open_for_read(path, follow_symlinks=False),
    "write": lambda path: files.write_file(path, b"new", follow_symlinks=False),
    "create": lambda path: files.create_directory(path, follow_symlinks=False),
    "create one": lambda path: files.create_directory(path, False, follow_symlinks=False),
    "describe": lambda path: files.get_metadata(path, follow_symlinks=False),
    "remove": lambda path: files.remove(path, False, True, follow_symlinks=False),
}

IS_LINK = (InvalidRequest, "path contains a symbolic link")
NOT_REGULAR = (InvalidRequest, "path is not a regular file")

FINAL_LINK: dict[str, object] = {
    "read": errno.ELOOP,
    "open": errno.ELOOP,
    "write": errno.ELOOP,
    "create": errno.ENOTDIR,
    "create one": errno.EEXIST,
    "describe": IS_LINK,
    "remove": IS_LINK,
}


class TestLinks:
    """A link anywhere in the path is refused, and nothing changes."""

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_at_the_end(self, tree: Path, name: str) -> None:
        """Each operation in its own way, whatever the link leads to; a slash after it or not."""
        for link in LINKS:
            assert failure(OPERATIONS[name], f"{tree}/{link}") == FINAL_LINK[name]
            assert failure(OPERATIONS[name], f"{tree}/{link}/") == FINAL_LINK[name]
            assert (tree / link).is_symlink()
        assert (tree / "file").read_bytes() == b"outer"
        assert not (tree / "nowhere").exists()

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize(
        "path", ["to dir/file", "to dir/sub", "to dir/new", "to dir/new/x", "loop/x", "dangling/x"]
    )
    def test_before_the_end(self, tree: Path, name: str, path: str) -> None:
        """ENOTDIR, as below a file."""
        before = sorted(os.walk(tree))
        assert failure(OPERATIONS[name], f"{tree}/{path}") == errno.ENOTDIR
        assert failure(OPERATIONS[name], f"{tree}/file/x") == errno.ENOTDIR
        assert sorted(os.walk(tree)) == before
        assert (tree / "dir" / "file").read_bytes() == b"inner"

    def test_one_that_the_text_takes_away_is_none(self, tree: Path) -> None:
        """Dots are resolved first."""
        assert files.read_file(f"{tree}/to dir/../file", follow_symlinks=False) == b"outer"

    def test_one_put_there_meanwhile_is_not_followed(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A directory is replaced by a link immediately before the file is opened:
        the file is that of the directory, nothing outside is read."""
        (tree / "safe").mkdir()
        (tree / "safe" / "file").write_bytes(b"safe")
        really_open = os.open

        def exchange_and_open(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            if bytes(path).endswith(b"file"):
                (tree / "safe").rename(tree / "away")
                (tree / "safe").symlink_to("dir")
            return really_open(path, flags, mode, **options)

        monkeypatch.setattr(os, "open", exchange_and_open)
        assert files.read_file(f"{tree}/safe/file", follow_symlinks=False) == b"safe"
        monkeypatch.undo()
        assert files.read_file(f"{tree}/safe/file") == b"inner"


class TestRoot:
    """The root is in no directory."""

    def test_only_describing_and_creating_make_sense(self) -> None:
        """Everything else wants an entry."""
        entry = (InvalidRequest, "path must name an entry")
        outcomes = {name: failure(operation, "/..") for name, operation in OPERATIONS.items()}
        assert outcomes == {
            "read": entry,
            "open": entry,
            "write": entry,
            "create": None,
            "create one": (OperationFailed, "directory already exists"),
            "describe": None,
            "remove": entry,
        }
        assert files.get_metadata("/", follow_symlinks=False).is_directory


class TestWithoutLinks:
    """Operations on paths without links."""

    def test_missing(self, tree: Path) -> None:
        """ENOENT where something has to exist."""
        for name in ("read", "describe"):
            assert failure(OPERATIONS[name], f"{tree}/missing") == errno.ENOENT
        for name in ("read", "describe", "write", "create one"):
            assert failure(OPERATIONS[name], f"{tree}/missing/x") == errno.ENOENT

    def test_reading(self, tree: Path) -> None:
        """Regular files."""
        assert files.read_file(f"{tree}/dir/file", follow_symlinks=False) == b"inner"
        for path in (f"{tree}/dir", f"{tree}/fifo", "/dev/null", "/dev/zero"):
            assert failure(OPERATIONS["read"], path) == NOT_REGULAR

    def test_writing(self, tree: Path) -> None:
        """A new file, an old one that keeps its mode, and nothing but regular files."""
        (tree / "file").chmod(0o751)
        for name, mode in [("file", 0o751), ("new", 0o644)]:
            assert files.write_file(f"{tree}/{name}", b"new", follow_symlinks=False) is None
            assert (tree / name).read_bytes() == b"new"
            assert stat.S_IMODE((tree / name).stat().st_mode) == mode
        assert failure(OPERATIONS["write"], f"{tree}/dir") == errno.EISDIR
        assert failure(OPERATIONS["write"], f"{tree}/fifo") == errno.ENXIO
        assert failure(OPERATIONS["write"], "/dev/null") == NOT_REGULAR

    def test_creating_directories(self, tree: Path) -> None:
        """With what is missing above, or one alone."""
        files.create_directory(f"{tree}/new/a/b", follow_symlinks=False)
        files.create_directory(f"{tree}/new/a", follow_symlinks=False)
        files.create_directory(f"{tree}/new/c", False, follow_symlinks=False)
        assert sorted(os.listdir(tree / "new")) == ["a", "c"]
        assert os.listdir(tree / "new" / "a") == ["b"]
        assert stat.S_IMODE((tree / "new" / "a").stat().st_mode) == 0o755
        for name in ("file", "fifo"):
            assert failure(OPERATIONS["create"], f"{tree}/{name}") == errno.ENOTDIR
            assert failure(OPERATIONS["create one"], f"{tree}/{name}") == errno.EEXIST
        assert failure(OPERATIONS["create one"], f"{tree}/dir") == errno.EEXIST

    def test_describing(self, tree: Path) -> None:
        """As with links followed, and the birth time too."""
        earliest = time.time_ns() // 1_000_000
        (tree / "fresh").write_bytes(b"12345")
        os.utime(tree / "fresh", ns=(0, 1_000_000_000))
        latest = time.time_ns() // 1_000_000
        found = files.get_metadata(f"{tree}/fresh", follow_symlinks=False)
        assert (found.is_directory, found.is_file, found.is_symlink) == (False, True, False)
        assert found.size == 5
        assert found.modified_at_ms == 1_000
        # 0 where the file system keeps none; its clock may be one tick behind.
        assert found.created_at_ms == 0 or earliest - 20 <= found.created_at_ms <= latest
        fifo = files.get_metadata(f"{tree}/fifo", follow_symlinks=False)
        assert not any((fifo.is_directory, fifo.is_file, fifo.is_symlink))

    def test_removing(self, tree: Path) -> None:
        """Files, FIFOs and empty directories; missing ones are fine with force only."""
        for name in ("file", "fifo", "dir/sub", "missing", "missing/x"):
            files.remove(f"{tree}/{name}", False, True, follow_symlinks=False)
            assert not os.path.lexists(tree / name)
            assert (
                failure(files.remove, f"{tree}/{name}", False, False, follow_symlinks=False)
                == errno.ENOENT
            )
        assert failure(OPERATIONS["remove"], f"{tree}/dir") == errno.ENOTEMPTY

    @pytest.mark.parametrize("name", ["file", "to file", "dir", "missing"])
    def test_removing_recursively_is_not_offered(self, tree: Path, name: str) -> None:
        """For any path, and the path is kept."""
        before = os.listdir(tree)
        assert failure(files.remove, f"{tree}/{name}", follow_symlinks=False) == (
            OperationFailed,
            "recursive no-follow removal is unsupported",
        )
        assert os.listdir(tree) == before


class TestRegularOnly:
    """v2 fs/readFile with links followed."""

    def test_files_and_links_to_them(self, tree: Path) -> None:
        """Files that say nothing of their size, too."""
        assert files.read_file(f"{tree}/to file", regular_only=True) == b"outer"
        assert files.read_file(f"{tree}/to dir/file", regular_only=True) == b"inner"
        assert b"Pid:" in files.read_file("/proc/self/status", regular_only=True)

    @pytest.mark.parametrize("name", ["dir", "to dir", "fifo", "to dir/../dir/", "/", "/dev/zero"])
    def test_anything_else_is_refused_at_once(self, tree: Path, name: str) -> None:
        """With words that name the native path, without ever waiting for a writer."""
        path = os.path.join(tree, name)
        with pytest.raises(InvalidRequest) as caught:
            files.open_for_read(path, regular_only=True)
        assert str(caught.value) == f"path `{os.path.normpath(path)}` is not a file"

    def test_paths_that_cannot_be_opened(self, tree: Path) -> None:
        """The error of the system."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{tree}/socket")
        for name, expected in [
            ("socket", errno.ENXIO),
            ("missing", errno.ENOENT),
            ("dangling", errno.ENOENT),
            ("loop", errno.ELOOP),
            ("file/x", errno.ENOTDIR),
        ]:
            assert failure(files.read_file, f"{tree}/{name}", regular_only=True) == expected

    def test_the_name_is_shown_as_text(self, tmp_path: Path) -> None:
        """Even if it is none."""
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
        with pytest.raises(InvalidRequest, match="/\ufffd` is not a file"):
            files.read_file(f"{tmp_path}/\udcff", regular_only=True)
