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


def test_every_figure_is_drawn_and_no_request_leaves_the_page(
    opened: tuple[Page, list[str], list[str]], tmp_path: Path
) -> None:
    page, asked, complaints = opened
    for name in FIGURES:
        drawn = page.locator(f"#plot-{name} .main-svg").first
        box = drawn.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 150
        assert page.locator(f"#plot-{name} .main-svg :is(path, circle, text)").count() > 5
    assert page.locator("#cases img").evaluate_all(
        "images => images.every(image => image.complete && image.naturalWidth === 48)"
    )
    shot = tmp_path / "report.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000
    assert asked == []
    assert complaints == []


def test_nothing_is_wider_than_the_screen(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = opened
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_a_table_that_goes_on_beside_the_screen_shows_it(
    opened: tuple[Page, list[str], list[str]],
) -> None:
    page, _, _ = opened
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


def test_the_verdict_is_seen_without_scrolling(
    opened: tuple[Page, list[str], list[str]],
) -> None:
    page, _, _ = opened
    for seen in ("h1", ".gate"):
        box = page.locator(seen).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < page.viewport_size["height"] / 2
