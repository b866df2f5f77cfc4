"""How good logits are: accuracy, F1, likelihood and calibration, on arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import softmax

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
}
"""The metrics of a model that tables show: field of `Scores`, and its name for people."""


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one emotion, as fractions, and how many images have it."""

    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Scores:
    """All metrics of one classifier.

    Attributes:
        accuracy: top-1, a fraction.
        macro_f1: mean F1 of the classes. One without images counts as 0, as in scikit-learn.
        nll: mean negative log-likelihood in nats.
        ece: expected calibration error, a fraction.
        brier: see `brier_score`. None in evaluations from before it was recorded.
        per_class: by emotion.
    """

    accuracy: float
    macro_f1: float
    nll: float
    ece: float
    brier: float | None = None
    per_class: dict[str, ClassScores] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """The images whose top confidence lies in one bin: means as fractions."""

    confidence: float
    accuracy: float
    images: int


def score(logits: FloatArray, labels: Int64Array, temperature: float, ece_bins: int) -> Scores:
    """All metrics of one classifier.

    Args:
        logits: (N, C).
        labels: (N,).
        temperature: divides the logits before softmax; 1 for an uncalibrated model.
        ece_bins: bins of the expected calibration error.
    """
    predicted = logits.argmax(axis=1)
    probabilities = softmax(logits / temperature, axis=1)
    counts = np.array(confusion(logits, labels))
    hits, support, guesses = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _share(hits, guesses), _share(hits, support)
    f1 = _share(2 * hits, guesses + support)
    return Scores(
        accuracy=float((predicted == labels).mean()),
        macro_f1=float(f1.mean()),
        nll=negative_log_likelihood(probabilities, labels),
        ece=expected_calibration_error(probabilities, labels, ece_bins),
        brier=brier_score(probabilities, labels),
        per_class={
            name: ClassScores(
                float(precision[code]), float(recall[code]), float(f1[code]), int(support[code])
            )
            for code, name in enumerate(EMOTIONS)
        },
    )


def negative_log_likelihood(probabilities: FloatArray, labels: Int64Array) -> float:
    """Mean NLL in nats; a probability of 0 counts as the smallest positive double."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(probabilities: FloatArray, labels: Int64Array, bins: int) -> float:
    """ECE of the top label with bins of equal width (Naeini et al. 2015, Guo et al. 2017)."""
    found = confidence_bins(probabilities, labels, bins)
    gaps = sum(one.images * abs(one.accuracy - one.confidence) for one in found)
    return gaps / len(labels)


def brier_score(probabilities: FloatArray, labels: Int64Array) -> float:
    """Mean over images of the squared distance to the label as a 0-1 vector (Brier, 1950).

    In Brier's own form, from 0 to 2: the sum over all classes, not halved and not averaged.
    """
    truth = np.eye(probabilities.shape[1])[labels]  # (N, C)
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


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


def confusion(logits: FloatArray, labels: Int64Array) -> tuple[tuple[int, ...], ...]:
    """C rows of C counts: rows actual, columns predicted by (N, C) logits."""
    counts = np.zeros((NUM_EMOTIONS, NUM_EMOTIONS), np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    return tuple(tuple(row) for row in counts.tolist())


def _share(part: Int64Array, whole: Int64Array) -> FloatArray:
    """Part of whole, and 0 of nothing."""
    return part / np.maximum(whole, 1)
