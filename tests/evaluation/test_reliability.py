"""The bins of the diagram, against scikit-learn's calibration curve."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from fer_pipeline.evaluation.reliability import reliability


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_bins_are_those_of_scikit_learns_calibration_curve(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (500, 7)), rng.integers(0, 7, 500)
    bins = reliability(logits, labels, temperature, 15)
    chances = softmax(logits / temperature, axis=1)
    right = chances.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, chances.max(axis=1), n_bins=15)
    assert [one.accuracy for one in bins] == pytest.approx(accuracy)
    assert [one.confidence for one in bins] == pytest.approx(confidence)
    assert sum(one.images for one in bins) == 500


def test_empty_bins_are_left_out_and_certainty_is_in_the_last() -> None:
    logits = np.full((3, 7), -1000.0)
    logits[:, 2] = 1000.0
    (only,) = reliability(logits, np.array([2, 2, 0]), 1.0, 10)
    assert (only.confidence, only.accuracy, only.images) == (1.0, pytest.approx(2 / 3), 3)
