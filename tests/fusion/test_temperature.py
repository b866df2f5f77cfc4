"""The temperature recovers a known scale, and stays finite where there is nothing to recover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax
from synthetic_logits import IMAGES, make_labels, make_logits

from fer_pipeline.fusion.methods import fit_temperature


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_recovers_a_known_scale(scale: float) -> None:
    """Labels drawn from softmax(z): by construction, z is calibrated at temperature 1."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 7))
    draws = rng.random((20_000, 1)) < softmax(logits, axis=1).cumsum(axis=1)
    labels = draws.argmax(axis=1)
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.03)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_temperature_stays_in_its_bounds_which_follow_the_scale(scale: float) -> None:
    labels = make_labels()
    right, wrong = scale * np.eye(7)[labels], scale * np.eye(7)[(labels + 1) % 7]
    assert fit_temperature(wrong, labels) == pytest.approx(100 * wrong.std(), rel=1e-3)
    # Where every label is certain, any low temperature is as good as the lowest.
    assert 0.01 * right.std() <= fit_temperature(right, labels) < 0.1 * right.std()
    usual = make_logits(labels, [1.0])[0]
    found = fit_temperature(scale * usual, labels)
    assert found == pytest.approx(scale * fit_temperature(usual, labels), rel=1e-3)


def test_constant_logits_have_a_temperature_too() -> None:
    assert math.isfinite(fit_temperature(np.zeros((IMAGES, 7)), make_labels()))
