"""The grid of weights: how fine it is, and what stands at its corners and inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic_logits import NAMES, fuse, make_labels, make_logits, mean_nll

from fer_pipeline.fusion.weights import grid_points, simplex_rows


@pytest.mark.parametrize(("models", "steps"), [(1, 20), (2, 20), (3, 20), (6, 11)])
def test_the_simplex_has_the_finest_grid_under_the_limit(models: int, steps: int) -> None:
    labels = make_labels()[:3]
    names = [f"m{n}" for n in range(models)]
    rows = simplex_rows(np.zeros((models, 3, 7)), labels, names)
    assert len(rows) == math.comb(steps + models - 1, models - 1) <= 5000
    points = [tuple(row[name] for name in names) for row in rows]
    assert len(set(points)) == len(points)
    assert all(sum(point) == pytest.approx(1.0, abs=5e-4) for point in points)
    assert steps == 20 or math.comb(steps + models, models - 1) > 5000


def test_the_corners_of_the_simplex_are_the_single_models() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    rows = {tuple(row[name] for name in NAMES): row for row in simplex_rows(logits, labels, NAMES)}
    for number, own in enumerate(logits):
        row = rows[tuple(float(number == other) for other in range(3))]
        assert row["val_accuracy"] == pytest.approx((own.argmax(1) == labels).mean(), abs=1e-6)
        assert row["val_nll"] == pytest.approx(mean_nll(own, labels), abs=1e-6)


def test_a_point_inside_the_simplex_is_the_fusion_by_its_weights() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    row = simplex_rows(logits, labels, NAMES)[100]
    fused = fuse(logits, np.array([row[name] for name in NAMES]))
    assert row["val_accuracy"] == pytest.approx((fused.argmax(1) == labels).mean(), abs=1e-6)
    assert row["val_nll"] == pytest.approx(mean_nll(fused, labels), abs=1e-6)


@pytest.mark.parametrize("models", [1, 2, 3, 4])
def test_up_to_four_models_the_grid_has_steps_of_a_twentieth(models: int) -> None:
    points = grid_points(models)
    assert (points.sum(axis=1) == 20).all()
    assert (points >= 0).all()


def test_a_class_that_val_lacks_is_no_obstacle_to_the_rows() -> None:
    labels = make_labels() % 5
    rows = simplex_rows(make_logits(labels, [0.5, 1.0, 2.0]), labels, NAMES)
    assert len(rows) == 231
    assert all(math.isfinite(float(str(row["val_nll"]))) for row in rows)
