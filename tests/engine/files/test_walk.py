"""Listings of directory trees (v2 fs/walk)."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exec_server.engine import path_uri
from exec_server.engine.files.walk import WalkError, WalkOptions, WalkOutcome, walk
from exec_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


def go(path: Path | str, **options: Any) -> WalkOutcome:
    """Walk with the maximum limits and without following links by default."""
    return walk(
        str(path),
        WalkOptions(
            **{
                "max_depth": 64,
                "max_directories": 10_000,
                "max_entries": 50_000,
                "follow_directory_symlinks": False,
                **options,
            }
        ),
    )


def listed(root: Path, **options: Any) -> list[str]:
    """Return the paths found, relative to the root; directories end in a slash."""
    return shown(root, go(root, **options))


def shown(root: Path, outcome: WalkOutcome) -> list[str]:
    """Return the paths in an outcome, relative to the root; directories end in a slash."""
    return [
        os.path.relpath(path_uri.parse(entry.path), root)
        + {"file": "", "directory": "/"}[entry.kind]
        for entry in outcome.entries
    ]


def make(root: Path, *paths: str) -> Path:
    """Create files, directories (``a/``) and links (``a -> b``) with missing parents."""
    for path in paths:
        name, _, target = path.partition(" -> ")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (root / name).symlink_to(target)
        elif name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(b"")
    return root


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """Run with the rights of an ordinary user; yield a directory of that user."""
    with tempfile.TemporaryDirectory() as root:
        user = os.geteuid()
        if not user:
            os.chown(root, 65534, 65534)
        os.seteuid(user or 65534)
        try:
            yield Path(root)
            for directory, _, _ in os.walk(root, onerror=_open_up):
                os.chmod(directory, 0o700)
        finally:
            os.seteuid(user)


def _open_up(error: OSError) -> None:
    os.chmod(error.filename, 0o700)


class TestOrder:
    """Breadth first, sorted by name."""

    def test_files_and_directories(self, tmp_path: Path) -> None:
        """The root itself is not listed; hidden names are."""
        make(tmp_path, "b/z/deep", "b/y", "a/x", "c", ".h/in", "empty/")
        expected = [".h/", "a/", "b/", "c", "empty/", ".h/in", "a/x", "b/y", "b/z/", "b/z/deep"]
        assert listed(tmp_path) == expected

    def test_names_go_by_their_bytes(self, tmp_path: Path) -> None:
        """Capitals first, then the higher the code point the later."""
        names = ["B", "Z", "_", "a", "é", "\uffee", "😀"]
        assert listed(make(tmp_path, *reversed(names))) == names

    def test_special_files(self, tmp_path: Path) -> None:
        """Special files are omitted."""
        make(tmp_path, "f", "to f -> f", "to d -> .", "dangling -> nowhere", "loop -> loop")
        os.mkfifo(tmp_path / "fifo")
        os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
        assert listed(tmp_path) == ["f"]

    def test_uris_are_canonical(self, tmp_path: Path) -> None:
        """Each names the entry, below a root of any name."""
        make(tmp_path, "a b#%/c?d", "plain/[x]")
        outcome = go(f"{tmp_path}//./")
        prefix = path_uri.format(str(tmp_path))
        assert [(entry.path.removeprefix(prefix), entry.kind) for entry in outcome.entries] == [
            ("/a%20b%23%25", "directory"),
            ("/plain", "directory"),
            ("/a%20b%23%25/c%3Fd", "file"),
            ("/plain/[x]", "file"),
        ]

    def test_the_system_s_root(self) -> None:
        """Its entries have one slash before their names."""
        outcome = go("/", max_depth=0)
        assert {"file:///etc", "file:///proc"} <= {entry.path for entry in outcome.entries}
        assert not [entry for entry in outcome.entries if entry.path.startswith("file:////")]

    def test_ten_thousand_entries(self, tmp_path: Path) -> None:
        """Everything, once."""
        paths = [f"d{n // 100:02}/f{n:04}" for n in range(9_900)]
        make(tmp_path, *paths)
        assert listed(tmp_path) == [f"d{n:02}/" for n in range(99)] + paths


class TestRoots:
    """Roots of different types."""

    @pytest.mark.parametrize("name", ["file", "fifo", "link to file", "link to directory"])
    @pytest.mark.parametrize("follow", [False, True])
    def test_nothing_below(self, tmp_path: Path, name: str, follow: bool) -> None:
        """A file, a special file, or a link to a directory that is not followed."""
        make(tmp_path, "file", "link to file -> file", "link to directory -> dir", "dir/x")
        os.mkfifo(tmp_path / "fifo")
        found = shown(tmp_path, go(tmp_path / name, follow_directory_symlinks=follow))
        assert found == (["link to directory/x"] if follow and "directory" in name else [])

    def test_links_on_the_way_to_the_root(self, tmp_path: Path) -> None:
        """Are always followed."""
        make(tmp_path, "a/b/c", "link -> a")
        assert shown(tmp_path, go(tmp_path / "link" / "b")) == ["link/b/c"]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("missing", errno.ENOENT),
            ("dangling", errno.ENOENT),
            ("loop", errno.ELOOP),
            ("file/x", errno.ENOTDIR),
        ],
    )
    def test_unreachable(self, tmp_path: Path, name: str, expected: int) -> None:
        """The system's error."""
        make(tmp_path, "file", "dangling -> nowhere", "loop -> loop")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is what is looked at
            go(tmp_path / name)
        assert caught.value.errno == expected


