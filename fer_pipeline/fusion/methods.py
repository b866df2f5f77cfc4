"""The fusion methods, and what each of them gives on val.

To add one, give it a line in `METHODS`, and its name to `FusionParams.method`, which refuses any
other before a run begins: a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.average import Fitter, fuse, mean_nll, scale_of, top1_accuracy
from fer_pipeline.fusion.weights import (
    prepare_accuracy,
    prepare_greedy,
    prepare_grid,
    prepare_nll,
    prepare_uniform,
)

if TYPE_CHECKING:
    from fer_pipeline.params.schema import FusionParams


@dataclass(frozen=True)
class Method:
    """One way to fit fusion weights.

    Attributes:
        note: what it does, in a few words for the report.
        prepare: from val logits (M, N, C), labels (N,) and settings, what fits the weights.
    """

    note: str
    prepare: Callable[[FloatArray, Int64Array, FusionParams], Fitter]


METHODS: dict[str, Method] = {
    "uniform": Method("plain average", prepare_uniform),
    "accuracy": Method("weight follows val accuracy, as in Cao et al.", prepare_accuracy),
    "nll": Method("weights with the lowest val NLL", prepare_nll),
    "greedy": Method(
        "one model after the other, whichever helps val accuracy most", prepare_greedy
    ),
    "grid": Method("the best val accuracy of all weights on a grid", prepare_grid),
}


@dataclass(frozen=True)
class FittedMethod:
    """What one method gives on val.

    Attributes:
        weights: (M,) non-negative, summing to 1.
        temperature: the one that minimises val NLL.
        val_accuracy: top-1 on val, of the logits that are fused.
        val_nll: mean negative log-likelihood on val in nats, after temperature.
    """

    weights: FloatArray
    temperature: float
    val_accuracy: float
    val_nll: float


def prepare_methods(
    logits: FloatArray, labels: Int64Array, settings: FusionParams
) -> dict[str, Fitter]:
    """A fitter of every method, by name.

    Args:
        logits: (M, N, C) of val.
        labels: (N,).
        settings: of the methods.
    """
    return {name: method.prepare(logits, labels, settings) for name, method in METHODS.items()}


def fit_methods(
    fitters: Mapping[str, Fitter], logits: FloatArray, labels: Int64Array
) -> dict[str, FittedMethod]:
    """What every method gives, by name, with each image of val counted once."""
    once = np.ones((1, len(labels)))
    return {name: _fitted(logits, labels, fit(once)[0]) for name, fit in fitters.items()}


def fit_temperature(fused: FloatArray, labels: Int64Array) -> float:
    """The temperature that minimises the NLL of softmax(z / T), Guo et al. 2017.

    One is fitted to the fused logits whatever the method, because an average of calibrated models
    is not calibrated itself (Rahaman and Thiery, 2021).

    It is sought from a hundredth to a hundred times the logits' standard deviation.

    Args:
        fused: (N, C) logits.
        labels: (N,).
    """
    scale = scale_of(fused)
    found = minimize_scalar(
        lambda log_t: mean_nll(fused / (scale * np.exp(log_t)), labels),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
    )
    return float(scale * np.exp(found.x))


def _fitted(logits: FloatArray, labels: Int64Array, weights: FloatArray) -> FittedMethod:
    fused = fuse(logits, weights)
    temperature = fit_temperature(fused, labels)
    return FittedMethod(
        weights=weights,
        temperature=temperature,
        val_accuracy=top1_accuracy(fused, labels),
        val_nll=mean_nll(fused / temperature, labels),
    )
