"""Fusion weights from val logits, one function per method, and the temperature after fusion.

Everything is a pure function of logits (M, N, C) and labels (N,). Weights are (M,),
non-negative, and sum to 1. One temperature is fitted to the fused logits whatever the method,
because an average of calibrated models is not calibrated itself (Rahaman and Thiery, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from fer_pipeline.errors import FusionError

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """What one method gives on val.

    Attributes:
        weights: (M,) non-negative, summing to 1.
        temperature: the one that minimises val NLL.
        accuracy: top-1 on val.
        nll: mean negative log-likelihood on val in nats, after temperature.
    """

    weights: FloatArray
    temperature: float
    accuracy: float
    nll: float


def fit_all(
    logits: FloatArray, labels: Int64Array, names: list[str], accuracy_exponent: float
) -> dict[str, Candidate]:
    """Every method's candidate, by name.

    Args:
        logits: (M, N, C) of val.
        labels: (N,).
        names: of the M backbones, for messages.
        accuracy_exponent: of the `accuracy` method.

    Raises:
        FusionError: some logits are not finite, or shapes do not agree.
    """
    _require_usable(logits, labels, names)
    weights = {
        "uniform": uniform_weights(len(logits)),
        "accuracy": accuracy_weights(logits, labels, accuracy_exponent),
        "nll": nll_weights(logits, labels),
    }
    return {name: _candidate(logits, labels, w) for name, w in weights.items()}


def fuse(logits: FloatArray, weights: FloatArray) -> FloatArray:
    """(N, C) weighted sum of (M, N, C) logits: formula (1) of Cao et al."""
    return np.asarray(np.einsum("m,mnc->nc", weights, logits))


def uniform_weights(count: int) -> FloatArray:
    """The plain average."""
    return np.full(count, 1.0 / count)


def accuracy_weights(logits: FloatArray, labels: Int64Array, exponent: float) -> FloatArray:
    """Weight follows val accuracy (Cao et al.): a_m^p / sum of a^p."""
    accuracy = (logits.argmax(axis=2) == labels).mean(axis=1)  # (M,)
    if not accuracy.any():
        return uniform_weights(len(logits))
    powers = (accuracy / accuracy.max()) ** exponent  # the largest is 1: no power underflows all
    return np.asarray(powers / powers.sum(), np.float64)


def nll_weights(logits: FloatArray, labels: Int64Array) -> FloatArray:
    """Non-negative weights that minimise the val NLL of softmax(sum of w_m z_m).

    The problem is convex in w. The sum of w is left free while minimising: it is an inverse
    temperature, so a model whose logits are on a larger scale than the others' gets a smaller
    weight. The result is normalised; the temperature is fitted again afterwards.
    """
    scales = np.array([_scale(own) for own in logits])  # the search wants them alike
    found = minimize(
        _nll_and_gradient,
        uniform_weights(len(logits)),
        args=(logits / scales[:, None, None], labels),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * len(logits),
    )
    weights = found.x / scales
    total = float(weights.sum())
    # All weights 0 is the optimum where no model is better than a guess.
    return np.asarray(weights / total) if total > 0 else uniform_weights(len(logits))


def fit_temperature(fused: FloatArray, labels: Int64Array) -> float:
    """The temperature that minimises the NLL of softmax(z / T), Guo et al. 2017.

    It is sought from a hundredth to a hundred times the logits' standard deviation.
    """
    scale = _scale(fused)
    found = minimize_scalar(
        lambda log_t: _mean_nll(fused / (scale * np.exp(log_t)), labels),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
    )
    return float(scale * np.exp(found.x))


def simplex_rows(
    logits: FloatArray, labels: Int64Array, names: list[str], most: int = 5000
) -> list[dict[str, object]]:
    """Val accuracy and NLL over a grid of weights: one row per point of the simplex.

    The grid has the most steps per side, at most 20, that keep it under `most` points.
    """
    steps = max(k for k in range(1, 21) if k == 1 or _grid_size(len(logits), k) <= most)
    rows: list[dict[str, object]] = []
    for point in _compositions(steps, len(logits)):
        weights = np.array(point) / steps
        fused = fuse(logits, weights)
        row: dict[str, object] = {
            name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)
        }
        row["val_accuracy"] = round(float((fused.argmax(axis=1) == labels).mean()), 6)
        row["val_nll"] = round(_mean_nll(fused, labels), 6)
        rows.append(row)
    return rows


def _candidate(logits: FloatArray, labels: Int64Array, weights: FloatArray) -> Candidate:
    fused = fuse(logits, weights)
    temperature = fit_temperature(fused, labels)
    return Candidate(
        weights=weights,
        temperature=temperature,
        accuracy=float((fused.argmax(axis=1) == labels).mean()),
        nll=_mean_nll(fused / temperature, labels),
    )


def _scale(logits: FloatArray) -> float:
    """Standard deviation of the logits, or 1 where they are all alike."""
    return float(logits.std()) or 1.0


def _mean_nll(logits: FloatArray, labels: Int64Array) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _nll_and_gradient(
    weights: FloatArray, logits: FloatArray, labels: Int64Array
) -> tuple[float, FloatArray]:
    """NLL and its gradient: the mean over n of <softmax(z_n) - onehot(y_n), z_mn>."""
    fused = fuse(logits, weights)
    residual = softmax(fused, axis=1)
    residual[np.arange(len(labels)), labels] -= 1.0
    return _mean_nll(fused, labels), np.einsum("nc,mnc->m", residual, logits) / len(labels)


def _require_usable(logits: FloatArray, labels: Int64Array, names: list[str]) -> None:
    if logits.ndim != 3 or logits.shape[:2] != (len(names), len(labels)):
        raise FusionError(
            f"val logits have shape {logits.shape}, not ({len(names)}, {len(labels)}, classes)"
        )
    for name, own in zip(names, logits, strict=True):
        if not np.isfinite(own).all():
            wrong = int((~np.isfinite(own)).any(axis=1).sum())
            raise FusionError(
                f"{name}: the logits of {wrong} val images are not finite: train it again"
            )


def _grid_size(parts: int, steps: int) -> int:
    size = 1
    for k in range(1, parts):
        size = size * (steps + k) // k
    return size


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` non-negative integers."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(total + 1)
        for rest in _compositions(total - first, parts - 1)
    ]
