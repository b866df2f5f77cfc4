"""Fusion weights in closed form, by a convex fit, or by a search for the best val accuracy.

Each `prepare_…` takes val logits (M, N, C) and labels (N,), and gives a `Fitter`. Accuracy is a
step function, so ties are common in a search: they go to the lower val NLL, at temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from fer_pipeline.arrays import BoolArray, FloatArray, Int64Array
from fer_pipeline.fusion.average import (
    Fitter,
    fuse,
    image_hits,
    image_nll,
    mean_nll,
    scale_of,
    top1_accuracy,
)

if TYPE_CHECKING:
    from fer_pipeline.params.schema import FusionParams

SAME_NLL = 1e-9
"""Relative difference of two NLLs below which only the rounding of sums tells them apart."""

MOST_POINTS = 5000
"""The most points of a grid: enough for steps of a twentieth with up to four models."""


def prepare_uniform(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """The plain average, whatever the images say."""
    return lambda counts: np.tile(uniform_weights(len(logits)), (len(counts), 1))


def prepare_accuracy(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """Weight follows val accuracy (Cao et al.), raised to `accuracy_exponent`."""
    hits = image_hits(logits, labels).astype(np.float64)  # (M, N)

    def fit(counts: FloatArray) -> FloatArray:
        correct = counts @ hits.T  # (D, M)
        return np.stack([accuracy_weights(own, settings.accuracy_exponent) for own in correct])

    return fit


def prepare_nll(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """Non-negative weights that minimise the val NLL of softmax(sum of w_m z_m).

    The problem is convex in w. The sum of w is left free while minimising: it is an inverse
    temperature, so a model whose logits are on a larger scale than the others' gets a smaller
    weight. The result is normalised; the temperature is fitted again afterwards.
    """
    scales = np.array([scale_of(own) for own in logits])  # the search wants them alike
    alike = np.ascontiguousarray((logits / scales[:, None, None]).transpose(0, 2, 1))  # (M, C, N)

    def fit(counts: FloatArray) -> FloatArray:
        return np.stack([_to_simplex(_minimise_nll(alike, labels, own) / scales) for own in counts])

    return fit


def prepare_greedy(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> Fitter:
    """Ensemble selection with replacement (Caruana et al., 2004), `greedy_rounds` long.

    Each round adds the model whose addition to the average gives the best accuracy; of models that
    tie in NLL too, the first. The weights are the models' shares in the best round: by accuracy,
    then by NLL, then the first.
    """
    models = len(logits)
    guesses = logits.argmax(axis=2)  # (M, N)
    disputed = np.flatnonzero((guesses != guesses[0]).any(axis=0))  # no weights change the others

    def fit(counts: FloatArray) -> FloatArray:
        return np.stack([select(own) for own in counts])

    def select(counts: FloatArray) -> FloatArray:
        def nll(weights: FloatArray) -> float:
            return float(image_nll(fuse(logits, weights), labels) @ counts)

        drawn = disputed[counts[disputed] > 0]
        bag = np.zeros_like(logits[0, drawn])  # (K, C) sum of the added models' logits
        added = np.zeros(models)
        rounds_weights: list[FloatArray] = []
        rounds_correct: list[float] = []
        for size in range(1, settings.greedy_rounds + 1):
            correct = image_hits(bag + logits[:, drawn], labels[drawn]) @ counts[drawn]  # (M,)
            weights = (added + np.eye(models)) / size  # (M, M), a row for each that could be added
            model = _first_best(correct, weights, nll)
            bag += logits[model, drawn]
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


def uniform_weights(models: int) -> FloatArray:
    """(M,) all the same."""
    return np.full(models, 1.0 / models)


def accuracy_weights(accuracy: FloatArray, exponent: float) -> FloatArray:
    """(M,) a_m^p / sum of a^p, of (M,) accuracies or anything proportional to them."""
    if not accuracy.any():
        return uniform_weights(len(accuracy))
    return _to_simplex((accuracy / accuracy.max()) ** exponent)  # not all can underflow: one is 1


def _minimise_nll(by_class: FloatArray, labels: Int64Array, counts: FloatArray) -> FloatArray:
    """(M,) non-negative weights of any sum that minimise the NLL of (M, C, N) logits."""
    drawn = counts > 0
    found = minimize(
        _nll_and_gradient,
        uniform_weights(len(by_class)),
        args=(by_class[:, :, drawn], labels[drawn], counts[drawn] / counts.sum()),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(by_class),
    )
    return np.asarray(found.x, np.float64)


def _nll_and_gradient(
    weights: FloatArray, by_class: FloatArray, labels: Int64Array, shares: FloatArray
) -> tuple[float, FloatArray]:
    """NLL, and its gradient: the mean over n of <softmax(z_n) - onehot(y_n), z_mn>.

    Args:
        weights: (M,).
        by_class: (M, C, N) logits.
        labels: (N,).
        shares: (N,) of each image in the mean, summing to 1.
    """
    rows = by_class.reshape(len(by_class), -1)  # (M, C * N)
    fused = np.einsum("m,mk->k", weights, rows).reshape(by_class.shape[1:])  # (C, N)
    fused -= fused.max(axis=0)
    images = np.arange(len(labels))
    own = fused[labels, images]
    powers = np.exp(fused)
    totals = powers.sum(axis=0)
    residual = powers * (shares / totals)
    residual[labels, images] -= shares
    # einsum, not BLAS: its sums do not depend on the number of threads.
    nll = float(np.einsum("n,n->", np.log(totals) - own, shares))
    return nll, np.asarray(np.einsum("mk,k->m", rows, residual.ravel()))


def _to_simplex(weights: FloatArray) -> FloatArray:
    total = float(weights.sum())
    # All weights 0 is the optimum where no model is better than a guess.
    return weights / total if total > 0 else uniform_weights(len(weights))


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
