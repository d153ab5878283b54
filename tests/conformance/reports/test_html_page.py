"""The HTML report in a real browser: what a reader sees, at a desk and on a phone."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from exec_server_conformance.reports import page, reference
from tests.support.sample_report import MARKUP, sample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="THE HTML REPORT IS NOT TRIED: chromium is not installed (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def view(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The sample report; it must ask for nothing else and print no error."""
    path = tmp_path / "report.html"
    path.write_text(page.render(sample(), reference.checkout_url(tmp_path)), encoding="utf-8")
    context = browser.new_context()
    view = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    view.goto(path.as_uri())
    yield view
    assert asked == [path.as_uri()]
    assert said == []
    context.close()


def names(view: Page) -> list[str]:
    return view.locator(".play:visible .name").all_text_contents()


def test_outcome_filters_plays(view: Page) -> None:
    assert names(view) == ["error", "failed", "known", "na", "passed", "stale"]
    failed = view.get_by_role("button", name="1 failed")
    failed.click()
    assert names(view) == ["failed"]
    expect(view.get_by_role("heading", name="v1/process")).to_be_hidden()
    view.get_by_role("button", name="1 passed").click()
    assert names(view) == ["failed", "passed"]
    failed.click()
    assert names(view) == ["passed"]


def test_search_filters_plays(view: Page) -> None:
    search = view.get_by_role("searchbox")
    search.fill("V1/FS  shows known")
    assert names(view) == ["known"]
    expect(view.locator("#nothing")).to_be_hidden()
    search.fill("no such words")
    assert names(view) == []
    expect(view.locator("#nothing")).to_be_visible()


def test_failure_includes_the_wire_trace(view: Page) -> None:
    play = view.locator('[id="v1/fs/failed-ws"]')
    expect(play.locator("h3")).to_have_text("Contract violation by the server")
    expect(play.locator(".where")).to_have_text("process/start.result")
    assert play.locator("figcaption").all_inner_texts() == ["expected", "received"]
    expected, received = play.locator("figure pre").all_inner_texts()
    assert MARKUP in expected.replace('\\"', '"')
    assert received == "[\n  1\n]"
    rows = play.locator(".trace tr")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["0.001", "0.002"]
    marked = play.locator(".trace .diverges")
    expect(marked).to_have_count(1)
    expect(marked).to_contain_text("first divergence")
    expect(marked).to_contain_text("result 1")


def test_passed_plays_can_be_expanded(view: Page) -> None:
    play = view.locator('[id="v1/process/passed-ws"]')
    expect(play.locator(".trace")).to_be_hidden()
    play.locator("summary").click()
    expect(play.locator(".trace")).to_be_visible()


def test_fragment_expands_a_play(view: Page) -> None:
    stale = view.locator('[id="v1/process/stale-ws"]')
    expect(stale).to_have_js_property("open", value=True)
    play = view.locator('[id="v1/fs/known-ws"]')
    expect(play).to_have_js_property("open", value=False)
    view.evaluate("location.hash = 'v1/fs/known-ws'")
    expect(play).to_have_js_property("open", value=True)
    expect(play).to_contain_text("Known deviation: it is # so")


def test_methods_link_to_the_reference(view: Page) -> None:
    link = view.locator('[id="v1/fs/failed-ws"]').get_by_role("link", name="process/start")
    place = link.evaluate("one => one.href")
    path, _, anchor = place.removeprefix("file://").partition("#")
    assert path == str(reference.CHECKOUT / "v1" / "process.md")
    assert anchor == "processstart"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_window(view: Page, width: int, scheme: str) -> None:
    view.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    view.set_viewport_size({"width": width, "height": 900})
    view.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    wider = view.evaluate(
        "[...document.querySelectorAll('body *')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.outerHTML.slice(0, 200))"
    )
    assert wider == []
