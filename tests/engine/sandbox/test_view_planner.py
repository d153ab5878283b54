"""Planning of views: the mounts of a policy, their order, and policies that are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from exec_server.engine.files.path_guard import PathGuard, ProtectedPaths
from exec_server.engine.sandbox import globs, view_planner
from exec_server.engine.sandbox import live_views as live_views_module
from exec_server.engine.sandbox.globs import find_denied
from exec_server.engine.sandbox.live_views import LiveViews
from exec_server.engine.sandbox.policy import Access, Rule, SandboxPolicy
from exec_server.engine.sandbox.protected_names import PROTECTED_NAMES
from exec_server.engine.sandbox.sources import Snapshot
from exec_server.engine.sandbox.view import Placeholder, Purpose, View
from exec_server.engine.sandbox.view_planner import plan_view
from exec_server.errors import InvalidRequest
from tests.support.sandbox_harness import READ_ALL, denied, readable, writable


@pytest.fixture(autouse=True)
def live_views(monkeypatch: pytest.MonkeyPatch) -> LiveViews:
    """A registry of views without any history."""
    live_views = LiveViews(PathGuard())
    monkeypatch.setattr(view_planner, "LIVE_VIEWS", live_views)
    return live_views


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with files and with all entries whose names are protected."""
    root = tmp_path / "root"
    for name in ("a", "sub/a", "sub/deep/a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in PROTECTED_NAMES:
        (root / name).mkdir()
    return root


def plan(*rules: Rule, patterns: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> View:
    return plan_view(SandboxPolicy(rules, patterns), needs)


def enter(live_views: LiveViews, view: View) -> ProtectedPaths:
    return live_views.enter(view, (), runs_program=True)


def below(view: View, root: Path) -> list[tuple[str, str]]:
    """Return the mounts below a directory, without those of protected names."""
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


def test_hidden_links_are_recreated(root: Path) -> None:
    (root.parent / "link").symlink_to("root/sub")
    view = plan(writable(root.parent / "link/deep"))
    assert below(view, root) == [("write", "sub/deep")]
    assert [(mount.path, mount.content) for mount in view.mounts if mount.kind == "link"] == [
        (str(root.parent / "link"), "root/sub")
    ]
    assert not [m for m in plan(READ_ALL, denied(root.parent / "link")).mounts if m.kind == "link"]


@pytest.mark.parametrize("access", ["read", "write", "deny"])
def test_a_rule_beyond_a_writable_link_is_refused(root: Path, access: Access) -> None:
    (root / "link").symlink_to("/usr")
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan(READ_ALL, writable(root), Rule(f"{root}/link/lib", access))


def test_a_link_loop_is_refused(root: Path) -> None:
    (root / "link").symlink_to("link")
    with pytest.raises(InvalidRequest, match="too many symbolic links"):
        plan(READ_ALL, denied(root / "link"))


def test_a_protected_link_is_refused(root: Path) -> None:
    (root / ".git").rmdir()
    (root / ".git").symlink_to("sub")
    with pytest.raises(InvalidRequest, match="cannot be kept read-only"):
        plan(READ_ALL, writable(root))


def test_missing_paths_get_placeholders_only_in_writable_directories(root: Path) -> None:
    (root / ".git").rmdir()
    missing = denied(root / "x/y"), readable(root / "z"), denied(Path("/missing/x"))
    view = plan(READ_ALL, writable(root), *missing, denied(root / "a/below"))
    assert below(view, root)[1] == ("write", "a")  # a mount point cannot be removed
    assert set(view.placeholders) == {
        Placeholder(str(root / ".git"), True),
        Placeholder(str(root / "x"), False),
        Placeholder(str(root / "z"), False),
    }
    view = plan(READ_ALL, writable(root), Rule(str(root / "x"), "deny", True), writable(root / "y"))
    assert view.placeholders == (Placeholder(str(root / ".git"), True),)


def test_a_writable_missing_name_gets_no_placeholder(root: Path) -> None:
    (root / ".git").rmdir()
    assert plan(READ_ALL, writable(root), writable(root / ".git")).placeholders == ()


def test_a_writable_root_has_no_protected_names(root: Path) -> None:
    view = plan(Rule("/", "write"), writable(root))
    assert [(mount.kind, mount.path) for mount in view.mounts] == [
        ("device", "/"),
        ("proc", "/proc"),
    ]


def test_dev_and_proc_are_new_instances(root: Path) -> None:
    view = plan(READ_ALL, Rule("/proc", "write"), Rule("/dev", "write"), Rule("/proc/sys", "read"))
    assert [mount.kind for mount in view.mounts] == ["read", "dev", "proc"]
    assert plan(READ_ALL, denied(Path("/proc"))).mounts[-1].kind == "denied_directory"


def test_needs_are_exposed_and_cannot_be_denied(root: Path) -> None:
    view = plan(writable(root / "sub"), needs=(str(root / "a"),))
    assert below(view, root) == [("read", "a"), ("write", "sub")]
    assert plan(READ_ALL, needs=(str(root / "a"),)) == plan(READ_ALL)
    with pytest.raises(InvalidRequest, match="because this server needs it"):
        plan(READ_ALL, denied(root), needs=(str(root / "a"),))


def test_views_differ_after_a_directory_is_replaced(root: Path) -> None:
    before = plan(READ_ALL, writable(root / "sub"))
    assert plan(READ_ALL, writable(root / "sub")) == before
    (root / "sub").rename(root / "other")
    (root / "sub").mkdir()
    assert plan(READ_ALL, writable(root / "sub")) != before


def test_a_matching_link_denies_its_target(root: Path) -> None:
    (root / "link").symlink_to("sub")
    (root / "sub/c").symlink_to("/usr/lib")
    view = plan(READ_ALL, patterns=(f"{root}/**/c",))
    last = view.mounts[-1]
    assert (last.kind, last.path) == ("denied_directory", "/usr/lib")


def test_directories_on_the_way_to_a_match_are_mount_points(root: Path) -> None:
    """A program could otherwise move the match to a path that does not match."""
    view = plan(READ_ALL, writable(root), patterns=(f"{root}/sub/deep/*",))
    assert below(view, root) == [
        ("write", "."),
        ("write", "sub"),
        ("write", "sub/deep"),
        ("denied_file", "sub/deep/a"),
    ]


def test_patterns_below_a_writable_link_are_refused(root: Path) -> None:
    (root / "link").symlink_to("sub")
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan(READ_ALL, writable(root), patterns=(f"{root}/link/**/a",))
    view = plan(READ_ALL, patterns=(f"{root}/link/deep/a",))
    assert view.mounts[-1].path == str(root / "sub/deep/a")


def test_a_repository_beyond_a_writable_link_is_refused(root: Path) -> None:
    (root / "link").symlink_to("sub")
    (root / ".git").rmdir()
    (root / ".git").write_text(f"gitdir: {root}/link/deep\n")
    with pytest.raises(InvalidRequest, match="its path crosses the symbolic link"):
        plan(READ_ALL, writable(root))


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_replaced_repository_file_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without blocking on a FIFO."""
    (root / ".git").rmdir()
    (root / ".git").write_text("gitdir: nowhere\n")
    get_status = Snapshot.status

    def replace(files: Snapshot, path: str) -> os.stat_result | None:
        status = get_status(files, path)
        if path == str(root / ".git"):
            (root / ".git").unlink()
            if kind == "link":
                (root / ".git").symlink_to("a")
            else:
                os.mkfifo(root / ".git")
        return status

    monkeypatch.setattr(Snapshot, "status", replace)
    with pytest.raises(InvalidRequest, match="cannot be read to protect its repository"):
        plan(READ_ALL, writable(root))


def test_a_view_for_reading_has_no_placeholders(root: Path) -> None:
    (root / ".git").rmdir()
    (root / ".git").symlink_to("sub")
    rules = READ_ALL, writable(root), readable(root / ".git"), denied(root / "sub/a")
    view = plan_view(SandboxPolicy(rules), purpose="read")
    assert below(view, root) == [("denied_file", "sub/a")]
    assert view.placeholders == ()
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan_view(SandboxPolicy((*rules, denied(root / ".git/a"))), purpose="read")


@pytest.mark.parametrize("purpose", ["read", "write"])
def test_file_operations_use_the_shared_memory_of_the_host(purpose: Purpose) -> None:
    views = plan_view(SandboxPolicy((READ_ALL,)), purpose=purpose), plan(READ_ALL)
    assert [("/dev/shm" in {mount.path for mount in view.mounts}) for view in views] == [
        True,
        False,
    ]


def test_a_link_that_an_earlier_sandbox_could_create_is_refused(
    root: Path, live_views: LiveViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "link").symlink_to("sub")
    rule = denied(root / "link/a")
    assert below(plan(READ_ALL, rule), root) == [("denied_file", "sub/a")]
    enter(live_views, plan(READ_ALL, writable(root)))
    with pytest.raises(InvalidRequest, match="crosses the symbolic link"):
        plan(READ_ALL, rule)
    monkeypatch.setattr(live_views_module, "MAX_REMEMBERED", 1)
    enter(live_views, plan(READ_ALL, writable(root.parent / "root/sub")))
    assert below(plan(READ_ALL, rule), root) == [("denied_file", "sub/a")]


def test_mount_points_are_contested_if_another_sandbox_can_move_them(
    root: Path, live_views: LiveViews
) -> None:
    view = plan(READ_ALL, writable(root), denied(root / "sub/a"))
    same, wider = (
        plan(READ_ALL, writable(root), denied(root / "sub/a")),
        plan(READ_ALL, writable(root), writable(root.parent)),
    )
    assert live_views.contested_directories(view) == []
    enter(live_views, same)
    enter(live_views, plan(READ_ALL))
    enter(live_views, plan(READ_ALL, writable(root / "sub/deep")))
    assert live_views.contested_directories(view) == []
    protected = enter(live_views, wider)
    assert live_views.contested_directories(view) == [str(root.parent)]
    live_views.leave(wider, protected)
    assert live_views.contested_directories(view) == []


def test_a_match_whose_directory_is_replaced_by_a_link_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_and_replace(*arguments: Any) -> list[str]:
        found = find_denied(*arguments)
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("moved")
        return found

    monkeypatch.setattr(globs, "find_denied", find_and_replace)
    with pytest.raises(InvalidRequest, match="was replaced"):
        plan(READ_ALL, patterns=(f"{root}/**/deep",))
