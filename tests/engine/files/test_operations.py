"""Files and directories: writing, describing, listing, creating, removing (v1 fs/*)."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine.files import operations as files
from exec_server.engine.memory_budget import MemoryBudget
from exec_server.errors import InvalidArgument, InvalidRequest
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def failure(operation: Callable[..., object], *arguments: Any, **options: Any) -> int | None:
    """The errno with which an operation fails; None if it does not."""
    try:
        operation(*arguments, **options)
    except OSError as error:
        return error.errno
    return None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_loop(folder: Path) -> str:
    """A symbolic link to itself."""
    loop = folder / "loop"
    loop.symlink_to("loop")
    return str(loop)


def make_socket(path: Path) -> str:
    """A Unix socket without a listener."""
    os.mknod(path, stat.S_IFSOCK | 0o600)
    return str(path)


OPERATIONS: dict[str, Callable[[str], object]] = {
    "open_for_read": files.open_for_read,
    "read_file": files.read_file,
    "write_file": lambda path: files.write_file(path, b""),
    "create_directory": files.create_directory,
    "get_metadata": files.get_metadata,
    "read_directory": files.read_directory,
    "remove": files.remove,
    "canonicalize": files.canonicalize,
    "copy from": lambda path: files.copy(path, "/nowhere/x", True),
    "copy to": lambda path: files.copy("/nowhere/x", path, True),
}


class TestPaths:
    """Handling of paths by all operations."""

    @pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
    @pytest.mark.parametrize("path", ["", "a", "~", "~/a", "file:///a", "./a"])
    def test_a_path_that_is_not_absolute_is_a_bad_argument(
        self, operation: Callable[[str], object], path: str
    ) -> None:
        """Common to v1 fs/*."""
        with pytest.raises(InvalidArgument, match="absolute path"):
            operation(path)

    @pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
    def test_a_nul_is_a_bad_request(self, operation: Callable[[str], object]) -> None:
        """Common to v1 fs/*."""
        with pytest.raises(InvalidRequest, match="unexpected NUL byte"):
            operation("/a\0b")

    def test_dots_are_taken_away_before_links_are_followed(self, tmp_path: Path) -> None:
        """``link/..`` is where the link is, not the parent of what it leads to."""
        (tmp_path / "inner" / "deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to("inner/deep")
        (tmp_path / "file").write_bytes(b"outer")
        (tmp_path / "inner" / "file").write_bytes(b"inner")
        assert files.read_file(f"{tmp_path}/link/../file") == b"outer"

    def test_a_trailing_slash_is_ignored(self, tmp_path: Path) -> None:
        """On a file and on a link too."""
        (tmp_path / "file").write_bytes(b"x")
        (tmp_path / "link").symlink_to("file")
        assert files.read_file(f"{tmp_path}/file/") == b"x"
        assert files.get_metadata(f"{tmp_path}/link/").is_symlink

    def test_names_are_utf8_whatever_the_locale(self, tmp_path: Path) -> None:
        """A client's text always names the same file."""
        files.write_file(f"{tmp_path}/ü☃", b"x")
        assert os.listdir(os.fsencode(tmp_path)) == ["ü☃".encode()]


class TestErrors:
    """The errno is the answer: the edge maps it to a code and a text."""

    @pytest.mark.parametrize(
        "name", ["read_file", "get_metadata", "read_directory", "canonicalize", "copy from"]
    )
    def test_a_missing_path(self, tmp_path: Path, name: str) -> None:
        """ENOENT, also for a dangling link where links are followed."""
        (tmp_path / "dangling").symlink_to("nowhere")
        assert failure(OPERATIONS[name], f"{tmp_path}/missing") == errno.ENOENT
        if name != "copy from":
            assert failure(OPERATIONS[name], f"{tmp_path}/dangling") == errno.ENOENT

    @pytest.mark.parametrize(
        "name", [name for name in OPERATIONS if name not in ("create_directory", "copy to")]
    )
    def test_a_path_below_a_file(self, tmp_path: Path, name: str) -> None:
        """ENOTDIR; for removing too, even though ``force`` is the default."""
        (tmp_path / "file").write_bytes(b"")
        assert failure(OPERATIONS[name], f"{tmp_path}/file/x") == errno.ENOTDIR

    @pytest.mark.parametrize(
        "name", ["read_file", "write_file", "get_metadata", "read_directory", "canonicalize"]
    )
    def test_a_looping_link(self, tmp_path: Path, name: str) -> None:
        """ELOOP."""
        assert failure(OPERATIONS[name], make_loop(tmp_path)) == errno.ELOOP

    @pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "copy to"])
    def test_a_name_too_long(self, tmp_path: Path, name: str) -> None:
        """ENAMETOOLONG."""
        assert failure(OPERATIONS[name], f"{tmp_path}/{'x' * 256}") == errno.ENAMETOOLONG

    def test_no_permission(self) -> None:
        """EACCES for every operation without search permission."""
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, "closed")
            folder.mkdir()
            (folder / "file").write_bytes(b"x")
            folder.chmod(0)
            user = os.geteuid()
            os.seteuid(user or 65534)
            try:
                seen = {
                    name: failure(operation, f"{folder}/file")
                    for name, operation in OPERATIONS.items()
                    if name != "copy to"
                }
            finally:
                os.seteuid(user)
                folder.chmod(0o700)
        assert seen == dict.fromkeys(seen, errno.EACCES)


class TestWriteFile:
    """v1 fs/writeFile."""

    def test_creates_with_default_permissions(self, tmp_path: Path) -> None:
        """0666 less the umask."""
        assert files.write_file(f"{tmp_path}/new", b"data") is None
        assert (tmp_path / "new").read_bytes() == b"data"
        assert mode(tmp_path / "new") == 0o644

    def test_replaces_the_contents_and_keeps_the_mode(self, tmp_path: Path) -> None:
        """Shorter contents leave nothing of the longer ones."""
        path = tmp_path / "old"
        path.write_bytes(b"something long")
        path.chmod(0o751)
        files.write_file(str(path), b"new")
        assert (path.read_bytes(), mode(path)) == (b"new", 0o751)

    def test_follows_links(self, tmp_path: Path) -> None:
        """To an existing target, and to one that is created thereby."""
        (tmp_path / "target").write_bytes(b"old")
        (tmp_path / "link").symlink_to("target")
        (tmp_path / "dangling").symlink_to("created")
        files.write_file(f"{tmp_path}/link", b"new")
        files.write_file(f"{tmp_path}/dangling", b"made")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == b"new"
        assert (tmp_path / "created").read_bytes() == b"made"

    @pytest.mark.parametrize("size", [0, 1, 65536, 3 * 1024 * 1024 + 1])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_size_and_kind_of_buffer(
        self, tmp_path: Path, size: int, kind: Callable[[bytes], Any]
    ) -> None:
        """Everything arrives."""
        data = os.urandom(1024) * (size // 1024) + b"x" * (size % 1024)
        files.write_file(f"{tmp_path}/file", kind(data))
        assert (tmp_path / "file").read_bytes() == data

    def test_files_that_cannot_be_written(self, tmp_path: Path) -> None:
        """A directory, a missing parent, a socket, a full device."""
        assert failure(files.write_file, str(tmp_path), b"") == errno.EISDIR
        assert failure(files.write_file, f"{tmp_path}/no/file", b"") == errno.ENOENT
        assert failure(files.write_file, make_socket(tmp_path / "s"), b"") == errno.ENXIO
        assert failure(files.write_file, "/dev/full", b"x") == errno.ENOSPC
        assert files.write_file("/dev/null", b"x") is None

    def test_a_fifo_without_a_reader_is_an_error(self, tmp_path: Path) -> None:
        """Waiting for a reader would hold up everybody."""
        os.mkfifo(tmp_path / "fifo")
        assert failure(files.write_file, f"{tmp_path}/fifo", b"x") == errno.ENXIO

    def test_a_fifo_is_written_as_its_reader_takes_it(self, tmp_path: Path) -> None:
        """More than the pipe holds is left to await."""
        data = os.urandom(1024) * 1024
        fifo = str(tmp_path / "fifo")
        os.mkfifo(fifo)

        async def write_and_read() -> bytes:
            source = files.open_for_read(fifo)
            pending = files.write_file(fifo, data)
            assert pending is not None
            await asyncio.gather(pending.finish(), source.load(MemoryBudget()))
            pieces = iter(lambda: source.read(1 << 17), b"")
            return b"".join(pieces)

        assert asyncio.run(asyncio.wait_for(write_and_read(), PATIENCE)) == data

    def test_a_fifo_whose_reader_goes_away(self, tmp_path: Path) -> None:
        """EPIPE, and the descriptor is closed."""
        fifo = str(tmp_path / "fifo")
        os.mkfifo(fifo)

        async def write() -> None:
            source = files.open_for_read(fifo)
            pending = files.write_file(fifo, bytes(1 << 20))
            assert pending is not None
            finishing = asyncio.create_task(pending.finish())
            await asyncio.sleep(0)
            source.close()
            await finishing

        before = os.listdir("/proc/self/fd")
        with pytest.raises(BrokenPipeError):
            asyncio.run(asyncio.wait_for(write(), PATIENCE))
        assert os.listdir("/proc/self/fd") == before


class TestCreateDirectory:
    """v1 fs/createDirectory."""

    def test_recursive_creates_missing_parents(self, tmp_path: Path) -> None:
        """With default permissions; doing it again is fine, also through a link."""
        files.create_directory(f"{tmp_path}/a/b/c")
        (tmp_path / "link").symlink_to("a")
        for path in ("a", "a/b/c", "link", "link/b", "link/../a"):
            files.create_directory(f"{tmp_path}/{path}", recursive=True)
        assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b" / "c") == 0o755
        files.create_directory("/")

    def test_not_recursive(self, tmp_path: Path) -> None:
        """Neither a missing parent nor anything existing."""
        files.create_directory(f"{tmp_path}/a", recursive=False)
        assert (tmp_path / "a").is_dir()
        for path, expected in [("a", errno.EEXIST), ("no/x", errno.ENOENT)]:
            assert failure(files.create_directory, f"{tmp_path}/{path}", False) == expected
        assert failure(files.create_directory, "/", recursive=False) == errno.EEXIST

    @pytest.mark.parametrize("recursive", [True, False])
    def test_something_else_is_in_the_way(self, tmp_path: Path, recursive: bool) -> None:
        """EEXIST over a file or a link that leads to no directory, ENOTDIR below a file."""
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "dangling").symlink_to("nowhere")
        for path in (f"{tmp_path}/file", f"{tmp_path}/dangling", make_loop(tmp_path)):
            assert failure(files.create_directory, path, recursive) == errno.EEXIST
        assert failure(files.create_directory, f"{tmp_path}/file/x", recursive) == errno.ENOTDIR

    def test_very_deep(self, tmp_path: Path) -> None:
        """As deep as a path can be written."""
        path = f"{tmp_path}" + "/d" * 1800
        files.create_directory(path)
        assert files.get_metadata(path).is_directory
        files.remove(f"{tmp_path}/d")
        assert os.listdir(tmp_path) == []


class TestGetMetadata:
    """v1 fs/getMetadata."""

    def test_kinds(self, tmp_path: Path) -> None:
        """Of a link's target, and whether it is a link; special files are of no kind."""
        (tmp_path / "file").write_bytes(b"12345")
        (tmp_path / "to file").symlink_to("file")
        (tmp_path / "to dir").symlink_to(".")
        os.mkfifo(tmp_path / "fifo")
        make_socket(tmp_path / "socket")

        def kinds(path: str) -> tuple[bool, bool, bool]:
            found = files.get_metadata(path)
            return found.is_directory, found.is_file, found.is_symlink

        assert kinds(f"{tmp_path}") == (True, False, False)
        assert kinds(f"{tmp_path}/file") == (False, True, False)
        assert kinds(f"{tmp_path}/to file") == (False, True, True)
        assert kinds(f"{tmp_path}/to dir") == (True, False, True)
        for path in (f"{tmp_path}/fifo", f"{tmp_path}/socket", "/dev/null"):
            assert kinds(path) == (False, False, False)
        assert files.get_metadata(f"{tmp_path}/to file").size == 5

    @pytest.mark.parametrize(
        ("nanoseconds", "milliseconds"),
        [
            (0, 0),
            (1_999_999_999, 1_999),
            (1_700_000_000_123_999_999, 1_700_000_000_123),
            (-1_000_500_000_000, 0),
        ],
    )
    def test_times(self, tmp_path: Path, nanoseconds: int, milliseconds: int) -> None:
        """Whole milliseconds of the target, rounded down, nothing before 1970; no birth time."""
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "link").symlink_to("file")
        os.utime(tmp_path / "file", ns=(0, nanoseconds))
        metadata = files.get_metadata(f"{tmp_path}/link")
        assert (metadata.modified_at_ms, metadata.created_at_ms) == (milliseconds, 0)


class TestReadDirectory:
    """v1 fs/readDirectory."""

    def test_entries(self, tmp_path: Path) -> None:
        """Including hidden names; types are those of link targets; dangling links are omitted."""
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / ".hidden").mkdir()
        (tmp_path / "to file").symlink_to("file")
        (tmp_path / "to dir").symlink_to(".hidden")
        (tmp_path / "dangling").symlink_to("nowhere")
        make_loop(tmp_path)
        os.mkfifo(tmp_path / "fifo")
        os.mkfifo(tmp_path / "other fifo")
        (tmp_path / "to fifo").symlink_to("fifo")
        make_socket(tmp_path / "socket")
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xffb\xc3")).write_bytes(b"")
        found = {
            entry.file_name: (entry.is_directory, entry.is_file)
            for entry in files.read_directory(str(tmp_path))
        }
        assert found == {
            "file": (False, True),
            ".hidden": (True, False),
            "to file": (False, True),
            "to dir": (True, False),
            "fifo": (False, False),
            "other fifo": (False, False),
            "to fifo": (False, False),
            "socket": (False, False),
            "a\ufffdb\ufffd": (False, True),
        }

    def test_an_empty_directory_and_a_link_to_one(self, tmp_path: Path) -> None:
        """No entries, not even ``.``."""
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("empty")
        assert files.read_directory(f"{tmp_path}/link") == []

    def test_paths_other_than_directories(self, tmp_path: Path) -> None:
        """ENOTDIR."""
        (tmp_path / "file").write_bytes(b"")
        os.mkfifo(tmp_path / "fifo")
        assert failure(files.read_directory, f"{tmp_path}/file") == errno.ENOTDIR
        assert failure(files.read_directory, f"{tmp_path}/fifo") == errno.ENOTDIR

    def test_ten_thousand_entries(self, tmp_path: Path) -> None:
        """All of them, once."""
        for number in range(10_000):
            os.close(os.open(tmp_path / f"{number}", os.O_CREAT))
        entries = files.read_directory(str(tmp_path))
        assert sorted(entry.file_name for entry in entries) == sorted(map(str, range(10_000)))
        assert all(entry.is_file for entry in entries)


class TestRemove:
    """v1 fs/remove."""

    def test_a_whole_tree_by_default(self, tmp_path: Path) -> None:
        """Targets of links in it are kept."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_bytes(b"x")
        tree = tmp_path / "tree"
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "empty").mkdir()
        (tree / "a" / "b" / "file").write_bytes(b"")
        (tree / "a" / "link").symlink_to(outside)
        (tree / "dangling").symlink_to("nowhere")
        os.mkfifo(tree / "fifo")
        Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).write_bytes(b"")
        files.remove(str(tree))
        assert os.listdir(tmp_path) == ["outside"]
        assert os.listdir(outside) == ["kept"]

    def test_links_go_themselves(self, tmp_path: Path) -> None:
        """To a directory, a file, nowhere or themselves; with a trailing slash too."""
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir" / "file").write_bytes(b"")
        for name, target in [("1", "dir"), ("2", "dir/file"), ("3", "nowhere"), ("4", "4")]:
            (tmp_path / name).symlink_to(target)
            files.remove(f"{tmp_path}/{name}/", recursive=name != "1")
        assert os.listdir(tmp_path) == ["dir"]
        assert os.listdir(tmp_path / "dir") == ["file"]

    def test_not_recursive(self, tmp_path: Path) -> None:
        """Files and empty directories only."""
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir" / "file").write_bytes(b"")
        assert failure(files.remove, f"{tmp_path}/dir", recursive=False) == errno.ENOTEMPTY
        files.remove(f"{tmp_path}/dir/file", recursive=False)
        files.remove(f"{tmp_path}/dir", recursive=False)
        assert os.listdir(tmp_path) == []

    def test_missing_paths(self, tmp_path: Path) -> None:
        """Fine by default, also below missing parents; ENOENT without force."""
        for path in ("missing", "missing/too"):
            files.remove(f"{tmp_path}/{path}")
            assert failure(files.remove, f"{tmp_path}/{path}", force=False) == errno.ENOENT

    def test_the_root_stays(self) -> None:
        """In any spelling."""
        for path in ("/", "/..", "//"):
            with pytest.raises(InvalidRequest, match="root"):
                files.remove(path)
        assert failure(files.remove, "/", recursive=False) in (errno.EBUSY, errno.ENOTEMPTY)

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        """After success and after failure."""
        before = os.listdir("/proc/self/fd")
        (tmp_path / "a" / "b").mkdir(parents=True)
        files.remove(f"{tmp_path}/a")
        failure(files.remove, "/proc/self")
        assert os.listdir("/proc/self/fd") == before


class TestCanonicalize:
    """v1 fs/canonicalize."""

    def test_links_are_resolved(self, tmp_path: Path) -> None:
        """In every component, after the lexical part."""
        real = tmp_path / "real"
        (real / "dir").mkdir(parents=True)
        (tmp_path / "link").symlink_to("real")
        (real / "back").symlink_to("../link/dir")
        base = files.canonicalize(str(tmp_path))
        assert files.canonicalize(f"{tmp_path}/link/back/") == f"{base}/real/dir"
        assert files.canonicalize(f"{tmp_path}/link/../real") == f"{base}/real"
        assert files.canonicalize("/..") == "/"

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        """Comes back as a path of the engine, and can be shown."""
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")
        (tmp_path / "link").symlink_to(os.fsdecode(b"\xff"))
        path = files.canonicalize(f"{tmp_path}/link")
        assert path.endswith("/\udcff")
        assert files.displayable(path).endswith("/\ufffd")
        assert files.get_metadata(path).is_directory


def test_a_listing_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial listing would be taken for a complete one."""
    for number in range(20):
        (tmp_path / f"{number:036}").touch()
    monkeypatch.setattr("exec_server.engine.files.listing.LISTING_BYTES", 2000)
    assert len(files.read_directory(str(tmp_path))) == 20
    (tmp_path / "one more").touch()
    with pytest.raises(InvalidRequest, match=r"^the directory has too many entries to be listed"):
        files.read_directory(str(tmp_path))
