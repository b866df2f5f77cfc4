"""The simplex of weights as a grid, and val accuracy and NLL at each of its points."""

from __future__ import annotations

import math

import numpy as np

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.average import fuse, mean_nll, top1_accuracy

MOST_POINTS = 5000
"""The most points of a grid: enough for steps of a twentieth with up to four models."""


def grid_points(models: int) -> Int64Array:
    """(P, M) the grid in steps: every row has the same sum, which is the steps per side.

    It has the most steps per side, at most 20, that keep it within `MOST_POINTS`.
    """
    steps = max(k for k in range(1, 21) if k == 1 or _grid_size(models, k) <= MOST_POINTS)
    return np.array(_compositions(steps, models), np.int64)


def simplex_rows(
    logits: FloatArray, labels: Int64Array, names: list[str]
) -> list[dict[str, object]]:
    """Val accuracy and NLL (at temperature 1) over the grid: one row per point."""
    rows: list[dict[str, object]] = []
    for point in grid_points(len(logits)):
        weights = point / point.sum()
        fused = fuse(logits, weights)
        row: dict[str, object] = {
            name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)
        }
        row["val_accuracy"] = round(top1_accuracy(fused, labels), 6)
        row["val_nll"] = round(mean_nll(fused, labels), 6)
        rows.append(row)
    return rows


def _grid_size(models: int, steps: int) -> int:
    return math.comb(steps + models - 1, models - 1)


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` non-negative integers."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(total + 1)
        for rest in _compositions(total - first, parts - 1)
    ]
