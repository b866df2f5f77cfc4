"""Stability against a plain loop over copied images, and resamples that keep groups whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_logits import SETTINGS, accuracy, fit, fuse, make_labels, make_logits

from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.methods import METHODS, prepare_methods
from fer_pipeline.fusion.stability import (
    Stability,
    bootstrap_counts,
    fold_numbers,
    measure_stability,
)

GROUPS = np.concatenate([np.arange(50), np.arange(10), [7, 7]])  # 62 images of 50 groups
LABELS = make_labels(images=len(GROUPS))
LOGITS = make_logits(LABELS, [0.8, 1.0, 1.4])
DRAWS, SEED = 8, 5


@pytest.fixture(scope="module")
def found() -> dict[str, Stability]:
    fitters = prepare_methods(LOGITS, LABELS, SETTINGS)
    return measure_stability(fitters, LOGITS, LABELS, GROUPS, DRAWS, SEED)


@pytest.mark.parametrize("method", METHODS)
def test_the_bootstrap_is_a_plain_loop_over_copied_images(
    method: str, found: dict[str, Stability]
) -> None:
    rng = np.random.default_rng(SEED).spawn(2)[0]
    weights = []
    for counts in bootstrap_counts(GROUPS, DRAWS, rng):
        rows = np.repeat(np.arange(len(GROUPS)), counts.astype(int))
        weights.append(fit(method, LOGITS[:, rows], LABELS[rows]))
    spread = found[method].bootstrap
    tolerance = 2e-3 if method == "nll" else 1e-9  # of its optimiser
    np.testing.assert_allclose(spread.mean, np.mean(weights, axis=0), atol=tolerance)
    np.testing.assert_allclose(spread.sd, np.std(weights, axis=0, ddof=1), atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_the_folds_are_a_plain_loop_over_what_is_left(
    method: str, found: dict[str, Stability]
) -> None:
    folds = fold_numbers(GROUPS, np.random.default_rng(SEED).spawn(2)[1])
    weights, hits = [], 0.0
    for fold in range(5):
        out = folds == fold
        weights.append(fit(method, LOGITS[:, ~out], LABELS[~out]))
        hits += out.sum() * accuracy(fuse(LOGITS[:, out], weights[-1]), LABELS[out])
    own = found[method]
    tolerance = 2e-3 if method == "nll" else 1e-9
    np.testing.assert_allclose(own.folds.mean, np.mean(weights, axis=0), atol=tolerance)
    np.testing.assert_allclose(own.folds.sd, np.std(weights, axis=0, ddof=1), atol=tolerance)
    assert own.folds.held_out_accuracy == pytest.approx(hits / len(LABELS))


def test_uniform_weights_do_not_move_and_the_others_do(found: dict[str, Stability]) -> None:
    for method, own in found.items():
        assert (own.bootstrap.sd.max() > 1e-3) == (method != "uniform"), method
        assert own.bootstrap.mean.sum() == pytest.approx(1.0)
        assert own.folds.mean.sum() == pytest.approx(1.0)


def test_the_held_out_accuracy_of_uniform_is_that_of_all_val(found: dict[str, Stability]) -> None:
    plain = fuse(LOGITS, np.full(3, 1 / 3))
    assert found["uniform"].folds.held_out_accuracy == pytest.approx(accuracy(plain, LABELS))


def test_where_a_model_learnt_val_by_heart_only_what_was_held_out_is_believed() -> None:
    """Forty models at chance: the best weights on val are luck, and do not hold elsewhere."""
    labels = make_labels(images=100)
    logits = np.random.default_rng(2).normal(size=(40, 100, 7))
    greedy = {"greedy": METHODS["greedy"].prepare(logits, labels, SETTINGS)}
    own = measure_stability(greedy, logits, labels, np.arange(100), 2, 0)["greedy"]
    fitted = accuracy(fuse(logits, fit("greedy", logits, labels)), labels)
    assert fitted > 0.3 > 0.22 > own.folds.held_out_accuracy


def test_the_seed_decides_resamples_and_folds() -> None:
    fitters = prepare_methods(LOGITS, LABELS, SETTINGS)
    one, same, other = (
        measure_stability(fitters, LOGITS, LABELS, GROUPS, 5, seed)["nll"] for seed in (1, 1, 2)
    )
    for part in ("bootstrap", "folds"):
        mine, again, else_ = (getattr(own, part).mean for own in (one, same, other))
        np.testing.assert_array_equal(mine, again)
        assert not np.array_equal(mine, else_)


def test_more_draws_leave_the_folds_alone() -> None:
    fitters = prepare_methods(LOGITS, LABELS, SETTINGS)
    few, many = (measure_stability(fitters, LOGITS, LABELS, GROUPS, d, 1)["nll"] for d in (3, 9))
    np.testing.assert_array_equal(few.folds.mean, many.folds.mean)
    assert not np.array_equal(few.bootstrap.mean, many.bootstrap.mean)


groups = st.lists(st.integers(-5, 20), min_size=1, max_size=40)


@given(groups, st.integers(0, 1000))
def test_a_resample_draws_whole_groups_as_many_as_there_are(own: list[int], seed: int) -> None:
    numbers = np.array(own)
    counts = bootstrap_counts(numbers, 6, np.random.default_rng(seed))
    assert counts.shape == (6, len(own))
    for number in set(own):
        assert (counts[:, numbers == number] == counts[:, [own.index(number)]]).all()
    firsts = [own.index(number) for number in set(own)]
    assert (counts[:, firsts].sum(axis=1) == len(firsts)).all()


def test_every_group_is_drawn_once_on_average() -> None:
    counts = bootstrap_counts(np.arange(20), 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.05)
    np.testing.assert_allclose(counts.var(axis=0), 0.95, atol=0.05)


@given(groups.filter(lambda own: len(set(own)) >= 5), st.integers(0, 1000))
def test_folds_keep_groups_whole_and_have_as_many_of_them(own: list[int], seed: int) -> None:
    numbers = np.array(own)
    folds = fold_numbers(numbers, np.random.default_rng(seed))
    of_group = {number: set(folds[numbers == number].tolist()) for number in set(own)}
    assert all(len(found) == 1 for found in of_group.values())
    sizes = np.bincount([found.pop() for found in of_group.values()], minlength=5)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 1


def test_fewer_groups_than_folds_are_refused_with_their_number() -> None:
    with pytest.raises(FusionError, match=r"^val has 4 different images: .* needs 5$"):
        fold_numbers(np.array([1, 2, 3, 4, 4, 4]), np.random.default_rng(0))


def test_a_class_that_resamples_and_val_lack_is_no_obstacle() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 3, 4, 4])  # two classes stand there once, two never
    logits = make_logits(labels, [0.5, 1.0, 1.5])
    fitters = prepare_methods(logits, labels, SETTINGS)
    for own in measure_stability(fitters, logits, labels, np.arange(10), 20, 0).values():
        for spread in (own.bootstrap, own.folds):
            assert spread.mean.sum() == pytest.approx(1.0)
            assert np.isfinite(spread.sd).all()