class TestLimits:
    """Limits of a walk."""

    @pytest.mark.parametrize(
        ("depth", "found"),
        [
            (0, ["a/"]),
            (1, ["a/", "a/b/", "a/f"]),
            (2, ["a/", "a/b/", "a/f", "a/b/c/"]),
            (64, ["a/", "a/b/", "a/f", "a/b/c/", "a/b/c/g"]),
        ],
    )
    def test_depth(self, tmp_path: Path, depth: int, found: list[str]) -> None:
        """The result is not truncated by the depth."""
        make(tmp_path, "a/b/c/g", "a/f")
        outcome = go(tmp_path, max_depth=depth, max_directories=max(1, depth + 1) if depth else 1)
        assert (shown(tmp_path, outcome), outcome.truncated) == (found, False)

    @pytest.mark.parametrize(
        ("limit", "count", "truncated"),
        [(1, 2, True), (2, 4, True), (3, 5, True), (4, 6, False), (10_000, 6, False)],
    )
    def test_directories(self, tmp_path: Path, limit: int, count: int, truncated: bool) -> None:
        """The root counts; skipped directories are still listed."""
        make(tmp_path, "a/x/f", "a/f", "b/f")
        everything = ["a/", "b/", "a/f", "a/x/", "b/f", "a/x/f"]
        outcome = go(tmp_path, max_directories=limit)
        assert (shown(tmp_path, outcome), outcome.truncated) == (everything[:count], truncated)

    @pytest.mark.parametrize(
        ("limit", "found", "truncated"),
        [
            (1, ["b"], True),
            (2, ["b"], True),
            (3, ["b", "d/"], True),
            (4, ["b", "d/"], True),
            (5, ["b", "d/", "d/f"], False),
        ],
    )
    def test_entries(self, tmp_path: Path, limit: int, found: list[str], truncated: bool) -> None:
        """Every name counts, listed or not, except dangling links."""
        make(tmp_path, "a -> nowhere", "b", "c -> b", "d/f")
        os.mkfifo(tmp_path / "e")
        outcome = go(tmp_path, max_entries=limit)
        assert (shown(tmp_path, outcome), outcome.truncated) == (found, truncated)

    @pytest.mark.parametrize("name", ["max_directories", "max_entries"])
    @pytest.mark.parametrize("path", ["", "missing"])
    def test_too_low(self, tmp_path: Path, name: str, path: str) -> None:
        """Refused before any other check."""
        with pytest.raises(
            InvalidRequest, match=r"^filesystem walk limits must be greater than zero$"
        ):
            go(tmp_path / path, **{"max_depth": 65, name: 0})

    @pytest.mark.parametrize(
        ("name", "value"),
        [("max_depth", 65), ("max_directories", 10_001), ("max_entries", 50_001)],
    )
    def test_too_high(self, tmp_path: Path, name: str, value: int) -> None:
        """Refused; the largest are fine."""
        assert go(tmp_path, **{name: value - 1}) == WalkOutcome([], [], False)
        with pytest.raises(InvalidRequest) as caught:
            go(tmp_path / "missing", **{name: value})
        assert str(caught.value) == (
            "filesystem walk limits exceed maximums: depth=64, directories=10000, entries=50000"
        )

    def test_hidden_directories(self, tmp_path: Path) -> None:
        """They are listed, and optionally not entered; the root may be hidden."""
        root = make(tmp_path / ".root", ".hidden/x", "a/.b/c", "a/.d", ".f").parent / ".root"
        assert listed(root, prune_hidden_directories=True, max_directories=2) == [
            ".f",
            ".hidden/",
            "a/",
            "a/.b/",
            "a/.d",
        ]


