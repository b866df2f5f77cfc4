"""New faces against what a model was measured on: what counts as drift, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fer_pipeline.serving.monitoring import Observed, beyond, compare, observe

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 200, (400, 1, 1)) + RNG.integers(0, 56, (400, 48, 48))
CHANCES = RNG.dirichlet(np.ones(7), 400)


def see(
    rows: slice = slice(None), lighter: int = 0, side: int = 48, chances: np.ndarray = CHANCES
) -> Observed:
    images = np.clip(IMAGES[rows] + lighter, 0, 255).astype(np.uint8)
    return observe(images, np.full((len(images), 2), (side, side + 9)), chances[rows])


RECORD = replace(see(slice(0, None, 2)), sides=None)


def test_faces_are_counted_alike_in_parts_and_at_once() -> None:
    whole, parts = see(), see(slice(0, 150)) + see(slice(150, 400))
    assert whole.images == 400
    assert whole.mean_confidence == pytest.approx(CHANCES.max(axis=1).mean())
    for name, counts in vars(whole).items():
        np.testing.assert_allclose(counts, vars(parts)[name])


def test_other_draws_of_the_same_faces_do_not_drift() -> None:
    differences = compare(see(slice(1, None, 2)), RECORD)
    assert set(differences) == {"brightness", "contrast", "confidence", "expressions", "enlarged"}
    assert beyond(differences, 0.2) == []


@pytest.mark.parametrize(
    ("seen", "drifted"),
    [
        (see(lighter=120), "brightness"),
        (see(chances=np.roll(np.sort(CHANCES), 1, axis=1)), "expressions"),
        (see(chances=0.5 * CHANCES + 0.5 * np.eye(7)[CHANCES.argmax(axis=1)]), "confidence"),
        (see(side=20), "enlarged"),
    ],
)
def test_what_is_otherwise_has_drifted_and_is_named_first(seen: Observed, drifted: str) -> None:
    differences = compare(seen, RECORD)
    assert beyond(differences, 0.2)[0] == drifted
    assert beyond(differences, None) == []


def test_a_few_faces_that_differ_by_chance_have_not_drifted() -> None:
    differences = compare(see(slice(0, 4)), RECORD)
    assert max(one.size for one in differences.values()) > 0.2
    assert beyond(differences, 0.2) == []


def test_larger_pictures_are_no_drift_and_their_sides_are_told() -> None:
    seen = see(slice(0, 200)) + see(slice(200, 400), side=5000)
    assert "enlarged" not in beyond(compare(seen, RECORD), 0.0)
    assert seen.side_figures() == {"smallest": 48, "median": 48, "largest": 1024}


def test_a_record_without_greys_compares_answers_alone() -> None:
    old = replace(RECORD, brightness=None, contrast=None)
    assert set(compare(see(lighter=120), old)) == {"confidence", "expressions", "enlarged"}
