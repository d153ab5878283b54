"""What a policy comes to: which mounts, in which order, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from exec_server.engine.sandbox import globs
from exec_server.engine.sandbox import grants as grants_module
from exec_server.engine.sandbox import view as view_module
from exec_server.engine.sandbox.globs import escape, find_denied
from exec_server.engine.sandbox.grants import Grants
from exec_server.engine.sandbox.policy import Access, Places, Rule, SandboxPolicy
from exec_server.engine.sandbox.sources import Snapshot
from exec_server.engine.sandbox.view import PROTECTED_NAMES, Placeholder, Purpose, View, plan_view
from exec_server.errors import InvalidArgument, InvalidRequest
from tests.support.growth import assert_grows_linearly
from tests.support.sandbox_harness import READ_ALL, denied, readable, writable


@pytest.fixture(autouse=True)
def grants(monkeypatch: pytest.MonkeyPatch) -> Grants:
    """No sandbox has been able to write anything yet."""
    grants = Grants()
    monkeypatch.setattr(view_module, "GRANTS", grants)
    return grants


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with files, and everything in it that is protected by its name."""
    root = tmp_path / "root"
    for name in ("a", "sub/a", "sub/deep/a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in PROTECTED_NAMES:
        (root / name).mkdir()
    return root


def plan(*rules: Rule, patterns: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> View:
    return plan_view(SandboxPolicy(rules, patterns), needs)


def find(patterns: list[str], depth: int | None) -> list[str]:
    return find_denied(patterns, depth, os.path.realpath)


def below(view: View, root: Path) -> list[tuple[str, str]]:
    """The mounts below a directory, without those that protect names."""
    return [
        (mount.kind, os.path.relpath(mount.path, root))
        for mount in view.mounts
        if mount.path.startswith(str(root)) and Path(mount.path).name not in PROTECTED_NAMES
    ]


def test_a_rule_that_changes_nothing_is_no_mount(root: Path) -> None:
    view = plan(READ_ALL, readable(root), writable(root), readable(root / "a"), readable(root))
    assert below(view, root) == [("write", "."), ("read", "a")]
    assert [mount.kind for mount in view.mounts[:3]] == ["read", "dev", "proc"]


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [("read", "write", "write"), ("write", "deny", "deny"), ("deny", "read", "deny")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_rules_for_one_path_the_weightier_counts(
    root: Path, first: Access, second: Access, counts: Access, turned: bool
) -> None:
    rules = Rule(str(root / "sub"), first), Rule(str(root / "sub"), second)
    view = plan(READ_ALL, *(reversed(rules) if turned else rules))
    kinds = {"read": [], "write": [("write", "sub")], "deny": [("denied_directory", "sub")]}
    assert below(view, root) == kinds[counts]


def test_a_denied_directory_lets_through_to_what_is_allowed_in_it(root: Path) -> None:
    view = plan(READ_ALL, denied(root / "sub"), readable(root / "sub/deep"))
    assert below(view, root) == [("denied_directory", "sub"), ("read", "sub/deep")]
    assert [m.is_passable for m in view.mounts if m.kind == "denied_directory"] == [True]
    view = plan(READ_ALL, denied(root / "sub"), denied(root / "sub/deep"))
    assert [m.is_passable for m in view.mounts if m.kind == "denied_directory"] == [False]


def test_directories_above_a_rule_in_a_writable_place_are_mounts(root: Path) -> None:
    view = plan(READ_ALL, writable(root), denied(root / "sub/deep/a"))
    assert below(view, root) == [
        ("write", "."),
        ("write", "sub"),
        ("write", "sub/deep"),
        ("denied_file", "sub/deep/a"),
    ]


def test_links_are_followed_and_made_again_where_they_are_hidden(root: Path) -> None:
    (root.parent / "link").symlink_to("root/sub")
    view = plan(writable(root.parent / "link/deep"))
    assert below(view, root) == [("write", "sub/deep")]
    assert [(mount.path, mount.content) for mount in view.mounts if mount.kind == "link"] == [
        (str(root.parent / "link"), "root/sub")
    ]
    assert not [m for m in plan(READ_ALL, denied(root.parent / "link")).mounts if m.kind == "link"]


@pytest.mark.parametrize("access", ["read", "write", "deny"])
def test_a_rule_beyond_a_link_that_may_be_written_is_refused(root: Path, access: Access) -> None:
    (root / "link").symlink_to("/usr")
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan(READ_ALL, writable(root), Rule(f"{root}/link/lib", access))


def test_links_without_end_are_refused(root: Path) -> None:
    (root / "link").symlink_to("link")
    with pytest.raises(InvalidRequest, match="too many symbolic links"):
        plan(READ_ALL, denied(root / "link"))


def test_a_protected_link_is_refused(root: Path) -> None:
    (root / ".git").rmdir()
    (root / ".git").symlink_to("sub")
    with pytest.raises(InvalidRequest, match="cannot be kept read-only"):
        plan(READ_ALL, writable(root))


def test_missing_paths_need_placeholders_only_where_they_could_be_made(root: Path) -> None:
    (root / ".git").rmdir()
    missing = denied(root / "x/y"), readable(root / "z"), denied(Path("/missing/x"))
    view = plan(READ_ALL, writable(root), *missing, denied(root / "a/below"))
    assert below(view, root)[1] == ("write", "a")  # a mount, which cannot make room for it
    assert set(view.placeholders) == {
        Placeholder(str(root / ".git"), True),
        Placeholder(str(root / "x"), False),
        Placeholder(str(root / "z"), False),
    }
    view = plan(READ_ALL, writable(root), Rule(str(root / "x"), "deny", True), writable(root / "y"))
    assert view.placeholders == (Placeholder(str(root / ".git"), True),)


def test_a_writable_rule_for_a_missing_name_lets_it_be_made(root: Path) -> None:
    (root / ".git").rmdir()
    assert plan(READ_ALL, writable(root), writable(root / ".git")).placeholders == ()


def test_nothing_is_protected_where_everything_may_be_written(root: Path) -> None:
    view = plan(Rule("/", "write"), writable(root))
    assert [(mount.kind, mount.path) for mount in view.mounts] == [
        ("device", "/"),
        ("proc", "/proc"),
    ]


def test_the_made_up_file_systems_are_not_those_of_outside(root: Path) -> None:
    view = plan(READ_ALL, Rule("/proc", "write"), Rule("/dev", "write"), Rule("/proc/sys", "read"))
    assert [mount.kind for mount in view.mounts] == ["read", "dev", "proc"]
    assert plan(READ_ALL, denied(Path("/proc"))).mounts[-1].kind == "denied_directory"


def test_what_is_needed_is_shown_or_the_policy_refused(root: Path) -> None:
    view = plan(writable(root / "sub"), needs=(str(root / "a"),))
    assert below(view, root) == [("read", "a"), ("write", "sub")]
    assert plan(READ_ALL, needs=(str(root / "a"),)) == plan(READ_ALL)
    with pytest.raises(InvalidRequest, match="which this server needs"):
        plan(READ_ALL, denied(root), needs=(str(root / "a"),))


def test_views_differ_when_a_path_leads_elsewhere(root: Path) -> None:
    before = plan(READ_ALL, writable(root / "sub"))
    assert plan(READ_ALL, writable(root / "sub")) == before
    (root / "sub").rename(root / "other")
    (root / "sub").mkdir()
    assert plan(READ_ALL, writable(root / "sub")) != before


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", {"a", "sub", ".git", ".agents", ".codex", ".aws"}),
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
def test_patterns_are_looked_for_as_deep_as_wanted(
    root: Path, depth: int | None, count: int
) -> None:
    assert len(find([f"{root}/**/a"], depth)) == count


def test_links_are_not_followed_to_matches_but_are_matches(root: Path) -> None:
    (root / "link").symlink_to("sub")
    (root / "sub/c").symlink_to("/usr/lib")
    assert len(find([f"{root}/**/a"], None)) == 3
    view = plan(READ_ALL, patterns=(f"{root}/**/c",))
    last = view.mounts[-1]
    assert (last.kind, last.path) == ("denied_directory", "/usr/lib")


def test_a_pattern_that_ends_with_many_directories_leaves_out_the_first(root: Path) -> None:
    assert find([f"{root}/**/sub/**/sub/**"], None) == []


def test_the_names_of_a_working_directory_are_no_wildcards(root: Path) -> None:
    odd = root / "[a]{b,c}*?\\"
    odd.mkdir()
    (odd / "key").touch()
    (root / "a").unlink()
    assert find([f"{escape(str(odd))}/*"], None) == [str(odd / "key")]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("/[z-a]", "the range z-a, which is empty"),
        ("/{a,b", "a { without its }"),
        ("/a}", "a } without its {"),
        ("/a\\", "ends with a backslash"),
        ("/[[:alpha:]]", "a named class of characters"),
        ("/[a/b]", "a slash between"),
        ("/a\0", "has a NUL"),
        ("/*/../a", "cannot have `..` behind"),
        ("/" + "{" * 17 + "a" + "}" * 17, "more than 16 nested braces"),
        ("/" + "a" * 4096, "at most 4096 bytes, got 4097"),
        ("/" + "{a,b}" * 11, "at most 1024"),
        ("/" + "{a,b}" * 800, "at most 1024"),
        ("/{" + ",".join("abcdefghijklm"[:i] for i in range(1, 13)) * 30 + "}", "65536 characters"),
    ],
)
def test_a_pattern_that_cannot_be_understood_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(problem)):
        find([pattern], None)


