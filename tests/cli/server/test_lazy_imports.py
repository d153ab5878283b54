"""Modules that are loaded when something of them is used."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.measures

WATCHED = 'print("loading", __name__)\nvalue = 7\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where programs find modules: ``late``, ``package.late``, and those that fail."""
    (tmp_path / "late.py").write_text(WATCHED)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "late.py").write_text(WATCHED)
    (tmp_path / "slow.py").write_text(
        "import meeting\nvalue = 6\nmeeting.begun.set()\nmeeting.others.wait(20)\n" + WATCHED
    )
    (tmp_path / "meeting.py").write_text(
        "import threading\nbegun, others = threading.Event(), threading.Barrier(4)\n"
    )
    (tmp_path / "broken.py").write_text('print("breaking")\nraise OSError("broken")\n')
    (tmp_path / "circle.py").write_text("import second\nvalue = 7\n")
    (tmp_path / "second.py").write_text("import circle\nprint(hasattr(circle, 'value'))\n")
    return tmp_path


def said(folder: Path, program: str, *names: str) -> list[str]:
    """What a program prints for which some modules are loaded late."""
    begin = f"from exec_server import lazy_imports\nlazy_imports.install({set(names)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("imported", "used"),
    [
        ("import late", "late.value"),
        ("import package.late", "package.late.value"),
        ("from package import late", "late.value"),
    ],
)
def test_it_is_loaded_once_when_it_is_used(folder: Path, imported: str, used: str) -> None:
    program = f"""
        {imported}
        {imported}
        print("imported")
        print({used}, {used})
    """
    name = "late" if imported == "import late" else "package.late"
    assert said(folder, program, name) == ["imported", f"loading {name}", "7 7"]


def test_a_name_taken_from_it_is_a_use(folder: Path) -> None:
    program = """
        from late import value
        print("imported", value)
    """
    assert said(folder, program, "late") == ["loading late", "imported 7"]


def test_other_modules_are_loaded_at_once(folder: Path) -> None:
    assert said(folder, "import late\nprint('imported')", "other") == ["loading late", "imported"]


def test_threads_that_use_it_first_wait_for_each_other(folder: Path) -> None:
    """It is loaded once, and none sees it half loaded: the others come while it is loading."""
    program = """
        import threading, meeting
        import slow
        def use(is_other):
            if is_other:
                meeting.begun.wait(20)
                meeting.others.wait(20)
            seen.append(slow.value)
        seen = []
        threads = [threading.Thread(target=use, args=(one > 0,)) for one in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(seen)
    """
    assert said(folder, program, "slow") == ["loading slow", "[7, 7, 7, 7]"]


def test_one_that_cannot_be_loaded_fails_at_each_use(folder: Path) -> None:
    program = """
        import broken
        for _ in range(2):
            try:
                broken.value
            except OSError as error:
                print(error)
    """
    assert said(folder, program, "broken") == ["breaking", "broken"] * 2


def test_one_that_is_not_there_cannot_be_imported(folder: Path) -> None:
    program = """
        try:
            import missing
        except ModuleNotFoundError as error:
            print(error)
        import late
        try:
            late.missing
        except AttributeError as error:
            print(error)
    """
    assert said(folder, program, "missing", "late") == [
        "No module named 'missing'",
        "loading late",
        "module 'late' has no attribute 'missing'",
    ]


def test_one_that_is_needed_while_it_is_loaded_has_nothing_yet(folder: Path) -> None:
    """As with any circle of imports."""
    assert said(folder, "import circle\nprint(circle.value)", "circle") == ["False", "7"]


def test_without_hides_what_is_not_loaded(folder: Path) -> None:
    """For the time of a block, and leaves alone what is loaded."""
    program = """
        with lazy_imports.without("late"):
            try:
                import late
            except ImportError:
                print("hidden")
        import late
        with lazy_imports.without("late"):
            import late
            print(late.value)
    """
    assert said(folder, program) == ["hidden", "loading late", "7"]
