"""Fusion weights against other optimisers, other scales, and models that are of no use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.weights import (
    FloatArray,
    Int64Array,
    accuracy_weights,
    fit_all,
    fit_temperature,
    nll_weights,
    simplex_rows,
    uniform_weights,
)

IMAGES = 300
NAMES = ["resnet50", "resnet101", "inception_v3"]


def make_labels(seed: int = 0) -> Int64Array:
    return np.random.default_rng(seed).integers(0, 7, IMAGES)


def make_logits(
    labels: Int64Array, skills: Sequence[float], seed: int = 1, shared: float = 0.5
) -> FloatArray:
    """(M, N, 7): the label stands out by a model's skill, over errors that they partly share."""
    rng = np.random.default_rng(seed)
    signal = np.eye(7)[labels]
    common = shared * rng.normal(size=signal.shape)
    return np.stack([s * signal + common + rng.normal(size=signal.shape) for s in skills])


def fuse(logits: FloatArray, weights: FloatArray) -> FloatArray:
    return sum(w * z for w, z in zip(weights, logits, strict=True))


def mean_nll(logits: FloatArray, labels: Int64Array) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


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


def assert_on_the_simplex(weights: FloatArray) -> None:
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_uniform_weights_are_the_plain_average() -> None:
    assert uniform_weights(4).tolist() == [0.25] * 4


def test_accuracy_weights_follow_accuracy_to_the_exponent() -> None:
    labels = np.array([0, 1, 2, 3])
    right = np.eye(7)[labels]
    wrong = np.eye(7)[(labels + 1) % 7]
    half = np.where((np.arange(4) < 2)[:, None], right, wrong)
    logits = np.stack([right, half, wrong])  # accuracies 1, 1/2 and 0
    np.testing.assert_allclose(accuracy_weights(logits, labels, 1.0), [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(accuracy_weights(logits, labels, 2.0), [4 / 5, 1 / 5, 0])
    np.testing.assert_allclose(accuracy_weights(logits, labels, 0.0), [1 / 3] * 3)
    np.testing.assert_allclose(accuracy_weights(logits[2:].repeat(2, 0), labels, 1.0), [0.5, 0.5])


def test_a_huge_exponent_leaves_the_best_model_alone() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.3, 0.6, 0.1])
    weights = accuracy_weights(logits, labels, 2000.0)
    np.testing.assert_allclose(weights, [0, 1, 0], atol=1e-9)


