"""All methods together, and what each gives."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from synthetic_logits import (
    accuracy,
    assert_on_the_simplex,
    fit,
    fit_all,
    fuse,
    make_labels,
    make_logits,
    mean_nll,
)

from fer_pipeline.fusion.methods import METHODS
from fer_pipeline.params.schema import FusionParams


def test_identical_models_fuse_to_themselves() -> None:
    labels = make_labels()
    one = make_logits(labels, [1.0])
    all_fitted = fit_all(one.repeat(3, axis=0), labels)
    for fitted in all_fitted.values():
        assert_on_the_simplex(fitted.weights)
        np.testing.assert_allclose(fuse(one.repeat(3, axis=0), fitted.weights), one[0], atol=1e-12)
        assert fitted.val_accuracy == (one[0].argmax(axis=1) == labels).mean()


def test_a_fitted_says_what_its_weights_and_temperature_give() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.8, 1.0, 1.5])
    all_fitted = fit_all(logits, labels)
    for method, fitted in all_fitted.items():
        fused = fuse(logits, fitted.weights)
        assert fitted.val_accuracy == (fused.argmax(axis=1) == labels).mean(), method
        assert fitted.val_nll == pytest.approx(mean_nll(fused / fitted.temperature, labels))
        for slightly in (0.99, 1.01):
            other = mean_nll(fused / (slightly * fitted.temperature), labels)
            assert fitted.val_nll <= other, method
    assert all_fitted["nll"].val_nll == min(own.val_nll for own in all_fitted.values())


def test_every_method_is_fitted_and_keeps_its_name() -> None:
    labels = make_labels()
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    all_fitted = fit_all(logits, labels)
    assert list(all_fitted) == list(METHODS)
    for method, fitted in all_fitted.items():
        assert_on_the_simplex(fitted.weights)
        np.testing.assert_array_equal(fitted.weights, fit(method, logits, labels))
    assert len({fitted.weights.tobytes() for fitted in all_fitted.values()}) == len(METHODS)


def test_a_class_that_val_lacks_is_no_obstacle() -> None:
    labels = make_labels() % 5
    logits = make_logits(labels, [0.5, 1.0, 2.0])
    for fitted in fit_all(logits, labels).values():
        assert_on_the_simplex(fitted.weights)
        assert 0.05 < fitted.temperature < 20


def test_the_params_take_every_method_and_every_method_has_a_note() -> None:
    assert get_args(FusionParams.model_fields["method"].annotation) == tuple(METHODS)
    assert all(method.note for method in METHODS.values())


def test_identical_models_share_the_weight_where_nothing_else_decides() -> None:
    labels = make_labels()
    all_fitted = fit_all(make_logits(labels, [1.0]).repeat(3, axis=0), labels)
    for method in ("uniform", "accuracy", "nll"):
        np.testing.assert_allclose(all_fitted[method].weights, [1 / 3] * 3, atol=1e-9)
    # The grid's points nearest to uniform; greedy stops with the first that it added.
    assert sorted(all_fitted["grid"].weights) == [6 / 20, 7 / 20, 7 / 20]
    assert all_fitted["greedy"].weights.tolist() == [1.0, 0.0, 0.0]


def test_a_single_backbone_gets_all_the_weight() -> None:
    labels = make_labels()
    logits = make_logits(labels, [1.0])
    all_fitted = fit_all(logits, labels)
    assert list(all_fitted) == list(METHODS)
    for method, fitted in all_fitted.items():
        assert fitted.weights.tolist() == [1.0], method
        assert fitted.val_accuracy == accuracy(logits[0], labels)


def test_a_model_at_chance_does_not_spoil_what_is_chosen_for_accuracy() -> None:
    labels = make_labels()
    logits = make_logits(labels, [1.5, 1.6, 0.0])
    logits[2] = 3 * np.random.default_rng(5).normal(size=logits[2].shape)
    all_fitted = fit_all(logits, labels)
    best_single = max(accuracy(own, labels) for own in logits)
    for method in ("greedy", "grid"):
        assert all_fitted[method].val_accuracy >= best_single
        assert all_fitted[method].weights[2] <= 0.15
    assert all_fitted["uniform"].val_accuracy < best_single  # so there was something to spoil


def test_the_grid_of_five_models_is_a_coarser_one() -> None:
    labels = make_labels()
    weights = fit("grid", make_logits(labels, [0.5, 0.5, 1.0, 0.5, 1.0]), labels)
    assert_on_the_simplex(weights)
    np.testing.assert_allclose(16 * weights, np.round(16 * weights))
