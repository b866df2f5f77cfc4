"""The page on the data, checked as a reader gets it: by its text, its links and its faces."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError
from pages import HOSTILE, Page, make_data, make_drift
from PIL import Image

from fer_pipeline.data.faces import Example, UInt8Array
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.data_page import class_bars, grey_histogram, render_data_page

GREY = np.full((48, 48), 77, dtype=np.uint8)


def _face(seed: int) -> UInt8Array:
    return draw_face(seed % len(EMOTIONS), np.random.default_rng(seed))


def _histogram(mean: float, images: int) -> list[int]:
    rng = np.random.default_rng(0)
    greys = rng.normal(mean, 12, images).round().clip(0, 255).astype(int)
    return np.bincount(greys, minlength=256).tolist()


def _greys(middles: Iterable[int], **versions: list[int]) -> list[dict[str, str]]:
    """The rows of one measure in `plots/greys.csv`."""
    return [
        {"version": version, "grey": str(grey), "images": str(images)}
        for version, counts in versions.items()
        for grey, images in zip(middles, counts, strict=True)
    ]


def _conflict(pixels: UInt8Array, *votes: tuple[str, str, int]) -> Example:
    return Example("conflict", pixels, {"votes": votes})


def _odd(kind: str, pixels: UInt8Array, caption: str) -> Example:
    return Example(kind, pixels, {"caption": caption})


def make_inputs(data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The real set's figures, with drawn faces in place of real ones."""
    data = data or make_data()
    before = {"before": _histogram(110, 800)} if data["drift"] else {}
    greys = {
        "brightness": _greys(range(256), now=_histogram(130, 1000), **before),
        "contrast": _greys(range(256), now=_histogram(60, 1000), **before),
    }
    return {
        "data": data,
        "examples": [
            _conflict(
                _face(1), ("Training", "happy", 2), ("Training", "sad", 1), ("PublicTest", "sad", 1)
            ),
            _conflict(_face(2), ("Training", "fear", 1), ("PrivateTest", "surprise", 1)),
            _odd("One grey value", GREY, "Training row 59, grey 77"),
            _odd(
                "Near duplicates across splits", _face(3), "Training row 5, near PrivateTest row 17"
            ),
        ],
        "greys": [{"measure": name, **row} for name, rows in greys.items() for row in rows],
    }


def _with(**changes: dict[str, Any]) -> Page:
    """The page where these sections of the data have these values on top."""
    data = make_data()
    return Page(
        render_data_page(
            **make_inputs(data | {name: data[name] | new for name, new in changes.items()})
        )
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_data_page(**make_inputs()))


@pytest.fixture(scope="module")
def drifted() -> Page:
    return Page(render_data_page(**make_inputs(make_data() | {"drift": make_drift(limit=0.05)})))


def _attributes(page: Page, wanted: str) -> list[str]:
    return [value for name, value in page.attributes if name == wanted]


def _status(page: Page) -> str:
    return next(value for name, value in page.attributes if name == "class")


def test_the_known_set_is_called_so(page: Page) -> None:
    assert "35,887 faces, as FER2013 is known" in page.text
    assert "as many faces as in FER2013" in page.text
    assert _status(page) == "passed"


def test_differing_counts_stand_beside_the_known_ones() -> None:
    differences = [
        {"split": "Training", "emotion": "angry", "found": 3990, "known": 3995},
        {"split": "PrivateTest", "emotion": "disgust", "found": 60, "known": 55},
    ]
    page = _with(
        known={"differences": differences},
        classes={"Training": make_data()["classes"]["Training"] | {"angry": 3990}},
    )
    assert "class counts differ from FER2013’s in 2 places" in page.text
    assert "angry 3,990 FER2013: 3,995 467 491" in page.text
    assert "FER2013: 55" in page.text
    assert _attributes(page, "class").count("off") == 2
    assert _status(page) == "failed"


def test_one_difference_is_one_place() -> None:
    difference = {"split": "Training", "emotion": "angry", "found": 3990, "known": 3995}
    page = _with(known={"differences": [difference]})
    assert "differ from FER2013’s in one place" in page.text


def test_synthetic_faces_are_called_so_under_a_notice(page: Page) -> None:
    drawn = Page(render_data_page(**make_inputs(make_data(synthetic=True))))
    notice = "drawn by code; figures say nothing about real faces"
    assert "35,887 synthetic faces, drawn by code" in drawn.text
    assert notice in drawn.text
    assert notice not in page.text
    assert _status(drawn) == ""


