"""Weighted average fusion of logits, and what fused logits score, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fer_pipeline.arrays import BoolArray, Float32Array, FloatArray, Int64Array
from fer_pipeline.errors import FusionError

Fitter = Callable[[FloatArray], FloatArray]
"""Fits one method's weights to resamples of val.

It takes (D, N): how often each of the N images counts in each of D resamples, in whole numbers.
It returns (D, M): a resample's weights, non-negative, summing to 1.
"""


def fuse(logits: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted average fusion, formula (1) of Cao et al.

    Args:
        logits: (M, N, C), one slice per backbone.
        weights: (M,), non-negative, summing to 1.

    Returns:
        (N, C) fused logits.

    Raises:
        FusionError: M differs between the two.
    """
    if len(logits) != len(weights):
        raise FusionError(f"{len(logits)} sets of logits can't be fused by {len(weights)} weights")
    return np.asarray(np.einsum("m,mnc->nc", weights, logits))


def probabilities(fused: FloatArray | Float32Array, temperature: float) -> FloatArray:
    """(N, C) calibrated probabilities: softmax of the fused logits over the temperature."""
    powers = np.exp((fused - fused.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def image_hits(logits: FloatArray, labels: Int64Array) -> BoolArray:
    """(..., N) true where the largest of (..., N, C) logits is the label's."""
    return np.asarray(logits.argmax(axis=-1) == labels)


def image_nll(logits: FloatArray, labels: Int64Array) -> FloatArray:
    """(N,) negative log-likelihoods of softmax((N, C) logits), in nats."""
    by_class = np.ascontiguousarray(
        logits.T
    )  # (C, N): numpy sums few long rows several times faster
    by_class -= by_class.max(axis=0)
    own = by_class[labels, np.arange(len(labels))]
    return np.asarray(np.log(np.exp(by_class).sum(axis=0)) - own)


def top1_accuracy(logits: FloatArray, labels: Int64Array) -> float:
    """Share of images whose largest logit is their label's."""
    return float(image_hits(logits, labels).mean())


def mean_nll(logits: FloatArray, labels: Int64Array) -> float:
    """Mean of `image_nll`."""
    return float(image_nll(logits, labels).mean())


def scale_of(logits: FloatArray) -> float:
    """Standard deviation of the logits, or 1 where they are all alike."""
    return float(logits.std()) or 1.0
