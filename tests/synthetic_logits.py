"""What tests of fusion share: logits of models that err alike, and what they score, plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.methods import METHODS, FittedMethod, fit_methods, prepare_methods
from fer_pipeline.params.schema import FusionParams

IMAGES = 300
NAMES = ["resnet50", "resnet101", "inception_v3"]
SETTINGS = FusionParams(method="nll", accuracy_exponent=2.0, greedy_rounds=12, stability_draws=10)


def make_labels(seed: int = 0, images: int = IMAGES) -> Int64Array:
    return np.random.default_rng(seed).integers(0, 7, images)


def make_logits(
    labels: Int64Array, skills: Sequence[float], seed: int = 1, shared: float = 0.5
) -> FloatArray:
    """(M, N, 7): the label stands out by a model's skill, over errors that they partly share."""
    rng = np.random.default_rng(seed)
    signal = np.eye(7)[labels]
    common = shared * rng.normal(size=signal.shape)
    return np.stack([s * signal + common + rng.normal(size=signal.shape) for s in skills])


def fuse(logits: FloatArray, weights: FloatArray) -> FloatArray:
    return sum(w * z for w, z in zip(weights, logits, strict=True))


def mean_nll(logits: FloatArray, labels: Int64Array) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def accuracy(logits: FloatArray, labels: Int64Array) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def fit(
    method: str, logits: FloatArray, labels: Int64Array, settings: FusionParams = SETTINGS
) -> FloatArray:
    """(M,) one method's weights on all images."""
    return METHODS[method].prepare(logits, labels, settings)(np.ones((1, len(labels))))[0]


def fit_all(
    logits: FloatArray, labels: Int64Array, settings: FusionParams = SETTINGS
) -> dict[str, FittedMethod]:
    return fit_methods(prepare_methods(logits, labels, settings), logits, labels)


def assert_on_the_simplex(weights: FloatArray) -> None:
    assert (weights >= 0).all()
    assert abs(weights.sum() - 1.0) < 1e-12
