"""The page is checked as a reader gets it: by its text, its links and its bytes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pages import HOSTILE, Page, make_data, make_drift

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.plots import simplex_map
from fer_pipeline.evaluation.report import ReportInputs, render_report

IMAGES = (491, 55, 528, 879, 594, 416, 626)
PAPER = ("resnet50", "resnet101", "inception_v3")


def _scores(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.02,
        "nll": 1.9 - 1.5 * accuracy,
        "ece": 0.021,
        "per_class": {
            emotion: {"precision": accuracy, "recall": accuracy, "f1": accuracy, "images": images}
            for emotion, images in zip(EMOTIONS, IMAGES, strict=True)
        },
    }


def _comparison(names: tuple[str, ...]) -> dict[str, Any]:
    single = {name: 0.687 - 0.01 * rank for rank, name in enumerate(names)}
    return {
        "fused": _scores(0.718),
        "single": {name: _scores(accuracy) for name, accuracy in single.items()},
        "best_single": names[0],
        "gain": {"accuracy": 0.031, "ci95": [0.0204, 0.0409], "mcnemar_p": 0.0001},
    }


def _confusion(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    shares = 0.7 * np.eye(7) + 0.3 * rng.dirichlet(np.ones(7), size=7)
    return np.array([rng.multinomial(n, p) for n, p in zip(IMAGES, shares, strict=True)])


def _simplex(names: tuple[str, ...], steps: int = 4) -> list[dict[str, str]]:
    """A grid over the first three weights; the others are 0."""
    rows = []
    for i in range(steps + 1):
        for j in range(steps + 1 - i):
            point = [i / steps, j / steps, (steps - i - j) / steps]
            accuracy = 0.718 - 0.06 * sum((weight - 1 / 3) ** 2 for weight in point)
            weights = [*point, *[0.0] * len(names)][: len(names)]
            rows.append(
                {name: str(weight) for name, weight in zip(names, weights, strict=True)}
                | {"val_accuracy": f"{accuracy:.6f}", "val_nll": "0.8"}
            )
    return rows


def _curve(epochs: int) -> list[dict[str, str]]:
    return [
        {
            "epoch": str(epoch),
            "phase": "head" if epoch <= 2 else "finetune",
            "learning_rate": "0.001",
            "train_loss": "1.0",
            "val_loss": "1.0",
            "val_accuracy": f"{0.7 - 0.4 / epoch:.4f}",
        }
        for epoch in range(1, epochs + 1)
    ]


def _method(names: tuple[str, ...], temperature: float) -> dict[str, Any]:
    return {
        "weights": {name: 1 / len(names) for name in names},
        "temperature": temperature,
        "val_accuracy": 0.716,
        "val_nll": 0.81,
    }


def make_inputs(names: tuple[str, ...] = PAPER, synthetic: bool = False) -> ReportInputs:
    """A result as the paper's recipe might give it."""
    rng = np.random.default_rng(0)
    methods = {"uniform": 1.21, "accuracy": 1.22, "nll": 1.24}
    return ReportInputs(
        evaluation={
            "protocol": "official",
            "test": {"images": 3589, "sha256": "ab" * 32},
            **_comparison(names),
            "methods": {name: {"test_accuracy": 0.7177} for name in methods},
            "clean": {"images": 3310, **_comparison(names)},
        },
        fusion={
            "method": "nll",
            "weights": {name: 1 / len(names) for name in names},
            "temperature": 1.24,
            "methods": {name: _method(names, value) for name, value in methods.items()},
        },
        data=make_data(synthetic=synthetic),
        gate_passed=True,
        gate_reasons=("fused 71.80% beats resnet50 68.70% by more than 0 points (+3.10)",),
        curves={name: _curve(8) for name in names},
        simplex=_simplex(names),
        confusions={name: _confusion(rng) for name in ("fused", *names)},
        recipe={
            "seed": 7,
            "backbones": {
                name: {
                    "weights": "imagenet",
                    "image_size": 224,
                    "head_epochs": 2,
                    "finetune_epochs": 6,
                }
                for name in names
            },
        },
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(make_inputs()))


def test_page_opens_with_verdict_and_gain(page: Page) -> None:
    assert (
        "Fused 71.8 % vs best single 68.7 %: +3.1 points "
        "(95 % interval 2.0 to 4.1, McNemar p 0.0001)"
    ) in page.text
    assert "✓ Gate passed" in page.text
    assert "The interval lies above zero" in page.text


def test_loss_and_tiny_p_are_written_as_such() -> None:
    inputs = make_inputs()
    gain = {"accuracy": -0.0123, "ci95": [-0.021, -0.0001], "mcnemar_p": 3e-9}
    lost = replace(inputs, evaluation={**inputs.evaluation, "gain": gain})
    text = Page(render_report(lost)).text
    minus = "\N{MINUS SIGN}"
    interval = f"95 % interval {minus}2.1 to 0.0"
    assert f"{minus}1.2 points ({interval}, McNemar p < 0.0001)" in text
    assert "The interval lies below zero" in text


def test_failed_gate_says_so_with_its_reasons() -> None:
    failed = replace(make_inputs(), gate_passed=False, gate_reasons=("fused ties with resnet50",))
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
    paper = replace(inputs, evaluation={**inputs.evaluation, "protocol": "paper"})
    assert "optimistic" in Page(render_report(paper)).text
    assert "optimistic" not in page.text


def test_scores_methods_and_facts_are_on_the_page(page: Page) -> None:
    for shown in (
        "Official test: 3,589 images",
        "Clean subset: 3,310 images",
        "nll this one counts",
        "resnet50 0.333",
        "34,034 of 35,887",
        "https://data.example/fer2013.csv",
        "cdcdcdcdcdcd",
        "433 groups of images that look alike; 161 reach over splits, 81 test images",
        "nothing dropped, nothing relabelled",
        "fer, edition fer2013.csv",
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


def test_page_without_clean_images_says_so() -> None:
    inputs = make_inputs()
    bare = replace(inputs, evaluation={**inputs.evaluation, "clean": None})
    text = Page(render_report(bare)).text
    assert "There is no clean subset" in text
    assert "Clean subset:" not in text


def test_nothing_on_the_page_is_fetched(page: Page) -> None:
    links = [
        value
        for name, value in page.attributes
        if name in ("src", "srcset", "href", "action", "data", "poster", "xlink:href")
    ]
    assert links == ["data:,", "data.html"]
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


def test_triangle_names_its_corners_and_marks_the_weights() -> None:
    chosen = {"resnet50": 0.2, "resnet101": 0.3, "inception_v3": 0.5}
    figure = simplex_map(_simplex(PAPER), chosen)
    assert figure is not None
    _, star, corners = figure.data
    assert corners.text == tuple(f"<b>{name}</b>" for name in PAPER)
    assert (corners.a, corners.b, corners.c) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert (star.a, star.b, star.c) == ((0.2,), (0.3,), (0.5,))
