"""Is a model right as often as it says? Confidence against accuracy, bin by bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bin:
    """The images whose top confidence lies in one bin: means as fractions."""

    confidence: float
    accuracy: float
    images: int


def reliability(
    logits: FloatArray, labels: Int64Array, temperature: float, bins: int
) -> tuple[Bin, ...]:
    """The bins of a reliability diagram, see `confidence_bins`.

    Args:
        logits: (N, C).
        labels: (N,).
        temperature: divides the logits before softmax.
        bins: how many there are.
    """
    return confidence_bins(softmax(logits / temperature, axis=1), labels, bins)


def confidence_bins(probabilities: FloatArray, labels: Int64Array, bins: int) -> tuple[Bin, ...]:
    """Bins of equal width over the top label's confidence (Guo et al. 2017); empty ones left out.

    Args:
        probabilities: (N, C).
        labels: (N,).
        bins: how many there are; certainty is in the last.
    """
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return tuple(
        Bin(float(confidence[rows].mean()), float(hits[rows].mean()), int(rows.sum()))
        for number in range(bins)
        if (rows := index == number).any()
    )
