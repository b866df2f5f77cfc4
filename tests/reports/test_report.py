"""The page is checked as a reader gets it: by its text, its links and its bytes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from pages import HOSTILE, Page, make_drift
from report_inputs import make_inputs, with_gain

from fer_pipeline.evaluation.gate import Verdict
from fer_pipeline.evaluation.significance import Gain
from fer_pipeline.reports.report import render_report


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(make_inputs()))


def test_page_opens_with_verdict_and_gain(page: Page) -> None:
    assert (
        "Fused 71.8 % vs best single 68.7 %: +3.10 points "
        "95 % interval 2.04 to 4.09, McNemar p 0.0001 ✓ Gate passed Fusing helps"
    ) in page.text
    assert (
        "Fusing helps on this test set: the interval lies above zero, and p is at most 0.05."
    ) in page.text


def test_loss_and_tiny_p_are_written_as_such() -> None:
    inputs = make_inputs()
    gain = Gain(-0.0123, (-0.021, -0.0003), 3e-9)
    lost = replace(inputs, evaluation=with_gain(inputs.evaluation, gain))
    text = Page(render_report(lost)).text
    minus = "\N{MINUS SIGN}"
    interval = f"95 % interval {minus}2.10 to {minus}0.03"
    assert f"{minus}1.23 points {interval}, McNemar p < 0.0001" in text
    assert "Fusing harms on this test set: the interval lies below zero" in text


def test_an_interval_above_zero_without_a_small_p_decides_nothing() -> None:
    inputs = make_inputs()
    undecided = with_gain(inputs.evaluation, Gain(0.01, (0.001, 0.02), 0.06))
    text = Page(render_report(replace(inputs, evaluation=undecided))).text
    assert "Undecided: the interval lies above zero, but p is above 0.05." in text
    assert "✓ Gate passed, but the gain may be chance" in text
    assert "Fusing helps on this test set" not in text


def test_failed_gate_says_so_with_its_reasons() -> None:
    failed = replace(make_inputs(), verdict=Verdict(False, ("fused ties with resnet50",)))
    text = Page(render_report(failed)).text
    assert "✗ Gate not passed" in text
    assert "Gate passed" not in text
    assert "fused ties with resnet50" in text


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_notice_stands_only_over_synthetic_data(synthetic: bool) -> None:
    text = Page(render_report(make_inputs(synthetic=synthetic))).text
    assert ("drawn by code; figures say nothing about real faces" in text) is synthetic


def test_paper_protocol_is_called_optimistic(page: Page) -> None:
    inputs = make_inputs()
    paper = replace(inputs, evaluation=replace(inputs.evaluation, protocol="paper"))
    assert "optimistic" in Page(render_report(paper)).text
    assert "optimistic" not in page.text


def test_scores_methods_and_facts_are_on_the_page(page: Page) -> None:
    for shown in (
        "Official test: 3,589 images",
        "Clean subset: 3,310 images",
        "nll this one counts",
        "resnet50 0.333 ± 0.041",
        "34,034 of 35,887",
        "https://data.example/fer2013.csv",
        "cdcdcdcdcdcd",
        "433 groups of images that look alike; 161 reach over splits, 81 test images",
        "nothing dropped, nothing relabelled",
        "fer, edition fer2013.csv",
        "resnet101 +4.1",
        "At least one of them is right on 80.2 % of the images",
        "Rescued: 301 of 3,589 images Wrong by resnet50, right when fused.",
        "labelled happy fused: happy, 91 % resnet50: sad",
        "6.5 minutes in all",
        "AMD EPYC, 2 cores, bf16, torch 2.15.0, commit 0123456789ab , with changes not committed",
    ):
        assert shown in page.text


def test_cleaning_and_drift_are_told_in_short(page: Page) -> None:
    inputs = make_inputs()
    cleaning = inputs.data["cleaning"] | {"constant_dropped": 12, "conflicts_relabelled": 31}
    changed = inputs.data | {"cleaning": cleaning, "drift": make_drift(limit=0.1)}
    text = Page(render_report(replace(inputs, data=changed))).text
    assert "dropped: 12 constant, 0 duplicates, 0 with conflicting labels; 31 relabelled" in text
    assert "0.083 at most from the earlier version of 30,112 images; the limit is 0.1" in text
    assert "Drift" not in page.text


def test_clean_images_have_scores_of_their_own_only_where_they_are_some_of_all() -> None:
    inputs = make_inputs()
    for clean, said in (
        (None, "There is no clean subset"),
        (inputs.evaluation.test, "all of them are the clean subset"),
    ):
        same = replace(inputs, evaluation=replace(inputs.evaluation, clean=clean))
        text = Page(render_report(same)).text
        assert said in text
        assert "Clean subset:" not in text
        assert "accuracy, clean" not in text


def test_a_source_without_a_digest_shows_none() -> None:
    inputs = make_inputs()
    source = inputs.data["source"] | {"sha256": ""}
    text = Page(render_report(replace(inputs, data=inputs.data | {"source": source}))).text
    assert "sha256 ;" not in text
    assert "sha256 ," not in text
    assert "sha256 abababababab" in text


def test_the_card_stands_on_the_page_as_text_that_can_be_read(page: Page) -> None:
    assert "Model card: 3 backbones fused for facial expression recognition" in page.text
    assert "It is not made for decisions about people" in page.text
    assert "# Model card" not in page.text
    assert "|---|" not in page.text


def test_every_section_is_in_the_table_of_contents(page: Page) -> None:
    anchors = [value for name, value in page.attributes if name == "href" and value[0] == "#"]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(anchors) == page.tags.count("section") == len(set(anchors))
    assert {anchor[1:] for anchor in anchors} <= set(ids)


def test_nothing_on_the_page_is_fetched(page: Page) -> None:
    links = [
        value
        for name, value in page.attributes
        if name in ("src", "srcset", "href", "action", "data", "poster", "xlink:href")
    ]
    beyond = [link for link in links if not link.startswith(("data:image/png;base64,", "#"))]
    assert beyond == ["data:,", "data.html"]
    assert not re.search(r"https?:|@import|url\(", "".join(page.styles))
    library, *figures = page.scripts
    assert not re.search(r"https?:|import\(", "".join(figures))
    assert "plotly.js v" in library[:300]
    assert not any("plotly.js v" in script[:300] for script in figures)


def test_same_inputs_give_the_same_bytes() -> None:
    assert render_report(make_inputs()) == render_report(make_inputs())


def test_hostile_backbone_name_stays_text(page: Page) -> None:
    html = render_report(make_inputs((HOSTILE, "resnet101", "inception_v3")))
    hostile = Page(html)
    assert HOSTILE not in html
    assert hostile.tags == page.tags
    assert HOSTILE in hostile.text


@pytest.mark.parametrize("count", [1, 2, 4])
def test_page_without_three_backbones_has_no_triangle(count: int) -> None:
    names = ("resnet50", "resnet101", "inception_v3", "vgg16")[:count]
    page = Page(render_report(make_inputs(names)))
    ids = {value for name, value in page.attributes if name == "id"}
    assert {"plot-accuracy", "plot-recall", "plot-curves", f"plot-confusion-{count}"} <= ids
    assert "plot-simplex" not in ids
    assert all(name in page.text for name in names)
