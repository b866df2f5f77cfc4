"""How good logits are: accuracy, F1, likelihood and calibration, on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.evaluation.reliability import confidence_bins

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

CLASSES = np.arange(NUM_EMOTIONS)


def score(
    logits: FloatArray, labels: Int64Array, temperature: float, ece_bins: int
) -> dict[str, object]:
    """All metrics of one classifier, as `metrics/evaluation.json` holds them.

    Args:
        logits: (N, C).
        labels: (N,).
        temperature: divides the logits before softmax; 1 for an uncalibrated model.
        ece_bins: bins of the expected calibration error.

    Returns:
        accuracy, macro_f1, nll (nats), ece, brier, and per_class with precision, recall, f1 and
        images. A class without images counts as 0 in macro_f1, as in scikit-learn.
    """
    predicted = logits.argmax(axis=1)
    probabilities = softmax(logits / temperature, axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=CLASSES, zero_division=0.0
    )
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1.mean()),
        "nll": negative_log_likelihood(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels, ece_bins),
        "brier": brier_score(probabilities, labels),
        "per_class": {
            name: {
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "f1": float(f1[code]),
                "images": int(support[code]),
            }
            for code, name in enumerate(EMOTIONS)
        },
    }


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


def confusion(predicted: Int64Array, labels: Int64Array) -> Int64Array:
    """(C, C) counts, rows actual, columns predicted."""
    return np.asarray(confusion_matrix(labels, predicted, labels=CLASSES), np.int64)
