"""Fusion weights by search for the best val accuracy: greedy selection and the whole grid.

Accuracy is a step function, so ties are common. They go to the lower val NLL, at temperature 1.
Each `prepare_…` takes val logits (M, N, C) and labels (N,), and gives a `Fitter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.arrays import BoolArray, FloatArray, Int64Array
from fer_pipeline.fusion.average import Fitter, fuse, image_hits, image_nll, mean_nll, top1_accuracy

if TYPE_CHECKING:
    from fer_pipeline.params.schema import FusionParams

SAME_NLL = 1e-9
"""Relative difference of two NLLs below which only the rounding of sums tells them apart."""

MOST_POINTS = 5000
"""The most points of a grid: enough for steps of a twentieth with up to four models."""


def prepare_greedy(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """Ensemble selection with replacement (Caruana et al., 2004), `greedy_rounds` long.

    Each round adds the model whose addition to the average gives the best accuracy; of models that
    tie in NLL too, the first. The weights are the models' shares in the best round: by accuracy,
    then by NLL, then the first.
    """
    models = len(logits)
    guesses = logits.argmax(axis=2)  # (M, N)
    disputed = np.flatnonzero((guesses != guesses[0]).any(axis=0))  # no weights change the others
    classes = _label_first(labels[disputed], logits.shape[2])  # (C, K)
    by_class = np.take_along_axis(logits[:, disputed].transpose(2, 0, 1), classes[:, None], axis=0)

    def fit(counts: FloatArray) -> FloatArray:
        return np.stack([select(own) for own in counts])

    def select(counts: FloatArray) -> FloatArray:
        def nll(weights: FloatArray) -> float:
            return float(image_nll(fuse(logits, weights), labels) @ counts)

        drawn = counts[disputed] > 0
        own_logits = np.ascontiguousarray(by_class[:, :, drawn])  # (C, M, K)
        bag = np.zeros_like(own_logits[:, :1])  # (C, 1, K) sum of the added models' logits
        added = np.zeros(models)
        rounds_weights: list[FloatArray] = []
        rounds_correct: list[float] = []
        for size in range(1, settings.greedy_rounds + 1):
            sums = bag + own_logits
            correct = _hits_by_class(sums, classes[:, drawn]) @ counts[disputed][drawn]  # (M,)
            weights = (added + np.eye(models)) / size  # (M, M), a row for each that could be added
            model = _first_best(correct, weights, nll)
            bag = sums[:, [model]]
            added[model] += 1
            rounds_weights.append(weights[model])
            rounds_correct.append(correct[model])
        return rounds_weights[_first_best(np.array(rounds_correct), np.array(rounds_weights), nll)]

    return fit


def prepare_grid(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """The point of `grid_points` with the best accuracy, then NLL, then nearest to uniform.

    What each point gives on each image is computed once; a resample is then a weighted sum.
    """
    points = grid_points(len(logits))  # (P, M)
    weights = points / points[0].sum()
    spread = (points**2).sum(axis=1)  # in whole numbers: grows with the distance from uniform
    hits = np.empty((len(points), len(labels)), np.float32)  # whole sums to 16 million are exact
    nll = np.empty((len(points), len(labels)))
    for row, own in enumerate(weights):
        fused = fuse(logits, own)
        hits[row], nll[row] = image_hits(fused, labels), image_nll(fused, labels)

    def fit(counts: FloatArray) -> FloatArray:
        correct = counts.astype(np.float32) @ hits.T  # (D, P)
        return np.stack([weights[choose(*draw)] for draw in zip(correct, counts, strict=True)])

    def choose(correct: FloatArray, counts: FloatArray) -> int:
        tied = np.flatnonzero(correct == correct.max())
        tied = tied[_lowest(nll[tied] @ counts)]
        return int(tied[spread[tied].argmin()])

    return fit


def grid_points(models: int) -> Int64Array:
    """(P, M) the grid in steps: every row has the same sum, which is the steps per side.

    It has the most steps per side, at most 20, that keep it within `MOST_POINTS`.
    """
    steps = max(k for k in range(1, 21) if k == 1 or math.comb(k + models - 1, k) <= MOST_POINTS)
    # Each way to write the steps as a sum of M numbers is a place for M - 1 bars among them.
    places = steps + models - 1
    bars = np.array(list(combinations(range(places), models - 1)), np.int64)  # (P, M - 1)
    ends = np.full((len(bars), 1), -1), np.full((len(bars), 1), places)
    return np.asarray(np.diff(np.hstack([ends[0], bars, ends[1]]), axis=1) - 1, np.int64)


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


def _label_first(labels: Int64Array, classes: int) -> Int64Array:
    """(C, N) the classes of each image: its label, then the others in their order."""
    others = np.arange(classes)[:, None] != labels
    return np.asarray(np.argsort(others, axis=0, kind="stable"), np.int64)


def _hits_by_class(logits: FloatArray, classes: Int64Array) -> BoolArray:
    """(M, N) what `image_hits` gives, several times faster: whole rows are compared, not images.

    Args:
        logits: (C, M, N), the classes of an image in the order of `classes`.
        classes: (C, N), each image's label first.
    """
    own, rival = logits[0], logits[1:].max(axis=0)  # (M, N)
    hits = np.asarray(own > rival)
    model, image = np.nonzero(own == rival)
    # As with argmax, the first class wins a tie.
    equal = logits[:, model, image] == own[model, image]  # (C, ties)
    earlier = classes[:, image] < classes[0, image]
    hits[model, image] = ~(equal & earlier).any(axis=0)
    return hits


def _first_best(
    correct: FloatArray, weights: FloatArray, nll: Callable[[FloatArray], float]
) -> int:
    """The number of the weights with the most correct, then the lowest NLL, then the first."""
    tied = np.flatnonzero(correct == correct.max())
    if len(tied) == 1:  # no need of NLLs, which take time
        return int(tied[0])
    return int(tied[_lowest(np.array([nll(weights[k]) for k in tied]))][0])


def _lowest(nll: FloatArray) -> BoolArray:
    """True where an NLL is the lowest, but for rounding."""
    return np.asarray(nll <= nll.min() * (1 + SAME_NLL))