class TestFollowing:
    """Links to directories."""

    def test_are_directories(self, tmp_path: Path) -> None:
        """Listed under their own names, like what is below them; links to files are left out."""
        make(tmp_path, "out/x/f", "root/link -> ../out", "root/f -> ../out/x/f")
        assert listed(tmp_path / "root", follow_directory_symlinks=True) == [
            "link/",
            "link/x/",
            "link/x/f",
        ]

    def test_each_directory_once(self, tmp_path: Path) -> None:
        """Under the first name; a link to a parent directory is not entered."""
        make(tmp_path, "A -> b", "b/f", "b/up -> ..", "c -> b/", "d/same -> ../b")
        outcome = go(tmp_path, follow_directory_symlinks=True, max_directories=3)
        assert shown(tmp_path, outcome) == [
            "A/",
            "b/",
            "c/",
            "d/",
            "A/f",
            "A/up/",
            "d/same/",
        ]
        assert not outcome.truncated

    def test_dangling_links(self, tmp_path: Path) -> None:
        """Are no errors."""
        make(tmp_path, "dangling -> nowhere", "loop -> loop", "below file -> f/x", "f")
        outcome = go(tmp_path, follow_directory_symlinks=True)
        assert (shown(tmp_path, outcome), outcome.errors) == (["f"], [])


class TestErrors:
    """Entries that cannot be examined do not end the walk."""

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        """Reported with U+FFFD; they count."""
        make(tmp_path, "a", "😀", "\udcffd/x")
        uri = f"{path_uri.format(str(tmp_path))}/%EF%BF%BDd"
        outcome = go(tmp_path)
        assert shown(tmp_path, outcome) == ["a", "😀"]
        assert outcome.errors == [WalkError(uri, errno.ENOENT)]
        assert not outcome.truncated
        cut = go(tmp_path, max_entries=2)
        assert (shown(tmp_path, cut), len(cut.errors), cut.truncated) == (["a"], 1, True)
        below = go(f"{tmp_path}/\udcffd")
        assert [entry.path for entry in below.entries] == [f"{uri[:-10]}%FFd/x"]

    def test_a_directory_that_may_not_be_read(self) -> None:
        """Is listed, and an error; also as the root."""
        with ordinary_user() as root:
            make(root, "closed/f", "open/f")
            (root / "closed").chmod(0o300)
            error = WalkError(path_uri.format(f"{root}/closed"), errno.EACCES)
            outcome = go(root)
            assert shown(root, outcome) == ["closed/", "open/", "open/f"]
            assert outcome.errors == [error]
            assert go(root / "closed") == WalkOutcome([], [error], False)

    def test_a_directory_that_may_not_be_searched(self) -> None:
        """Each of its entries is an error."""
        with ordinary_user() as root:
            make(root, "closed/d/", "closed/f", "closed/link -> f", "open")
            (root / "closed").chmod(0o600)
            outcome = go(root)
            assert shown(root, outcome) == ["closed/", "open"]
            assert outcome.errors == [
                WalkError(path_uri.format(f"{root}/closed/{name}"), errno.EACCES)
                for name in ("d", "f")
            ]
            with pytest.raises(PermissionError):
                go(root / "closed" / "d")


def test_a_listing_beyond_the_limit_is_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any directory."""
    (tmp_path / "sub").mkdir()
    for number in range(40):
        (tmp_path / f"{number:02}").touch()
        (tmp_path / "sub" / f"{number:02}").touch()
    size = 60 * (64 + len(str(tmp_path)) + 10)
    monkeypatch.setattr("exec_server.engine.files.walk.LISTING_BYTES", size)
    outcome = go(tmp_path)
    assert outcome.truncated
    assert 41 < len(outcome.entries) < 81
    monkeypatch.setattr("exec_server.engine.files.walk.LISTING_BYTES", 70 * 10)
    outcome = go(tmp_path)
    assert outcome.truncated
    assert len(outcome.entries) < 41
