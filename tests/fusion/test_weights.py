"""Fusion weights against other optimisers, other scales, and models that are of no use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax
from synthetic_logits import (
    SETTINGS,
    assert_on_the_simplex,
    fit,
    fit_all,
    fuse,
    make_labels,
    make_logits,
    mean_nll,
)

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.methods import METHODS
from fer_pipeline.fusion.weights import uniform_weights


def nll_at_best_temperature(logits: FloatArray, labels: Int64Array) -> float:
    """Over all temperatures, without the bounds of the pipeline's own."""
    return float(
        minimize_scalar(
            lambda log_t: mean_nll(logits / np.exp(log_t), labels),
            bounds=(-12, 12),
            method="bounded",
            options={"xatol": 1e-10},
        ).fun
    )


def best_nll_by_slsqp(logits: FloatArray, labels: Int64Array, starts: int = 12) -> float:
    """The least NLL over non-negative weights of any sum, without gradients, from many starts."""
    rng = np.random.default_rng(7)
    found = [
        minimize(
            lambda w: mean_nll(fuse(logits, w), labels),
            rng.uniform(0, 2, len(logits)),
            method="SLSQP",
            bounds=[(0, None)] * len(logits),
            options={"ftol": 1e-12, "maxiter": 500},
        ).fun
        for _ in range(starts)
    ]
    return float(min(found))


def test_uniform_weights_are_the_plain_average() -> None:
    assert uniform_weights(4).tolist() == [0.25] * 4


def test_accuracy_weights_follow_accuracy_to_the_exponent() -> None:
    labels = np.array([0, 1, 2, 3])
    right = np.eye(7)[labels]
    wrong = np.eye(7)[(labels + 1) % 7]
    half = np.where((np.arange(4) < 2)[:, None], right, wrong)
    logits = np.stack([right, half, wrong])  # accuracies 1, 1/2 and 0
    for exponent, expected in (
        (1.0, [2 / 3, 1 / 3, 0]),
        (2.0, [4 / 5, 1 / 5, 0]),
        (0.0, [1 / 3] * 3),
    ):
        settings = SETTINGS.model_copy(update={"accuracy_exponent": exponent})
        np.testing.assert_allclose(fit("accuracy", logits, labels, settings), expected)
    np.testing.assert_allclose(fit("accuracy", logits[2:].repeat(2, 0), labels), [0.5, 0.5])


def test_a_huge_exponent_leaves_the_best_model_alone() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.3, 0.6, 0.1])
    weights = fit(
        "accuracy", logits, labels, SETTINGS.model_copy(update={"accuracy_exponent": 2000.0})
    )
    np.testing.assert_allclose(weights, [0, 1, 0], atol=1e-9)


@pytest.mark.parametrize("skills", [(1.0,), (1.0, 1.5), (0.5, 1.0, 2.0), (1.0, 1.1, 0.9, 1.3, 0.2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_nll_weights_are_the_best_that_another_optimiser_finds(
    skills: tuple[float, ...], seed: int
) -> None:
    labels = make_labels()
    logits = make_logits(labels, skills, seed)
    weights = fit("nll", logits, labels)
    assert_on_the_simplex(weights)
    found = nll_at_best_temperature(fuse(logits, weights), labels)
    assert found == pytest.approx(best_nll_by_slsqp(logits, labels), abs=1e-6)


def test_nll_weights_are_no_worse_than_any_point_of_a_grid() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 1.5])
    found = nll_at_best_temperature(fuse(logits, fit("nll", logits, labels)), labels)
    for i in range(11):
        for j in range(11 - i):
            point = np.array([i, j, 10 - i - j]) / 10
            assert found <= nll_at_best_temperature(fuse(logits, point), labels) + 1e-6


def test_a_model_at_chance_gets_next_to_no_weight() -> None:
    labels = make_labels()
    rng = np.random.default_rng(5)
    logits = make_logits(labels, [1.0, 1.5, 0.0], shared=0.0)
    logits[2] = 3 * rng.normal(size=logits[2].shape)
    weights = fit("nll", logits, labels)
    assert_on_the_simplex(weights)
    assert weights[2] < 0.02
    assert min(weights[:2]) > 0.2


def test_a_model_that_is_worse_than_chance_gets_no_weight() -> None:
    labels = make_labels()
    weights = fit("nll", make_logits(labels, [1.0, -1.0]), labels)
    np.testing.assert_allclose(weights, [1.0, 0.0], atol=1e-9)


def test_where_every_model_is_worse_than_chance_all_count_the_same() -> None:
    labels = make_labels()
    weights = fit("nll", make_logits(labels, [-1.0, -2.0, -1.5]), labels)
    np.testing.assert_allclose(weights, [1 / 3] * 3)


@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_the_scale_of_one_models_logits_does_not_matter_to_nll(scale: float) -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    scaled = logits * np.array([1.0, scale, 1.0])[:, None, None]
    plain, other = (fit_all(z, labels)["nll"] for z in (logits, scaled))
    assert other.val_nll == pytest.approx(plain.val_nll, abs=1e-6)
    np.testing.assert_allclose(
        softmax(fuse(scaled, other.weights) / other.temperature, axis=1),
        softmax(fuse(logits, plain.weights) / plain.temperature, axis=1),
        atol=2e-3,
    )
    ratio = other.weights[1] / other.weights[0] * scale
    assert ratio == pytest.approx(plain.weights[1] / plain.weights[0], rel=0.05)


@pytest.mark.parametrize("scales", [(1000.0, 1.0, 0.01), (1e30, 1.0, 1.0)])
def test_not_even_an_extreme_scale_matters_to_nll(scales: tuple[float, ...]) -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    scaled = logits * np.array(scales)[:, None, None]
    found = nll_at_best_temperature(fuse(scaled, fit("nll", scaled, labels)), labels)
    assert found == pytest.approx(best_nll_by_slsqp(logits, labels), abs=1e-4)


def test_every_count_of_an_image_is_as_good_as_its_copy() -> None:
    labels = make_labels(images=60)
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    counts = np.random.default_rng(3).integers(0, 4, 60)
    rows = np.repeat(np.arange(60), counts)
    for method in ("uniform", "accuracy", "nll"):
        weights = METHODS[method].prepare(logits, labels, SETTINGS)(counts[None].astype(float))[0]
        copied = fit(method, logits[:, rows], labels[rows])
        np.testing.assert_allclose(weights, copied, atol=1e-3, err_msg=method)