@pytest.mark.parametrize("skills", [(1.0,), (1.0, 1.5), (0.5, 1.0, 2.0), (1.0, 1.1, 0.9, 1.3, 0.2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_nll_weights_are_the_best_that_another_optimiser_finds(
    skills: tuple[float, ...], seed: int
) -> None:
    labels = make_labels()
    logits = make_logits(labels, skills, seed)
    weights = nll_weights(logits, labels)
    assert_on_the_simplex(weights)
    found = nll_at_best_temperature(fuse(logits, weights), labels)
    assert found == pytest.approx(best_nll_by_slsqp(logits, labels), abs=1e-6)


def test_nll_weights_are_no_worse_than_any_point_of_a_grid() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 1.5])
    found = nll_at_best_temperature(fuse(logits, nll_weights(logits, labels)), labels)
    for i in range(11):
        for j in range(11 - i):
            point = np.array([i, j, 10 - i - j]) / 10
            assert found <= nll_at_best_temperature(fuse(logits, point), labels) + 1e-6


def test_a_model_at_chance_gets_next_to_no_weight() -> None:
    labels = make_labels()
    rng = np.random.default_rng(5)
    logits = make_logits(labels, [1.0, 1.5, 0.0], shared=0.0)
    logits[2] = 3 * rng.normal(size=logits[2].shape)
    weights = nll_weights(logits, labels)
    assert_on_the_simplex(weights)
    assert weights[2] < 0.02
    assert min(weights[:2]) > 0.2


def test_a_model_that_is_worse_than_chance_gets_no_weight() -> None:
    labels = make_labels()
    weights = nll_weights(make_logits(labels, [1.0, -1.0]), labels)
    np.testing.assert_allclose(weights, [1.0, 0.0], atol=1e-9)


def test_where_every_model_is_worse_than_chance_all_count_the_same() -> None:
    labels = make_labels()
    weights = nll_weights(make_logits(labels, [-1.0, -2.0, -1.5]), labels)
    np.testing.assert_allclose(weights, [1 / 3] * 3)


def test_identical_models_fuse_to_themselves() -> None:
    labels = make_labels()
    one = make_logits(labels, [1.0])
    candidates = fit_all(one.repeat(3, axis=0), labels, NAMES, 1.0)
    for candidate in candidates.values():
        assert_on_the_simplex(candidate.weights)
        np.testing.assert_allclose(fuse(one.repeat(3, axis=0), candidate.weights), one[0])
        assert candidate.accuracy == (one[0].argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_the_scale_of_one_models_logits_does_not_matter_to_nll(scale: float) -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    scaled = logits * np.array([1.0, scale, 1.0])[:, None, None]
    plain, other = (fit_all(z, labels, NAMES, 1.0)["nll"] for z in (logits, scaled))
    assert other.nll == pytest.approx(plain.nll, abs=1e-6)
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
    found = nll_at_best_temperature(fuse(scaled, nll_weights(scaled, labels)), labels)
    assert found == pytest.approx(best_nll_by_slsqp(logits, labels), abs=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_with_their_backbone(value: float) -> None:
    labels = make_labels()
    logits = make_logits(labels, [1.0, 1.0, 1.0])
    logits[1, [3, 4], 2] = value
    with pytest.raises(FusionError) as refused:
        fit_all(logits, labels, NAMES, 1.0)
    assert str(refused.value) == (
        "resnet101: the logits of 2 val images are not finite: train it again"
    )


@pytest.mark.parametrize("shape", [(2, IMAGES, 7), (3, IMAGES - 1, 7), (3, IMAGES)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FusionError, match=r"val logits have shape \(.*\), not \(3, 300, classes\)"):
        fit_all(np.zeros(shape), make_labels(), NAMES, 1.0)


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


def test_a_candidate_says_what_its_weights_and_temperature_give() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    for method, candidate in fit_all(logits, labels, NAMES, 2.0).items():
        fused = fuse(logits, candidate.weights)
        assert candidate.accuracy == (fused.argmax(axis=1) == labels).mean(), method
        assert candidate.nll == pytest.approx(mean_nll(fused / candidate.temperature, labels))
        for slightly in (0.99, 1.01):
            other = mean_nll(fused / (slightly * candidate.temperature), labels)
            assert candidate.nll <= other, method
    assert candidate.nll == min(c.nll for c in fit_all(logits, labels, NAMES, 2.0).values())


def test_every_method_is_fitted_and_keeps_its_name() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    candidates = fit_all(logits, labels, NAMES, 2.0)
    assert list(candidates) == ["uniform", "accuracy", "nll"]
    np.testing.assert_array_equal(candidates["uniform"].weights, uniform_weights(3))
    expected = accuracy_weights(logits, labels, 2.0)
    np.testing.assert_array_equal(candidates["accuracy"].weights, expected)
    np.testing.assert_array_equal(candidates["nll"].weights, nll_weights(logits, labels))


@pytest.mark.parametrize(("models", "steps"), [(1, 20), (2, 20), (3, 20), (6, 11)])
def test_the_simplex_has_the_finest_grid_under_the_limit(models: int, steps: int) -> None:
    labels = make_labels()[:3]
    names = [f"m{n}" for n in range(models)]
    rows = simplex_rows(np.zeros((models, 3, 7)), labels, names)
    assert len(rows) == math.comb(steps + models - 1, models - 1) <= 5000
    points = [tuple(row[name] for name in names) for row in rows]
    assert len(set(points)) == len(points)
    assert all(sum(point) == pytest.approx(1.0, abs=5e-4) for point in points)
    assert steps == 20 or math.comb(steps + models, models - 1) > 5000


def test_the_corners_of_the_simplex_are_the_single_models() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    rows = {tuple(row[name] for name in NAMES): row for row in simplex_rows(logits, labels, NAMES)}
    for number, own in enumerate(logits):
        row = rows[tuple(float(number == other) for other in range(3))]
        assert row["val_accuracy"] == pytest.approx((own.argmax(1) == labels).mean(), abs=1e-6)
        assert row["val_nll"] == pytest.approx(mean_nll(own, labels), abs=1e-6)


def test_a_point_inside_the_simplex_is_the_fusion_by_its_weights() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    row = simplex_rows(logits, labels, NAMES)[100]
    fused = fuse(logits, np.array([row[name] for name in NAMES]))
    assert row["val_accuracy"] == pytest.approx((fused.argmax(1) == labels).mean(), abs=1e-6)
    assert row["val_nll"] == pytest.approx(mean_nll(fused, labels), abs=1e-6)


def test_a_class_that_val_lacks_is_no_obstacle() -> None:
    labels = make_labels() % 5
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    for candidate in fit_all(logits, labels, NAMES, 1.0).values():
        assert_on_the_simplex(candidate.weights)
        assert 0.05 < candidate.temperature < 20
    assert len(simplex_rows(logits, labels, NAMES)) == 231
