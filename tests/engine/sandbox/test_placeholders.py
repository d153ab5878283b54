"""Placeholders: shared by their holders, and removed with the last one."""

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
def test_a_placeholder_exists_while_it_is_held(tmp_path: Path, is_directory: bool) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    view = needing(path, is_directory=is_directory)
    held = [placeholders.acquire(view)[0] for _ in range(2)]
    assert path.is_dir() == is_directory
    placeholders.release(held[0])
    assert path.exists()
    placeholders.release(held[1])
    assert not path.exists()


def test_a_placeholder_is_kept_for_a_later_view_that_mounts_it(tmp_path: Path) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    first, _ = placeholders.acquire(needing(path))
    second, _ = placeholders.acquire(View((Mount("read", str(path)),), (), ()))
    placeholders.release(first)
    assert path.exists()
    placeholders.release(second)
    assert not path.exists()


def test_servers_share_a_placeholder_and_the_last_one_removes_it(tmp_path: Path) -> None:
    one, other, path = Placeholders(), Placeholders(), tmp_path / "x"
    first, _ = one.acquire(needing(path))
    second, _ = other.acquire(needing(path))
    one.release(first)
    assert path.exists()
    other.release(second)
    assert not path.exists()


def test_other_files_and_non_empty_directories_are_kept(tmp_path: Path) -> None:
    placeholders, mine, used = Placeholders(), tmp_path / "mine", tmp_path / "used"
    mine.mkdir()
    held, _ = placeholders.acquire(needing(mine, used))
    (used / "file").touch()
    placeholders.release(held)
    assert sorted(os.listdir(tmp_path)) == ["mine", "used"]


def test_paths_that_cannot_be_created_are_returned() -> None:
    placeholders, path = Placeholders(), Path("/sys/x")
    assert placeholders.acquire(needing(path)) == ((), frozenset({str(path)}))


def test_a_path_that_can_still_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    for path in (tmp_path / "missing/x", tmp_path / "link/x"):
        with pytest.raises(InvalidRequest, match="cannot be kept from being created"):
            Placeholders().acquire(needing(path))
    assert os.listdir(tmp_path / "dir") == []


def test_a_placeholder_whose_directory_was_replaced_is_left_in_place(tmp_path: Path) -> None:
    """No file of the same name is removed elsewhere."""
    placeholders = Placeholders()
    (tmp_path / "dir").mkdir()
    held, _ = placeholders.acquire(needing(tmp_path / "dir/x"))
    (tmp_path / "dir").rename(tmp_path / "moved")
    (tmp_path / "dir").symlink_to("moved")
    placeholders.release(held)
    assert (tmp_path / "moved/x").is_dir()


def test_a_removed_placeholder_is_created_again(tmp_path: Path) -> None:
    placeholders, path = Placeholders(), tmp_path / "x"
    first, _ = placeholders.acquire(needing(path))
    path.rmdir()
    second, _ = placeholders.acquire(needing(path))
    assert path.is_dir()
    placeholders.release(first)
    assert path.is_dir()
    placeholders.release(second)
    assert not path.exists()