def test_synthetic_faces_that_drifted_too_far_fail() -> None:
    data = make_data(synthetic=True) | {"drift": make_drift(limit=0.05)}
    assert _status(Page(render_data_page(**make_inputs(data)))) == "failed"


def test_labels_of_another_kind_are_not_held_against_fer2013() -> None:
    page = Page(render_data_page(**make_inputs(make_data() | {"known": None})))
    assert "35,887 faces; FER2013’s class counts do not apply to their labels" in page.text


def test_every_class_count_is_on_the_page(page: Page) -> None:
    assert "disgust 436 56 55" in page.text
    assert "all 28,709 3,589 3,589" in page.text


def test_faults_come_with_their_figures_and_why_they_matter(page: Page) -> None:
    for shown in (
        "1,516 Groups of equal images The same pixels more than once: 1,853 images",
        "601 Groups of equal images over several splits",
        "279 PrivateTest images that also stand in Training 7.8 % of PrivateTest",
        "433 Groups of near duplicates",
        "81 PrivateTest images that look like one in Training",
        "54 Groups of equal images with different labels",
        "12 Faces of one grey value",
        "Looked for and not found: Pictures of another size.",
    ):
        assert shown in page.text


def test_what_was_cleaned_is_listed_and_the_rest_left_out() -> None:
    page = _with(
        ingest={"unlabelled": 7178},
        cleaning={"constant_dropped": 12, "conflicts_relabelled": 31},
        images={"train": 28697},
    )
    assert "7,178 Pictures without a label Ignored" in page.text
    assert "12 Training faces of one grey value Dropped" in page.text
    assert "31 Equal training images with different labels Relabelled" in page.text
    assert "also stand in val or test" not in page.text
    assert "What goes on: 28,697 train, 3,589 val, 3,589 test" in page.text


def test_untouched_data_are_called_untouched(page: Page) -> None:
    assert "Nothing was left out, dropped or relabelled" in page.text


def test_drift_is_told_in_figures_and_words(drifted: Page) -> None:
    for shown in (
        "The largest distance is 0.083, above the limit of 0.05.",
        "drifted further from the earlier version than the limit allows",
        "0.012 Class shares (Cramér’s V) On a scale from 0, equal shares, to 1, "
        "this is hardly any difference (χ² 9.7, p 0.1374).",
        "the share of darker faces differs by 8.34 points at most (p < 0.0001)",
        "the share of flatter faces differs by 0.49 points at most (p 0.8312)",
        "s3://faces/fer2013.csv , version 0aa1 , 30,112 images",
        "ef" * 32,
    ):
        assert shown in drifted.text
    assert _status(drifted) == "failed"


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (None, "The largest distance is 0.083; no limit is set."),
        (0.0834, "The largest distance is 0.083, within the limit of 0.0834."),
    ],
)
def test_drift_within_its_limit_is_sound(limit: float | None, sentence: str) -> None:
    page = Page(render_data_page(**make_inputs(make_data() | {"drift": make_drift(limit)})))
    assert sentence in page.text
    assert _status(page) == "passed"


def test_labels_of_different_kinds_have_no_drift_of_classes() -> None:
    drift = make_drift() | {"class_balance": None}
    page = Page(render_data_page(**make_inputs(make_data() | {"drift": drift})))
    assert "The class shares are not compared" in page.text
    assert "Cramér" not in page.text


def test_without_an_earlier_version_there_is_no_drift(page: Page) -> None:
    assert "drift" not in page.text.lower()
    assert "earlier version" not in page.text
    assert {"plot-brightness", "plot-contrast"} <= set(_attributes(page, "id"))


def test_conflicts_and_suspicious_faces_have_captions_and_alternative_texts(page: Page) -> None:
    assert "2 × happy in Training 1 × sad in Training 1 × sad in PublicTest" in page.text
    assert "1 × fear in Training 1 × surprise in PrivateTest" in page.text
    assert "One grey value Training row 59, grey 77" in page.text
    assert _attributes(page, "alt") == [
        "Face labelled happy and sad",
        "Face labelled fear and surprise",
        "Face: Training row 59, grey 77",
        "Face: Training row 5, near PrivateTest row 17",
    ]


def test_faces_are_stored_without_loss(page: Page) -> None:
    start = "data:image/png;base64,"
    sources = _attributes(page, "src")
    assert all(source.startswith(start) for source in sources)
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix(start)))))
        for source in sources
    ]
    for found, drawn in zip(shown, (_face(1), _face(2), GREY, _face(3)), strict=True):
        assert np.array_equal(found, drawn)


