"""Placeholders: shared by those who need them, and gone with the last one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exec_server.engine.sandbox.placeholders import Placeholders
from exec_server.engine.sandbox.view import Mount, Placeholder, View
from exec_server.errors import InvalidRequest


def needing(*paths: Path, is_directory: bool = True) -> View:
    mounts = tuple(Mount("read", str(path)) for path in paths)
    return View(mounts, tuple(Placeholder(str(path), is_directory) for path in paths), ())


@pytest.mark.parametrize("is_directory", [True, False])
def test_they_are_there_while_somebody_holds_them(tmp_path: Path, is_directory: bool) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    view = needing(path, is_directory=is_directory)
    held = [placeholders.hold(view)[0] for _ in range(2)]
    assert path.is_dir() == is_directory
    placeholders.release(held[0])
    assert path.exists()
    placeholders.release(held[1])
    assert not path.exists()


def test_one_that_is_mounted_by_a_later_view_is_kept_for_it(tmp_path: Path) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    first, _ = placeholders.hold(needing(path))
    second, _ = placeholders.hold(View((Mount("read", str(path)),), (), ()))
    placeholders.release(first)
    assert path.exists()
    placeholders.release(second)
    assert not path.exists()


def test_servers_share_them_and_the_last_one_removes_them(tmp_path: Path) -> None:
    one, other, path = Placeholders(), Placeholders(), tmp_path / "x"
    first, _ = one.hold(needing(path))
    second, _ = other.hold(needing(path))
    one.release(first)
    assert path.exists()
    other.release(second)
    assert not path.exists()


def test_what_is_not_theirs_or_not_empty_stays(tmp_path: Path) -> None:
    placeholders, mine, used = Placeholders(), tmp_path / "mine", tmp_path / "used"
    mine.mkdir()
    held, _ = placeholders.hold(needing(mine, used))
    (used / "file").touch()
    placeholders.release(held)
    assert sorted(os.listdir(tmp_path)) == ["mine", "used"]


def test_one_that_nobody_can_make_is_told() -> None:
    placeholders, path = Placeholders(), Path("/sys/x")
    assert placeholders.hold(needing(path)) == ((), frozenset({str(path)}))


def test_one_that_others_may_still_make_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    for path in (tmp_path / "missing/x", tmp_path / "link/x"):
        with pytest.raises(InvalidRequest, match="cannot be kept from being created"):
            Placeholders().hold(needing(path))
    assert os.listdir(tmp_path / "dir") == []


def test_one_whose_directory_was_exchanged_is_left_where_it_is(tmp_path: Path) -> None:
    """And nothing of the same name is removed elsewhere."""
    placeholders = Placeholders()
    (tmp_path / "dir").mkdir()
    held, _ = placeholders.hold(needing(tmp_path / "dir/x"))
    (tmp_path / "dir").rename(tmp_path / "moved")
    (tmp_path / "dir").symlink_to("moved")
    placeholders.release(held)
    assert (tmp_path / "moved/x").is_dir()


def test_one_that_somebody_has_removed_is_made_again(tmp_path: Path) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    first, _ = placeholders.hold(needing(path))
    path.rmdir()
    second, _ = placeholders.hold(needing(path))
    assert path.is_dir()
    placeholders.release(first)
    assert path.is_dir()
    placeholders.release(second)
    assert not path.exists()
