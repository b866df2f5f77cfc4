"""Fusion weights in closed form or by a convex fit: uniform, accuracy and nll.

Each `prepare_…` takes val logits (M, N, C) and labels (N,), and gives a `Fitter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.average import Fitter, image_hits, scale_of

if TYPE_CHECKING:
    from fer_pipeline.params.schema import FusionParams


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
