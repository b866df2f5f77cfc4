"""Agreement of backbones, counted by hand and by a loop over images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fer_pipeline.evaluation.agreement import FloatArray, agreement


def saying(*classes: int) -> FloatArray:
    return np.eye(7)[list(classes)]


def test_three_backbones_on_four_images() -> None:
    labels = np.array([0, 1, 2, 3])
    single = {
        "a": saying(0, 1, 5, 5),
        "b": saying(0, 6, 2, 5),
        "c": saying(0, 6, 6, 5),
    }
    assert agreement(single, labels) == {
        "oracle_accuracy": 0.75,  # nobody gets the last
        "all_agree": 0.5,  # the first, and the last, on which all are wrong
        "disagreement": {
            "a": {"b": 0.5, "c": 0.5},
            "b": {"a": 0.5, "c": 0.25},
            "c": {"a": 0.5, "b": 0.25},
        },
    }


def test_a_backbone_by_itself_agrees_with_itself() -> None:
    found = agreement({"a": saying(0, 1, 2)}, np.array([0, 1, 1]))
    assert found["oracle_accuracy"] == pytest.approx(2 / 3)
    assert (found["all_agree"], found["disagreement"]) == (1.0, {"a": {}})


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_a_loop_over_images_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, names = int(rng.integers(1, 60)), ["a", "b", "c", "d"][: rng.integers(1, 5)]
    labels = rng.integers(0, 7, images)
    single = {name: rng.normal(size=(images, 7)) + 2 * np.eye(7)[labels] for name in names}
    some_right = same = 0
    different = {name: {other: 0 for other in names if other != name} for name in names}
    for row in range(images):
        said = {name: int(single[name][row].argmax()) for name in names}
        some_right += labels[row] in said.values()
        same += len(set(said.values())) == 1
        for name in names:
            for other in different[name]:
                different[name][other] += said[name] != said[other]
    found = agreement(single, labels)
    assert found["oracle_accuracy"] == pytest.approx(some_right / images)
    assert found["all_agree"] == pytest.approx(same / images)
    for name in names:
        wanted = {other: count / images for other, count in different[name].items()}
        assert found["disagreement"][name] == pytest.approx(wanted)
    json.dumps(found, allow_nan=False)
