"""McNemar by hand and against statsmodels; the bootstrap against SciPy's, and against a loop that
draws groups one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from fer_pipeline.arrays import BoolArray, Int64Array
from fer_pipeline.evaluation.significance import Gain, conclude, gain_interval, gain_over, mcnemar_p


def hits(both: int, only_a: int, only_b: int, neither: int) -> tuple[BoolArray, BoolArray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def interval_by_loop(
    a: BoolArray, b: BoolArray, groups: Int64Array, draws: int
) -> tuple[float, float]:
    """Draw as many groups as there are, with replacement, and pool their images."""
    rng = np.random.default_rng(99)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    gains = []
    for _ in range(draws):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[number] for number in drawn])
        gains.append(a[rows].mean() - b[rows].mean())
    return float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (3, 3, 1.0),
        (5, 1, 14 / 64),  # 2 (1 + 6) / 2^6
        (6, 0, 2 / 64),
        (10, 0, 2 / 1024),
        (8, 2, 112 / 1024),  # 2 (1 + 10 + 45) / 2^10
        (5, 4, 1.0),
    ],
)
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(only_a: int, only_b: int, p: float) -> None:
    a, b = hits(20, only_a, only_b, 11)
    assert mcnemar_p(a, b) == pytest.approx(p, rel=1e-12)
    assert mcnemar_p(b, a) == pytest.approx(p, rel=1e-12)


def test_images_on_which_both_agree_do_not_count_for_mcnemar() -> None:
    assert mcnemar_p(*hits(0, 8, 2, 0)) == mcnemar_p(*hits(500, 8, 2, 300))


@settings(deadline=None, max_examples=200)
@given(*[st.integers(0, 400)] * 4)
def test_mcnemar_is_that_of_statsmodels(both: int, only_a: int, only_b: int, none: int) -> None:
    wanted = mcnemar([[both, only_a], [only_b, none]], exact=True).pvalue
    # With an even split statsmodels counts the middle twice, and cuts at 1.
    assert mcnemar_p(*hits(both, only_a, only_b, none)) == pytest.approx(min(wanted, 1.0), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_without_copies_the_interval_is_scipys_bootstrap_of_paired_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = int(rng.integers(100, 400))
    a, b = rng.random(images) < rng.uniform(0.5, 0.9), rng.random(images) < rng.uniform(0.5, 0.9)
    wanted = bootstrap(
        (a.astype(float) - b.astype(float),),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(99),
    ).confidence_interval
    found = gain_interval(a, b, np.arange(images), draws=20_000, seed=0)
    # The quantiles of so many draws are known to a fiftieth of the standard error; the means
    # come in steps of one image.
    spread = (a.astype(float) - b.astype(float)).std() / images**0.5
    assert found == pytest.approx((wanted.low, wanted.high), abs=0.1 * spread + 1.01 / images)


def test_a_gain_is_the_difference_with_its_interval_and_its_p() -> None:
    a, b = hits(20, 8, 2, 10)
    groups = np.arange(40) // 2
    found = gain_over(a, b, groups, 500, seed=4)
    interval = gain_interval(a, b, groups, 500, seed=4)
    assert found == Gain(pytest.approx(0.15), interval, mcnemar_p(a, b))


@pytest.mark.parametrize("copies", [1, 4])
def test_the_interval_is_that_of_drawing_groups_in_a_loop(copies: int) -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), rng.integers(1, copies + 1, 60))
    a = (rng.random(60) < 0.7)[groups] ^ (rng.random(len(groups)) < 0.05)
    b = (rng.random(60) < 0.5)[groups] ^ (rng.random(len(groups)) < 0.05)
    found = gain_interval(a, b, groups, draws=20_000, seed=0)
    wanted = interval_by_loop(a, b, groups, draws=4_000)
    # The bootstrap's spread is about 0.08, so its 2.5 % quantile of 4,000 draws is known to 0.004.
    assert found == pytest.approx(wanted, abs=0.012)
    assert found[0] < a.mean() - b.mean() < found[1]


def test_copies_in_one_group_count_as_one_image_would() -> None:
    """Were copies drawn one by one, eight of each would shrink the interval to about a third."""
    a, b = hits(30, 12, 6, 20)
    groups = np.arange(68)
    once = gain_interval(a, b, groups, 5000, seed=0)
    copied = gain_interval(*(np.repeat(x, 8) for x in (a, b, groups)), 5000, seed=0)
    assert copied == pytest.approx(once, abs=1e-12)
    apart = gain_interval(np.repeat(a, 8), np.repeat(b, 8), np.arange(68 * 8), 5000, seed=0)
    assert apart[1] - apart[0] < 0.5 * (once[1] - once[0])


def test_no_difference_gives_p_one_and_an_interval_of_nothing() -> None:
    a, _ = hits(10, 5, 0, 5)
    assert mcnemar_p(a, a) == 1.0
    assert gain_interval(a, a, np.arange(20), 1000, seed=0) == (0.0, 0.0)


def test_a_large_group_weighs_by_its_images_wherever_it_is_drawn() -> None:
    """One image that only a gets, and nine copies of one that both get."""
    a, b = hits(9, 1, 0, 0)
    groups = np.repeat([0, 1], [9, 1])
    assert gain_interval(a, b, groups, 2000, seed=0) == (0.0, 1.0)
    # Half of the draws, the middle ones, have one of each.
    assert gain_interval(a, b, groups, 2000, seed=0, level=0.2) == (0.1, 0.1)


def test_one_group_leaves_nothing_to_draw() -> None:
    a, b = hits(1, 2, 1, 1)
    assert gain_interval(a, b, np.zeros(5, np.int64), 1000, seed=0) == pytest.approx((0.2, 0.2))


def test_an_image_by_itself_is_an_interval_by_itself() -> None:
    one, none = np.array([True]), np.array([False])
    assert gain_interval(one, none, np.array([7]), 100, seed=0) == (1.0, 1.0)


def test_swapping_the_classifiers_mirrors_the_interval() -> None:
    a, b = hits(30, 12, 6, 20)
    low, high = gain_interval(a, b, np.arange(68), 20_000, seed=0)
    swapped = gain_interval(b, a, np.arange(68), 20_000, seed=0)
    assert swapped == pytest.approx((-high, -low), abs=0.01)


def test_the_numbering_and_order_of_groups_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 20, 50)
    a, b = rng.random(50) < 0.7, rng.random(50) < 0.6
    first = gain_interval(a, b, groups, 1000, seed=0)
    assert gain_interval(a, b, 1000 - 3 * groups, 1000, seed=0) == first
    order = rng.permutation(50)
    assert gain_interval(a[order], b[order], groups[order], 1000, seed=0) == first


def test_the_seed_decides_the_draws() -> None:
    a, b = hits(30, 12, 6, 20)
    groups = np.arange(68)
    first = gain_interval(a, b, groups, 200, seed=1)
    assert gain_interval(a, b, groups, 200, seed=1) == first
    assert any(gain_interval(a, b, groups, 200, seed=seed) != first for seed in range(2, 6))


def test_a_lower_level_gives_a_narrower_interval() -> None:
    a, b = hits(30, 12, 6, 20)
    wide = gain_interval(a, b, np.arange(68), 5000, seed=0)
    narrow = gain_interval(a, b, np.arange(68), 5000, seed=0, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("ci95", "p", "says"),
    [
        ((0.01, 0.2), 0.01, "a is better: the interval lies above zero,"),
        ((-0.2, -0.01), 0.05, "b is better: the interval lies below zero,"),
        ((-0.1, 0.1), 0.5, "The difference may be chance: the interval includes zero,"),
        ((0.0, 0.1), 0.06, "The difference may be chance: the interval includes zero,"),
        ((-0.1, 0.0), 0.06, "The difference may be chance: the interval includes zero,"),
        ((-0.01, 0.1), 0.04, "Undecided: the interval includes zero,"),
        ((0.01, 0.1), 0.06, "Undecided: the interval lies above zero,"),
        ((-0.1, -0.01), 0.06, "Undecided: the interval lies below zero,"),
    ],
)
def test_one_is_better_only_if_interval_and_p_say_so(
    ci95: tuple[float, float], p: float, says: str
) -> None:
    joint = "but" if says.startswith("Undecided: the interval lies") else "and"
    said = f"{says} {joint} p is {'at most' if p <= 0.05 else 'above'} 0.05."
    gain = Gain(0.0, ci95, p)
    assert conclude(gain, "a is better", "b is better") == said
