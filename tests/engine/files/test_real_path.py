"""Resolution of symbolic links: results, and linear time."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.files import operations as files
from exec_server.engine.files.real_path import real_path, resolve
from exec_server.engine.files.walk import WalkOptions, walk
from tests.support.growth import assert_grows_linearly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEVELS = (100, 400, 1600)


@pytest.fixture
def deep() -> Iterator[dict[int, str]]:
    """Nested directories by their number of levels, each with some links to itself."""
    with tempfile.TemporaryDirectory() as folder:
        found = {levels: folder + f"/{levels}" + "/d" * levels for levels in LEVELS}
        for path in found.values():
            files.create_directory(path)
            descriptor = os.open(path, os.O_PATH)
            for number in range(10):
                os.symlink(".", str(number), dir_fd=descriptor)
            os.close(descriptor)
        yield found
        for levels in LEVELS:
            files.remove(f"{folder}/{levels}")


def test_time_grows_linearly_with_the_levels_of_a_path(deep: dict[int, str]) -> None:
    assert files.canonicalize(deep[LEVELS[-1]] + "/0").endswith("/d/d")
    assert_grows_linearly(lambda levels: files.canonicalize(deep[levels]), LEVELS)


def test_time_grows_linearly_with_the_levels_of_a_missing_path(deep: dict[int, str]) -> None:
    assert_grows_linearly(lambda levels: resolve(os.fsencode(deep[levels] + "/x")), LEVELS)
    missing = {levels: b"/missing" + b"/d" * levels for levels in LEVELS}
    assert_grows_linearly(lambda levels: resolve(missing[levels]), LEVELS)


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("sub", "sub"),
        ("sub/x/y", "sub/x/y"),
        ("link/x", "sub/x"),
        ("up/x", "x"),
        ("absolute/x", "sub/x"),
        ("dangling/x", "sub/missing/x"),
        ("file/x", "file/x"),
        ("loop/x", "loop/x"),
    ],
)
def test_missing_paths_are_resolved_as_far_as_they_exist(
    tmp_path: Path, path: str, resolved: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").touch()
    for name, target in (
        ("link", "sub"),
        ("up", "sub/.."),
        ("absolute", f"{tmp_path}/sub"),
        ("dangling", "./link/missing"),
        ("loop", "loop"),
    ):
        (tmp_path / name).symlink_to(target)
    assert resolve(os.fsencode(tmp_path / path)) == os.fsencode(tmp_path / resolved)


def test_time_grows_linearly_with_the_levels_of_links(deep: dict[int, str]) -> None:
    options = WalkOptions(64, 10_000, 50_000, follow_directory_symlinks=True)
    assert len(walk(deep[LEVELS[0]], options).entries) == 10
    assert_grows_linearly(lambda levels: walk(deep[levels], options), LEVELS)


@pytest.mark.parametrize("name", [b"gone (deleted)", b"\xff", b"a\nb", b"..."])
def test_unusual_names(tmp_path: Path, name: bytes) -> None:
    folder = os.fsencode(tmp_path)
    os.mkdir(os.path.join(folder, name))
    os.symlink(name, os.path.join(folder, b"link"))
    assert real_path(os.path.join(folder, b"link")) == os.path.join(folder, name)


def test_paths_without_a_real_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name, error in (
        ("missing", FileNotFoundError),
        ("file/x", NotADirectoryError),
        ("loop", OSError),
    ):
        with pytest.raises(error):
            real_path(os.fsencode(tmp_path / name))
