"""Full-screen programs behind the server, in tmux; and the page that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import screens
from tests.support.checkout import ROOT
from tests.support.terminals import listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "guides" / "terminal.md"


@pytest.fixture(params=["stdio", "ws"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    absent = screens.missing()
    if absent:
        pytest.skip(f"nothing proven of full-screen programs: {', '.join(absent)} not installed")
    if request.param == "stdio":
        yield "stdio:codex-exec-server"
        return
    with listening("draft") as url:
        yield url


def test_full_screen_programs(url: str, tmp_path: Path) -> None:
    """One shell, and every scene in it, one after the other."""
    with screens.Window(tmp_path, url) as window:
        window.enter()
        for scene in screens.SCENES.values():
            scene(window, tmp_path)
        window.leave()


def test_the_page_shows_every_scene() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert screens.marked(page) == list(screens.SCENES)
    assert "```text\n```" not in page
