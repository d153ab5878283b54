"""Paths as text: normalising, joining, and the way to the operating system and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec_server.engine import paths
from exec_server.errors import InvalidArgument, InvalidRequest


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("//a///b//", "/a/b"),
        ("/a/./b/.", "/a/b"),
        ("/a/link/..", "/a"),
        ("/..", "/"),
        ("/../../a/..", "/"),
        ("/.hidden/..c/...", "/.hidden/..c/..."),
        ("/a b/ü/\n", "/a b/ü/\n"),
        ("/a\0/../b", "/b"),
        ("/a\udcff/.", "/a\udcff"),
    ],
)
def test_normalizing_is_lexical(path: str, expected: str) -> None:
    """v1 fs/*: dots and slashes go without a look at the file system; ``..`` stops at the root."""
    assert paths.normalize(path) == expected


@pytest.mark.parametrize("path", ["", ".", "a", "./a", "~", "~/a", "file:///a", "C:\\a", " /a"])
def test_only_absolute_paths_are_taken(path: str) -> None:
    """v1 fs/*: anything not starting with a slash is a bad argument, and the message says so."""
    with pytest.raises(InvalidArgument, match="expected an absolute path"):
        paths.normalize(path)


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b.c", "..."])))
def test_normal_form_is_stable_and_clean(components: list[str]) -> None:
    """Normalising twice changes nothing, and no dot or empty component is left."""
    normal = paths.normalize("/" + "/".join(components))
    assert paths.normalize(normal) == normal
    assert normal == "/" or not {"", ".", ".."} & set(normal[1:].split("/"))


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("/a", "b", "/a/b"),
        ("/a/", "b//c/", "/a/b/c"),
        ("/a", "../../..", "/"),
        ("/a", "/b/../c", "/c"),
        ("/a", "", "/a"),
        ("/a", ".", "/a"),
        ("/", "b", "/b"),
        ("/a", "~", "/home/somebody"),
        ("/a", "~/x", "/home/somebody/x"),
        ("/a", "~/../x", "/home/x"),
        ("/a", "~x", "/a/~x"),
        ("/a", "b/~", "/a/b/~"),
        ("/a", "file:///x", "/a/file:/x"),
        ("/a", "b\0", "/a/b\0"),
    ],
)
def test_joining(monkeypatch: pytest.MonkeyPatch, base: str, path: str, expected: str) -> None:
    """v1 fs/join: an absolute path replaces the base, ``~`` is the home directory, text only."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.join(base, path) == expected


@pytest.mark.parametrize("base", ["a", "", "~"])
def test_joining_needs_an_absolute_base(base: str) -> None:
    """v1 fs/join: also when the path alone would do."""
    with pytest.raises(InvalidArgument):
        paths.join(base, "/b")


def test_a_home_that_is_no_absolute_path_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is then a name like any other."""
    monkeypatch.setenv("HOME", "somewhere")
    assert paths.join("/a", "~/x") == "/a/~/x"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", None), ("/a", "/"), ("/a/b/", "/a"), ("/a/..", None), ("//a", "/"), ("/a\0/b", "/a\0")],
)
def test_parent(path: str, expected: str | None) -> None:
    """v1 fs/parent: of the normal form; the root has none."""
    assert paths.parent(path) == expected


def test_parent_needs_an_absolute_path() -> None:
    """v1 fs/parent: a relative path is a bad argument."""
    with pytest.raises(InvalidArgument):
        paths.parent("a/b")


def test_native_paths_are_utf8_and_come_back() -> None:
    """Bytes that are not UTF-8 stand as lone surrogates in between."""
    assert paths.to_native("/ü/./x") == "/ü/x".encode()
    assert paths.from_native(b"/a\xff") == "/a\udcff"
    assert paths.to_native(paths.from_native(b"/a\xff")) == b"/a\xff"


def test_a_nul_stops_a_path_on_its_way_to_the_system() -> None:
    """v1 fs/*: refused with the released servers' words."""
    with pytest.raises(InvalidRequest, match=r"^file name contained an unexpected NUL byte$"):
        paths.to_native("/a\0b")


def test_displayable_text_can_be_sent() -> None:
    """Bytes that are not UTF-8 become U+FFFD."""
    assert paths.displayable("/ü") == "/ü"
    assert paths.displayable("/a\udcff\udcc3") == "/a\ufffd\ufffd"