def test_too_many_to_look_at_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "MAX_SCANNED", 3)
    with pytest.raises(InvalidRequest, match="more than 3 files to be looked at"):
        find([f"{root}/**/x"], None)
    monkeypatch.undo()
    monkeypatch.setattr(globs, "MAX_COMPARISONS", 15)
    assert len(find([f"{root}/sub/*"], None)) == 2
    with pytest.raises(InvalidRequest, match="more than 15 comparisons"):
        find([f"{root}/**/x"], None)
    monkeypatch.undo()
    monkeypatch.setattr(globs, "MAX_MATCHES", 2)
    with pytest.raises(InvalidRequest, match="more than 2 files one by one"):
        find([f"{root}/**/a"], None)


def test_directories_deeper_than_paths_are_long_are_refused(root: Path) -> None:
    """A confined program can make them, and reach what is in there step by step."""
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
def test_many_wildcards_cost_no_more_than_they_are_long(root: Path, part: str) -> None:
    (root / "w" / "/".join("a" * 60)).mkdir(parents=True)
    assert_grows_linearly(lambda count: find([f"{root}/{part * count}x"], None), (2, 4, 8))


def test_places_are_found() -> None:
    places = Places("/w", ("/p", "/q"), ("/t",))
    assert places.find("root") == ["/"]
    assert places.find("tmpdir") == ["/t"]
    assert places.find("slash_tmp") == ["/tmp"]
    assert places.find("project_roots", "a/./b/") == ["/p/a/b", "/q/a/b"]
    assert places.find("current_working_directory", "a") == ["/w/a"]
    assert Places().find("current_working_directory") == []
    for subpath in ("/a", "../a", "a/../../b"):
        with pytest.raises(InvalidArgument, match="subpath"):
            places.find("project_roots", subpath)


