"""Drift is nothing between equal sets, and the textbook's figures between others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from two_greys import halves

from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES, Profile, profile_of
from fer_pipeline.data.quality.drift import measure_drift, require_small
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.errors import DataError

ALIKE = (5, 5, 5, 5, 5, 5, 5)


def profile(classes: tuple[int, ...], labels: str = "fer") -> Profile:
    """All of the images have one brightness and one contrast."""
    images = sum(classes)
    brightness, contrast = [0] * len(BRIGHTNESS_MIDDLES), [0] * len(CONTRAST_MIDDLES)
    brightness[32] = contrast[16] = images
    return Profile(labels, classes, tuple(brightness), tuple(contrast))


def test_equal_sets_have_not_drifted() -> None:
    found = profile_of(draw_sample(28, 14, 14, seed=0), "fer")
    drift = measure_drift(found, found)
    assert drift.largest == 0
    assert drift.class_balance is not None
    assert (drift.class_balance.chi2, drift.class_balance.p) == (0, 1)
    assert (drift.brightness.ks, drift.brightness.p) == (0, 1)
    assert (drift.contrast.ks, drift.contrast.p) == (0, 1)


def test_a_shift_of_classes_has_the_textbooks_chi_square_and_cramers_v() -> None:
    """Rows 10, 20, 30 and 30, 20, 10: 20 expected in each, so chi-square is 4 * 100 / 20 = 20."""
    now, before = profile((10, 20, 30, 0, 0, 0, 0)), profile((30, 20, 10, 0, 0, 0, 0))
    found = measure_drift(now, before)
    assert found.class_balance is not None
    assert found.class_balance.chi2 == pytest.approx(20)
    assert found.class_balance.p == pytest.approx(np.exp(-10))  # two degrees of freedom
    assert found.class_balance.cramers_v == pytest.approx(np.sqrt(20 / 120))
    assert found.largest == found.class_balance.cramers_v


def test_two_classes_are_compared_without_a_correction() -> None:
    """Rows 30, 10 and 10, 30: chi-square is 4 * 100 / 20 = 20 again, of 80 images."""
    found = measure_drift(profile((30, 10, 0, 0, 0, 0, 0)), profile((10, 30, 0, 0, 0, 0, 0)))
    assert found.class_balance is not None
    assert found.class_balance.chi2 == pytest.approx(20)
    assert found.class_balance.cramers_v == pytest.approx(0.5)


def test_a_single_class_has_not_drifted() -> None:
    found = measure_drift(profile((30, 0, 0, 0, 0, 0, 0)), profile((10, 0, 0, 0, 0, 0, 0)))
    assert found.largest == 0


def test_labels_from_different_places_are_not_compared() -> None:
    now, before = profile((35, 0, 0, 0, 0, 0, 0)), profile(ALIKE, "ferplus_majority")
    drift = measure_drift(now, before)
    assert drift.class_balance is None
    assert drift.largest == 0


def test_a_shift_of_contrast_counts_as_much() -> None:
    now, before = (
        profile_of(halves([greys] * 4), labels)
        for greys, labels in (((60, 140), "fer"), ((100, 100), "ferplus_majority"))
    )
    drift = measure_drift(now, before)
    assert (drift.brightness.ks, drift.contrast.ks, drift.largest) == (0, 1, 1)


def test_a_drift_beyond_the_limit_is_refused_with_the_figure_that_is_the_largest() -> None:
    drift = measure_drift(profile((35, 0, 0, 0, 0, 0, 0)), profile((0, 35, 0, 0, 0, 0, 0)))
    for accepted in (None, 1.0):
        require_small(drift, accepted, "")
    with pytest.raises(DataError) as refused:
        require_small(drift, 0.2, "look at it")
    assert "its class balance differs by 1.000" in str(refused.value)
    assert "data.max_drift, which is 0.2" in str(refused.value)
    assert str(refused.value).endswith("look at it")


GREYS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=3, max_size=12)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(GREYS, GREYS)
def test_ks_is_scipys_on_the_binned_figures_of_the_images(
    now: list[tuple[int, int]], before: list[tuple[int, int]]
) -> None:
    drift = measure_drift(profile_of(halves(now), "fer"), profile_of(halves(before), "fer"))
    # Half of an image has one grey and half the other: mean and deviation are known exactly.
    for found, figure in (
        (drift.brightness, lambda left, right: (left + right + 4) // 8),
        (drift.contrast, lambda left, right: abs(left - right) // 8),
    ):
        binned = ([figure(*greys) for greys in rows] for rows in (now, before))
        wanted = ks_2samp(*binned, method="asymp")
        assert found.ks == pytest.approx(wanted.statistic)
        assert found.p == pytest.approx(wanted.pvalue)
