"""The report in a real browser: its figures are drawn, it fits a phone, and it asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import MARKS, open_browser
from playwright.sync_api import Browser, Page
from report_inputs import make_inputs

from fer_pipeline.reports.report import render_report

FIGURES = ("accuracy", "simplex", "recall", "reliability", "curves", "confusion-0", "confusion-3")

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(make_inputs()), encoding="utf-8")
    return path


@pytest.fixture(params=[(1200, 900), (390, 844)], ids=["desk", "phone"])
def opened(
    request: pytest.FixtureRequest, browser: Browser, report: Path
) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The page, what it asked for beyond itself, and what its scripts complained of."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri(), wait_until="load")
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length > 0")
    own = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert own.pop(0) == report.as_uri()
    yield page, own, complaints
    page.close()


def test_the_page_shows_all_of_itself_on_any_screen_and_asks_for_nothing(
    opened: tuple[Page, list[str], list[str]], tmp_path: Path
) -> None:
    page, asked, complaints = opened
    verdict_is_seen_without_scrolling(page)
    figures_and_faces_are_drawn(page)
    shot = tmp_path / "report.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.evaluate("innerWidth")
    wide_tables_show_that_they_go_on(page)
    assert (asked, complaints) == ([], [])


def verdict_is_seen_without_scrolling(page: Page) -> None:
    for seen in ("h1", ".gate"):
        box = page.locator(seen).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < page.viewport_size["height"] / 2


def figures_and_faces_are_drawn(page: Page) -> None:
    for name in FIGURES:
        box = page.locator(f"#plot-{name} .main-svg").first.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 150
        assert page.locator(f"#plot-{name} .main-svg :is(path, circle, text)").count() > 5
    assert page.locator("#cases img").evaluate_all(
        "images => images.every(image => image.complete && image.naturalWidth === 48)"
    )


def wide_tables_show_that_they_go_on(page: Page) -> None:
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    wide = page.locator(":is(.scroll, .card table)").evaluate_all(
        "all => all.filter(one => one.scrollWidth > one.clientWidth)"
        ".map(one => getComputedStyle(one).backgroundImage.split('linear-gradient').length)"
    )
    assert set(wide) <= {5}
    assert bool(wide) == (page.viewport_size["width"] < 400)
    assert page.locator("table").evaluate_all(
        "all => all.every(one => one.closest('.scroll, .card') !== null)"
    )
