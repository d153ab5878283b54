"""Deny globs: their syntax, the files that match, and the limits of the search."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from exec_server.engine.sandbox import globs
from exec_server.engine.sandbox.glob_patterns import escape
from exec_server.engine.sandbox.globs import find_denied
from exec_server.errors import InvalidRequest
from tests.support.growth import assert_grows_linearly

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a", "sub/a", "sub/deep/a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".git").mkdir()
    return root


def find(patterns: list[str], depth: int | None) -> list[str]:
    return find_denied(patterns, depth, os.path.realpath)


def test_links_match_but_are_not_followed(root: Path) -> None:
    (root / "link").symlink_to("sub")
    assert len(find([f"{root}/**/a"], None)) == 3
    assert find([f"{root}/l*"], None) == [f"{root}/link"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", {"a", "sub", ".git"}),
        ("**/a", {"a", "sub/a", "sub/deep/a"}),
        ("*/a", {"sub/a"}),
        ("sub/**", {"sub/a", "sub/deep"}),
        ("**/d[ef]ep", {"sub/deep"}),
        ("{a,sub/a}", {"a", "sub/a"}),
        (".g?t", {".git"}),
        ("sub", {"sub"}),
        ("**/A", set()),
        ("missing/**", set()),
        ("./sub//../{a,x}{,}", {"a"}),
        ("{sub}/{a,{b,deep}}", {"sub/a", "sub/deep"}),
        ("**/[!a-c]eep", {"sub/deep"}),
        ("**/**/deep/**", {"sub/deep/a"}),
        ("sub/**/**", {"sub/a", "sub/deep"}),
        ("s*/*/**/a", {"sub/deep/a"}),
        ("s**b", {"sub"}),
        (r"\a", {"a"}),
        (r"\*", set()),
        ("**/[]a]", {"a", "sub/a", "sub/deep/a"}),
        ("[a", set()),
    ],
)
def test_patterns_match_files_and_whole_directories(
    root: Path, pattern: str, names: set[str]
) -> None:
    found = find([f"{root}/{pattern}"], None)
    assert {os.path.relpath(path, root) for path in found} == names


@pytest.mark.parametrize(("depth", "count"), [(1, 1), (2, 2), (3, 3), (None, 3)])
def test_the_depth_of_the_search_is_limited(root: Path, depth: int | None, count: int) -> None:
    assert len(find([f"{root}/**/a"], depth)) == count


def test_a_final_double_star_does_not_match_its_own_directory(root: Path) -> None:
    assert find([f"{root}/**/sub/**/sub/**"], None) == []


def test_an_escaped_path_contains_no_wildcards(root: Path) -> None:
    odd = root / "[a]{b,c}*?\\"
    odd.mkdir()
    (odd / "key").touch()
    (root / "a").unlink()
    assert find([f"{escape(str(odd))}/*"], None) == [str(odd / "key")]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("/[z-a]", "the range z-a, which is empty"),
        ("/{a,b", "a { without a }"),
        ("/a}", "a } without a {"),
        ("/a\\", "ends with a backslash"),
        ("/[[:alpha:]]", "a named character class"),
        ("/[a/b]", "a slash between"),
        ("/a\0", "contains a NUL"),
        ("/*/../a", "cannot have `..` after"),
        ("/" + "{" * 17 + "a" + "}" * 17, "more than 16 nested braces"),
        ("/" + "a" * 4096, "at most 4096 bytes, got 4097"),
        ("/" + "{a,b}" * 11, "at most 1024"),
        ("/" + "{a,b}" * 800, "at most 1024"),
        ("/{" + ",".join("abcdefghijklm"[:i] for i in range(1, 13)) * 30 + "}", "65536 characters"),
    ],
)
def test_an_invalid_pattern_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(problem)):
        find([pattern], None)


def test_the_effort_of_the_search_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "MAX_SCANNED", 3)
    with pytest.raises(InvalidRequest, match="more than 3 directory entries"):
        find([f"{root}/**/x"], None)
    monkeypatch.undo()
    monkeypatch.setattr(globs, "MAX_COMPARISONS", 5)
    assert len(find([f"{root}/sub/*"], None)) == 2
    with pytest.raises(InvalidRequest, match="or 5 comparisons"):
        find([f"{root}/**/x"], None)
    monkeypatch.undo()
    monkeypatch.setattr(globs, "MAX_MATCHES", 2)
    with pytest.raises(InvalidRequest, match="match more than 2 files"):
        find([f"{root}/**/a"], None)


def test_paths_longer_than_the_kernel_accepts_are_refused(root: Path) -> None:
    """A sandboxed program can create them, and reach the files in there step by step."""
    name = "d" * 250
    descriptor = os.open(root, os.O_PATH)
    try:
        for _ in range(17):
            os.mkdir(name, dir_fd=descriptor)
            inner = os.open(name, os.O_PATH, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)
    with pytest.raises(InvalidRequest, match="longer than 4096 bytes"):
        find([f"{root}/**/key"], None)
    shutil.rmtree(root / name)


@pytest.mark.parametrize("part", ["**/a/", "**/*a*/", "**/?*a*[ab]/", "{a,b}/**/"])
def test_matching_time_grows_linearly_with_the_pattern(root: Path, part: str) -> None:
    (root / "w" / "/".join("a" * 60)).mkdir(parents=True)
    assert_grows_linearly(lambda count: find([f"{root}/{part * count}x"], None), (2, 4, 8))
