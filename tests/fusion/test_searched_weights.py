"""Greedy selection and the grid against slow searches that are written as they are described."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_logits import (
    SETTINGS,
    accuracy,
    assert_on_the_simplex,
    fit,
    make_labels,
    make_logits,
    mean_nll,
)

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.average import fuse
from fer_pipeline.fusion.methods import METHODS


def rank(fused: FloatArray, labels: Int64Array) -> tuple[float, float]:
    """Smaller is better: accuracy, then NLL, without the rounding of sums."""
    return -accuracy(fused, labels), round(mean_nll(fused, labels), 10)


def slow_greedy(logits: FloatArray, labels: Int64Array, rounds: int) -> FloatArray:
    """Caruana et al., step by step, keeping every ensemble on the way."""

    def rank_members(members: list[int]) -> tuple[float, float]:
        return rank(sum(logits[member] for member in members) / len(members), labels)

    ensembles: list[list[int]] = [[]]
    for _ in range(rounds):
        larger = [[*ensembles[-1], model] for model in range(len(logits))]
        ensembles.append(min(larger, key=rank_members))
    best = min(ensembles[1:], key=rank_members)
    return np.bincount(best, minlength=len(logits)) / len(best)


def slow_grid(logits: FloatArray, labels: Int64Array) -> list[FloatArray]:
    """The points of twentieths with the best rank, and of these the nearest to uniform."""
    models = len(logits)
    points = [
        np.array(point) / 20 for point in product(range(21), repeat=models) if sum(point) == 20
    ]
    ranks = [rank(fuse(logits, point), labels) for point in points]
    tied = [point for point, own in zip(points, ranks, strict=True) if own == min(ranks)]
    distances = [
        round(float(np.abs(point - 1 / models) @ np.abs(point - 1 / models)), 9) for point in tied
    ]
    return [point for point, own in zip(tied, distances, strict=True) if own == min(distances)]


def coarse(logits: FloatArray) -> FloatArray:
    """Rounded so that models often tie in a class, and images between classes."""
    return np.round(logits)


@settings(max_examples=40, deadline=None)
@given(
    models=st.integers(1, 5),
    images=st.integers(1, 40),
    rounds=st.integers(1, 15),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
)
def test_greedy_is_ensemble_selection_as_the_paper_describes_it(
    models: int, images: int, rounds: int, seed: int, ties: bool
) -> None:
    labels = make_labels(seed, images)
    skills = np.random.default_rng(seed).uniform(0, 2, models)
    logits = make_logits(labels, skills, seed)
    logits = coarse(logits) if ties else logits
    found = fit("greedy", logits, labels, SETTINGS.model_copy(update={"greedy_rounds": rounds}))
    np.testing.assert_allclose(found, slow_greedy(logits, labels, rounds))


@settings(max_examples=25, deadline=None)
@given(
    models=st.integers(1, 3),
    images=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
)
def test_the_grid_finds_what_trying_every_point_finds(
    models: int, images: int, seed: int, ties: bool
) -> None:
    labels = make_labels(seed, images)
    logits = make_logits(labels, np.random.default_rng(seed).uniform(0, 2, models), seed)
    logits = coarse(logits) if ties else logits
    found = fit("grid", logits, labels)
    assert any(np.allclose(found, point) for point in slow_grid(logits, labels))


def test_the_grid_of_four_models_is_searched_whole() -> None:
    labels = make_labels(images=60)
    logits = make_logits(labels, [0.5, 1.0, 1.0, 1.2])
    (expected,) = slow_grid(logits, labels)
    np.testing.assert_allclose(fit("grid", logits, labels), expected)


@pytest.mark.parametrize("method", ["greedy", "grid"])
def test_every_count_of_an_image_is_as_good_as_its_copy(method: str) -> None:
    labels = make_labels(images=80)
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    counts = np.random.default_rng(3).integers(0, 4, (5, 80))
    found = METHODS[method].prepare(logits, labels, SETTINGS)(counts.astype(float))
    assert len({tuple(own) for own in found}) > 1  # the resamples do differ
    for own, drawn in zip(found, counts, strict=True):
        rows = np.repeat(np.arange(80), drawn)
        np.testing.assert_allclose(own, fit(method, logits[:, rows], labels[rows]))


@pytest.mark.parametrize("method", ["greedy", "grid"])
def test_of_weights_with_the_same_accuracy_those_with_the_lower_nll_are_chosen(method: str) -> None:
    """Both models are always right; the second is surer of it."""
    labels = make_labels()
    right = np.eye(7)[labels]
    found = fit(method, np.stack([right, 3 * right]), labels)
    assert found.tolist() == [0.0, 1.0]


def test_greedy_takes_a_model_again() -> None:
    """Two models that err apart, the first on a larger scale: the best average needs the second
    more often than once."""
    labels = make_labels()
    logits = make_logits(labels, [1.0, 1.0], shared=0.0) * np.array([4.0, 1.0])[:, None, None]
    weights = fit("greedy", logits, labels, SETTINGS.model_copy(update={"greedy_rounds": 30}))
    assert_on_the_simplex(weights)
    assert weights[1] > 0.5
    single = max(accuracy(own, labels) for own in logits)
    assert accuracy(fuse(logits, weights), labels) > single


def test_one_round_of_greedy_is_the_best_single_model() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.5, 1.0])
    once = SETTINGS.model_copy(update={"greedy_rounds": 1})
    assert fit("greedy", logits, labels, once).tolist() == [0.0, 1.0, 0.0]


def test_greedy_never_ends_below_the_best_single_model() -> None:
    for seed in range(20):
        labels = make_labels(seed, 50)
        logits = make_logits(labels, [0.2, 1.5, 0.1], seed)
        weights = fit("greedy", logits, labels)
        best = max(accuracy(own, labels) for own in logits)
        assert accuracy(fuse(logits, weights), labels) >= best