def test_empty_groups_are_left_out(page: Page) -> None:
    assert "Hardly any contrast" not in page.text
    empty = make_inputs() | {"examples": []}
    bare = Page(render_data_page(**empty))
    assert "img" not in bare.tags
    for title in ("Same image, different labels", "Faces to check", "One grey value Training"):
        assert title not in bare.text


def test_it_is_said_how_many_conflicts_are_not_shown(page: Page) -> None:
    assert "The worst 2 of 54, enlarged to twice their size" in page.text
    all_shown = _with(quality={"conflicting": 2})
    assert "Enlarged to twice their size" in all_shown.text


def test_nothing_on_the_page_is_fetched(drifted: Page) -> None:
    links = [
        value
        for name, value in drifted.attributes
        if name in ("src", "srcset", "href", "action", "data", "poster", "xlink:href")
    ]
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    assert not re.search(r"https?:|@import|url\(", "".join(drifted.styles))
    library, *figures = drifted.scripts
    assert "plotly.js v" in library[:300]
    assert len(figures) >= 3
    assert not re.search(r"https?:|import\(|plotly.js v", "".join(figures))
    policy = next(text for text in _attributes(drifted, "content") if "default-src" in text)
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "connect-src" not in policy


def test_same_inputs_give_the_same_bytes() -> None:
    inputs = make_inputs(make_data() | {"drift": make_drift()})
    again = make_inputs(make_data() | {"drift": make_drift()})
    assert render_data_page(**inputs) == render_data_page(**again)


def test_hostile_texts_stay_text(drifted: Page) -> None:
    data = make_data() | {"drift": make_drift(limit=0.05)}
    data["source"] |= dict.fromkeys(("uri", "version", "sha256", "edition", "labels"), HOSTILE)
    data["drift"]["previous"] |= dict.fromkeys(("uri", "version", "sha256"), HOSTILE)
    faces = [_odd(HOSTILE, GREY, HOSTILE), _odd(f"{HOSTILE} again", GREY, HOSTILE)]
    conflict = _conflict(GREY, (HOSTILE, HOSTILE, 1), ("Training", "sad", 1))
    html = render_data_page(**make_inputs(data) | {"examples": [conflict, conflict, *faces]})
    hostile = Page(html)
    assert HOSTILE not in html
    # No element of another kind, and no script or picture more.
    assert sorted(set(hostile.tags)) == sorted(set(drifted.tags))
    assert hostile.tags.count("script") == drifted.tags.count("script")
    assert hostile.tags.count("img") == drifted.tags.count("img")
    assert f"1 × {HOSTILE} in {HOSTILE}" in hostile.text
    assert f"Face: {HOSTILE}" in _attributes(hostile, "alt")
    assert "onerror" not in {name for name, _ in hostile.attributes}


def test_a_missing_figure_is_an_error() -> None:
    data = make_data()
    del data["source"]["edition"]
    with pytest.raises(UndefinedError, match="edition"):
        render_data_page(**make_inputs(data))


def test_class_bars_show_the_rare_class_by_its_share() -> None:
    training, public, private = class_bars(make_data()["classes"]).data
    assert [trace.name for trace in (training, public, private)] == [
        "Training",
        "PublicTest",
        "PrivateTest",
    ]
    assert training.y == EMOTIONS
    assert training.x[EMOTIONS.index("disgust")] == pytest.approx(100 * 436 / 28709)
    assert sum(private.x) == pytest.approx(100)


def test_histograms_of_versions_of_different_size_compare_by_share() -> None:
    versions = {"now": [0, 30, 10], "before": [1, 3, 0]}
    figure = grey_histogram(_greys([2, 6, 10], **versions), "grey")
    filled, line = figure.data
    assert (filled.name, line.name) == ("this version", "earlier version")
    assert list(filled.x) == [2, 6, 10]
    assert list(filled.y) == [0, 75, 25]
    assert list(line.y) == [25, 75, 0]
    assert figure.layout.xaxis.range == (0, 14)


def test_an_empty_set_has_empty_figures() -> None:
    nothing = {split: dict.fromkeys(EMOTIONS, 0) for split in make_data()["classes"]}
    assert all(sum(trace.x) == 0 for trace in class_bars(nothing).data)
    assert sum(grey_histogram(_greys(range(64), now=[0] * 64), "grey").data[0].y) == 0
