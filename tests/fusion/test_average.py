"""Formula (1) of the paper by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import fuse, probabilities


def test_fused_logits_are_the_weighted_average() -> None:
    logits = np.array([[[1.0, 2.0], [0.0, -4.0]], [[3.0, -2.0], [8.0, 4.0]]])  # (2, 2, 2)
    fused = fuse(logits, np.array([0.25, 0.75]))
    assert fused.tolist() == [[2.5, -1.0], [6.0, 2.0]]


def test_a_weight_of_one_gives_back_its_own_model() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 7))
    np.testing.assert_array_equal(fuse(logits, np.array([0.0, 1.0, 0.0])), logits[1])


@pytest.mark.parametrize("weights", [1, 3])
def test_as_many_weights_as_models_are_needed(weights: int) -> None:
    with pytest.raises(FusionError, match=f"2 sets of logits can't be fused by {weights} weights"):
        fuse(np.zeros((2, 4, 7)), np.ones(weights))


def test_probabilities_are_the_softmax_over_the_temperature_however_large_the_logits() -> None:
    logits = np.array([[2 * math.log(3.0), 0.0], [2000.0, 2000.0]])
    assert probabilities(logits, 2.0) == pytest.approx(np.array([[0.75, 0.25], [0.5, 0.5]]))
