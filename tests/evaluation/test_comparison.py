"""What evaluation.json says of a fused model and its singles, on images counted by hand."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.evaluation.comparison import TestLogits, agree, compare
from fer_pipeline.evaluation.metrics import score
from fer_pipeline.evaluation.significance import Gain, gain_interval, mcnemar_p
from fer_pipeline.params.schema import EvaluationParams

PARAMS = EvaluationParams(bootstrap_draws=500, ece_bins=10)
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 2])
GROUPS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])


def right_on(images: list[int], sure: float = 2.0) -> FloatArray:
    """(10, 7) logits of a classifier that is right on these images and wrong on the others."""
    said: Int64Array = (LABELS + 1) % 7
    said[images] = LABELS[images]
    return sure * np.eye(7)[said]


@pytest.fixture
def compared() -> TestLogits:
    """Fused 8, resnet50 5 and inception_v3 6 of 10."""
    return TestLogits(
        fused=right_on([0, 1, 2, 3, 4, 5, 6, 7]),
        temperature=1.5,
        single={
            "resnet50": right_on([0, 1, 2, 3, 8], sure=3.0),
            "inception_v3": right_on([0, 1, 2, 3, 4, 5]),
        },
        labels=LABELS,
        groups=GROUPS,
    )


def test_the_gain_is_over_the_given_single_and_not_the_best_on_test(compared: TestLogits) -> None:
    found = compare(compared, "resnet50", PARAMS, seed=3)
    fused_right, single_right = np.arange(10) < 8, np.isin(np.arange(10), [0, 1, 2, 3, 8])
    assert found.best_single == "resnet50"
    assert found.gain == Gain(
        pytest.approx(0.3),
        gain_interval(fused_right, single_right, GROUPS, 500, 3),
        mcnemar_p(fused_right, single_right),
    )
    assert found.gain.mcnemar_p == pytest.approx(0.375)  # 4 against 1: 2 (1 + 5) / 2^5
    assert found.gain.ci95[0] < 0.3 < found.gain.ci95[1]


def test_the_gain_is_over_every_single_one_too(compared: TestLogits) -> None:
    found = compare(compared, "resnet50", PARAMS, seed=3)
    fused_right, single_right = np.arange(10) < 8, np.arange(10) < 6
    assert list(found.gains) == ["resnet50", "inception_v3"]
    assert found.gains["resnet50"] == found.gain
    assert found.gains["inception_v3"] == Gain(
        pytest.approx(0.2),
        gain_interval(fused_right, single_right, GROUPS, 500, 3),
        pytest.approx(0.5),  # 2 against 0
    )


def test_agreement_is_that_of_the_singles_on_the_same_images(compared: TestLogits) -> None:
    # Right: resnet50 on 0-3 and 8, inception_v3 on 0-5. Where both are wrong they say the same.
    assert asdict(compare(compared, "resnet50", PARAMS, seed=0).agreement) == {
        "oracle_accuracy": pytest.approx(0.7),
        "all_agree": pytest.approx(0.7),
        "disagreement": {
            "resnet50": {"inception_v3": pytest.approx(0.3)},
            "inception_v3": {"resnet50": pytest.approx(0.3)},
        },
    }
    some = compared.select(np.arange(10) < 4)
    assert compare(some, "resnet50", PARAMS, seed=0).agreement.all_agree == 1.0


def test_only_the_fused_model_has_a_temperature(compared: TestLogits) -> None:
    found = compare(compared, "resnet50", PARAMS, seed=0)
    assert found.images == 10
    assert found.fused == score(compared.fused, LABELS, 1.5, 10)
    assert list(found.single) == ["resnet50", "inception_v3"]
    for name, logits in compared.single.items():
        assert found.single[name] == score(logits, LABELS, 1.0, 10)
    accuracies = [found.fused.accuracy]
    accuracies += [one.accuracy for one in found.single.values()]
    assert accuracies == [0.8, 0.5, 0.6]


def test_a_selection_is_the_comparison_of_these_images_alone(compared: TestLogits) -> None:
    rows = np.arange(10) >= 4
    some = compared.select(rows)
    assert some.temperature == 1.5
    np.testing.assert_array_equal(some.labels, LABELS[4:])
    np.testing.assert_array_equal(some.groups, GROUPS[4:])
    found = compare(some, "inception_v3", PARAMS, seed=0)
    assert found.images == 6
    assert found.fused.accuracy == pytest.approx(4 / 6)
    assert found.single["resnet50"].accuracy == pytest.approx(1 / 6)
    assert found.gain.accuracy == pytest.approx(2 / 6)


def test_the_comparison_repeats_with_its_seed(compared: TestLogits) -> None:
    first = compare(compared, "resnet50", PARAMS, seed=1)
    assert compare(compared, "resnet50", PARAMS, seed=1) == first


def saying(*classes: int) -> FloatArray:
    return np.eye(7)[list(classes)]


def test_agreement_of_three_backbones_on_four_images() -> None:
    labels = np.array([0, 1, 2, 3])
    single = {"a": saying(0, 1, 5, 5), "b": saying(0, 6, 2, 5), "c": saying(0, 6, 6, 5)}
    assert asdict(agree(single, labels)) == {
        "oracle_accuracy": 0.75,  # nobody gets the last
        "all_agree": 0.5,  # the first, and the last, on which all are wrong
        "disagreement": {
            "a": {"b": 0.5, "c": 0.5},
            "b": {"a": 0.5, "c": 0.25},
            "c": {"a": 0.5, "b": 0.25},
        },
    }


def test_a_backbone_by_itself_agrees_with_itself() -> None:
    found = asdict(agree({"a": saying(0, 1, 2)}, np.array([0, 1, 1])))
    assert found["oracle_accuracy"] == pytest.approx(2 / 3)
    assert (found["all_agree"], found["disagreement"]) == (1.0, {"a": {}})


@pytest.mark.parametrize("seed", range(20))
def test_agreement_is_what_a_loop_over_images_counts(seed: int) -> None:
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
    found = asdict(agree(single, labels))
    assert found["oracle_accuracy"] == pytest.approx(some_right / images)
    assert found["all_agree"] == pytest.approx(same / images)
    for name in names:
        wanted = {other: count / images for other, count in different[name].items()}
        assert found["disagreement"][name] == pytest.approx(wanted)