def test_the_way_to_a_match_of_a_pattern_is_mounts(root: Path) -> None:
    """Or else a program could move it to where the pattern does not match."""
    view = plan(READ_ALL, writable(root), patterns=(f"{root}/sub/deep/*",))
    assert below(view, root) == [
        ("write", "."),
        ("write", "sub"),
        ("write", "sub/deep"),
        ("denied_file", "sub/deep/a"),
    ]


def test_patterns_below_a_link_that_may_be_written_are_refused(root: Path) -> None:
    (root / "link").symlink_to("sub")
    with pytest.raises(InvalidRequest, match="cross the symbolic link"):
        plan(READ_ALL, writable(root), patterns=(f"{root}/link/**/a",))
    view = plan(READ_ALL, patterns=(f"{root}/link/deep/a",))
    assert view.mounts[-1].path == str(root / "sub/deep/a")


def test_a_repository_beyond_a_link_that_may_be_written_is_refused(root: Path) -> None:
    (root / "link").symlink_to("sub")
    (root / ".git").rmdir()
    (root / ".git").write_text(f"gitdir: {root}/link/deep\n")
    with pytest.raises(InvalidRequest, match="is reached through the symbolic link"):
        plan(READ_ALL, writable(root))


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_repository_file_that_was_exchanged_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without waiting for it."""
    (root / ".git").rmdir()
    (root / ".git").write_text("gitdir: nowhere\n")
    look = Snapshot.status

    def exchange(files: Snapshot, path: str) -> os.stat_result | None:
        status = look(files, path)
        if path == str(root / ".git"):
            (root / ".git").unlink()
            if kind == "link":
                (root / ".git").symlink_to("a")
            else:
                os.mkfifo(root / ".git")
        return status

    monkeypatch.setattr(Snapshot, "status", exchange)
    with pytest.raises(InvalidRequest, match="cannot be read to protect its repository"):
        plan(READ_ALL, writable(root))


def test_a_view_for_reading_has_nothing_to_protect(root: Path) -> None:
    (root / ".git").rmdir()
    (root / ".git").symlink_to("sub")
    rules = READ_ALL, writable(root), readable(root / ".git"), denied(root / "sub/a")
    view = plan_view(SandboxPolicy(rules), purpose="read")
    assert below(view, root) == [("denied_file", "sub/a")]
    assert view.placeholders == ()
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan_view(SandboxPolicy((*rules, denied(root / ".git/a"))), purpose="read")


@pytest.mark.parametrize("purpose", ["read", "write"])
def test_file_operations_see_the_shared_memory_of_outside(purpose: Purpose) -> None:
    views = plan_view(SandboxPolicy((READ_ALL,)), purpose=purpose), plan(READ_ALL)
    assert [("/dev/shm" in {mount.path for mount in view.mounts}) for view in views] == [
        True,
        False,
    ]


def test_links_where_earlier_sandboxes_could_write_are_no_way_to_a_rule(
    root: Path, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "link").symlink_to("sub")
    rule = denied(root / "link/a")
    assert below(plan(READ_ALL, rule), root) == [("denied_file", "sub/a")]
    grants.add(plan(READ_ALL, writable(root)))
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan(READ_ALL, rule)
    monkeypatch.setattr(grants_module, "MAX_REMEMBERED", 1)
    grants.add(plan(READ_ALL, writable(root.parent / "root/sub")))
    assert below(plan(READ_ALL, rule), root) == [("denied_file", "sub/a")]


def test_only_what_another_sandbox_can_move_is_unsettled(root: Path, grants: Grants) -> None:
    view = plan(READ_ALL, writable(root), denied(root / "sub/a"))
    same, wider = (
        plan(READ_ALL, writable(root), denied(root / "sub/a")),
        plan(READ_ALL, writable(root), writable(root.parent)),
    )
    assert grants.unsettled(view) == []
    grants.add(same)
    grants.add(plan(READ_ALL))
    grants.add(plan(READ_ALL, writable(root / "sub/deep")))
    assert grants.unsettled(view) == []
    grants.add(wider)
    assert grants.unsettled(view) == [str(root.parent)]
    grants.remove(wider)
    assert grants.unsettled(view) == []


def test_a_match_that_moves_behind_a_link_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_and_exchange(*arguments: Any) -> list[str]:
        found = find_denied(*arguments)
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("moved")
        return found

    monkeypatch.setattr(globs, "find_denied", find_and_exchange)
    with pytest.raises(InvalidRequest, match="was exchanged"):
        plan(READ_ALL, patterns=(f"{root}/**/deep",))
