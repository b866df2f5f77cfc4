"""The triangle: its corners, its grid, and a sign for each method."""

from __future__ import annotations

from report_inputs import PAPER, make_simplex

from fer_pipeline.reports.simplex_plot import simplex_map

METHODS = {
    "uniform": dict.fromkeys(PAPER, 1 / 3),
    "nll": {"resnet50": 0.2, "resnet101": 0.3, "inception_v3": 0.5},
    "grid": {"resnet50": 0.0, "resnet101": 0.25, "inception_v3": 0.75},
}


def test_the_corners_are_the_backbones_and_every_method_has_a_sign() -> None:
    figure = simplex_map(make_simplex(PAPER), METHODS, "nll")
    assert figure is not None
    grid, uniform, best, star, corners = figure.data
    assert len(grid.a) == 15
    assert corners.text == tuple(f"<b>{name}</b>" for name in PAPER)
    assert (corners.a, corners.b, corners.c) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert (star.a, star.b, star.c) == ((0.2,), (0.3,), (0.5,))
    assert (best.a, best.b, best.c) == ((0.0,), (0.25,), (0.75,))
    assert [one.name for one in (uniform, best, star)] == ["uniform", "grid", "<b>nll</b> (counts)"]
    assert len({one.marker.symbol for one in (uniform, best, star)}) == 3
    assert [one.showlegend for one in (grid, corners)] == [False, False]


def test_without_three_backbones_or_a_grid_there_is_no_triangle() -> None:
    two = {"nll": {"resnet50": 0.4, "resnet101": 0.6}}
    assert simplex_map(make_simplex(PAPER[:2]), two, "nll") is None
    assert simplex_map([], METHODS, "nll") is None
