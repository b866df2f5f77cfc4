"""The bins of the diagram are those of the expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from fer_pipeline.evaluation.metrics import expected_calibration_error
from fer_pipeline.evaluation.reliability import reliability


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_gaps_of_the_bins_add_up_to_the_calibration_error(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (500, 7)), rng.integers(0, 7, 500)
    bins = reliability(logits, labels, temperature, 15)
    assert sum(one.images for one in bins) == 500
    error = sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / 500
    wanted = expected_calibration_error(softmax(logits / temperature, axis=1), labels, 15)
    assert error == pytest.approx(wanted)


def test_empty_bins_are_left_out_and_certainty_is_in_the_last() -> None:
    logits = np.full((3, 7), -1000.0)
    logits[:, 2] = 1000.0
    (only,) = reliability(logits, np.array([2, 2, 0]), 1.0, 10)
    assert (only.confidence, only.accuracy, only.images) == (1.0, pytest.approx(2 / 3), 3)
