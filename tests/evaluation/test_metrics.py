"""Every metric against scikit-learn, torchmetrics, or a loop that follows the definition."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve
from torchmetrics import functional as torch_metrics

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.metrics import (
    ClassScores,
    brier_score,
    confusion,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    score,
)

CLASSES = list(range(7))


def make_case(seed: int, images: int = 200, classes: int = 7) -> tuple[FloatArray, Int64Array]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    return rng.normal(size=(images, 7)) + rng.uniform(0, 3) * np.eye(7)[labels], labels


def plain_ece(probabilities: FloatArray, labels: Int64Array, bins: int) -> float:
    """Guo et al., equation (3), image by image."""
    total = 0.0
    for k in range(bins):
        hits, confidences = [], []
        for row, label in zip(probabilities, labels, strict=True):
            confidence = row.max()
            if k / bins <= confidence < (k + 1) / bins or (k == bins - 1 and confidence == 1.0):
                hits.append(row.argmax() == label)
                confidences.append(confidence)
        if hits:
            total += len(hits) / len(labels) * abs(np.mean(hits) - np.mean(confidences))
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_scores_are_those_of_scikit_learn(seed: int, temperature: float) -> None:
    logits, labels = make_case(seed, classes=7 if seed else 5)
    found = score(logits, labels, temperature, ece_bins=15)
    predicted = logits.argmax(axis=1)
    chances = softmax(logits / temperature, axis=1)
    assert found.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(
        sklearn_metrics.f1_score(
            labels, predicted, labels=CLASSES, average="macro", zero_division=0.0
        )
    )
    assert found.nll == pytest.approx(
        sklearn_metrics.log_loss(labels, chances, labels=CLASSES), rel=1e-9
    )
    assert found.ece == pytest.approx(plain_ece(chances, labels, 15), abs=1e-12)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 300),
    classes=st.integers(1, 7),
    temperature=st.floats(1, 10),  # below, scikit-learn cuts chances off at the float's epsilon
    bins=st.integers(1, 40),
)
def test_scores_are_those_of_two_libraries_whatever_the_logits(
    seed: int, images: int, classes: int, temperature: float, bins: int
) -> None:
    logits, labels = make_case(seed, images, classes)
    found = score(logits, labels, temperature, bins)
    predicted = logits.argmax(axis=1)
    chances = softmax(logits / temperature, axis=1)
    torch_chances, torch_labels = torch.from_numpy(chances), torch.from_numpy(labels)

    def by_torch(name: str, **options: object) -> float:
        metric = getattr(torch_metrics.classification, f"multiclass_{name}")
        return float(metric(torch_chances, torch_labels, num_classes=7, **options))

    assert found.accuracy == pytest.approx(by_torch("accuracy", average="micro"))
    assert found.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    # torchmetrics leaves classes out that are neither shown nor predicted, scikit-learn does not.
    each = torch_metrics.classification.multiclass_f1_score(
        torch_chances, torch_labels, num_classes=7, average="none"
    )
    assert found.macro_f1 == pytest.approx(float(each.mean()))
    wanted = sklearn_metrics.f1_score(
        labels, predicted, labels=CLASSES, average="macro", zero_division=0.0
    )
    assert found.macro_f1 == pytest.approx(wanted)
    assert found.nll == pytest.approx(
        sklearn_metrics.log_loss(labels, chances, labels=CLASSES), rel=1e-9
    )
    assert found.ece == pytest.approx(
        by_torch("calibration_error", n_bins=bins, norm="l1"), abs=1e-5
    )
    assert found.brier == pytest.approx(
        sklearn_metrics.brier_score_loss(labels, chances, labels=CLASSES, scale_by_half=False)
    )


def test_brier_by_hand() -> None:
    chances = np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    wanted = ((0.25 + 0.25) + (0.04 + 0.64 + 0.36)) / 2
    assert brier_score(chances, np.array([0, 1])) == pytest.approx(wanted)


def test_brier_goes_from_zero_to_two() -> None:
    labels = np.array([0, 3, 6])
    assert brier_score(np.eye(7)[labels], labels) == 0.0
    assert brier_score(np.eye(7)[(labels + 1) % 7], labels) == 2.0


def test_per_class_scores_are_those_of_scikit_learn() -> None:
    logits, labels = make_case(1)
    per_class = score(logits, labels, 1.0, 15).per_class
    report = sklearn_metrics.classification_report(
        labels, logits.argmax(axis=1), target_names=EMOTIONS, output_dict=True
    )
    assert list(per_class) == list(EMOTIONS)
    for emotion in EMOTIONS:
        wanted = report[emotion]
        assert asdict(per_class[emotion]) == pytest.approx(
            {
                "precision": wanted["precision"],
                "recall": wanted["recall"],
                "f1": wanted["f1-score"],
                "images": wanted["support"],
            }
        )


def test_a_class_without_images_counts_as_zero() -> None:
    labels = np.array([0, 1])
    found = score(10 * np.eye(7)[labels], labels, 1.0, 15)
    assert found.accuracy == 1.0
    assert found.macro_f1 == pytest.approx(2 / 7)
    assert found.per_class["fear"] == ClassScores(0.0, 0.0, 0.0, images=0)


def test_every_figure_is_a_plain_number_for_json() -> None:
    found = asdict(score(*make_case(2), 1.0, 15))
    figures = [value for key, value in found.items() if key != "per_class"]
    for own in found["per_class"].values():
        assert type(own.pop("images")) is int
        figures += own.values()
    assert {type(figure) for figure in figures} == {float}


def test_the_temperature_changes_calibration_and_no_decision() -> None:
    logits, labels = make_case(3)
    cold, hot = (score(logits, labels, temperature, 15) for temperature in (0.3, 3.0))
    assert (cold.accuracy, cold.per_class) == (hot.accuracy, hot.per_class)
    assert cold.nll != hot.nll
    assert cold.ece != hot.ece
    assert cold.brier != hot.brier


def test_nll_is_the_mean_negative_log_of_the_labels_probability() -> None:
    chances = np.array([[0.5, 0.5], [0.25, 0.75]])
    found = negative_log_likelihood(chances, np.array([0, 0]))
    assert found == pytest.approx(1.5 * math.log(2))


def test_a_probability_of_zero_gives_a_large_but_finite_nll() -> None:
    found = negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0]))
    assert found == pytest.approx(-math.log(np.finfo(np.float64).tiny))


@pytest.mark.parametrize("bins", [1, 2, 15, 100])
def test_ece_is_the_definitions_loop(bins: int) -> None:
    for seed in range(3):
        logits, labels = make_case(seed)
        chances = softmax(logits, axis=1)
        found = expected_calibration_error(chances, labels, bins)
        assert found == pytest.approx(plain_ece(chances, labels, bins), abs=1e-12)


def test_ece_by_hand() -> None:
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    labels = np.array([0, 1, 1, 1])
    # Bin [0.5, 0.75): 0.6 and right. Bin [0.75, 1]: 0.9, 0.9, 1.0 with two of three right.
    wanted = 0.25 * abs(1 - 0.6) + 0.75 * abs(2 / 3 - 2.8 / 3)
    assert expected_calibration_error(chances, labels, 4) == pytest.approx(wanted)


def test_a_sure_and_right_model_has_no_calibration_error() -> None:
    labels = np.array([0, 3, 6])
    assert expected_calibration_error(np.eye(7)[labels], labels, 15) == 0.0


def saying(*classes: int) -> FloatArray:
    return np.eye(7)[list(classes)]


def test_confusion_has_actual_rows_and_predicted_columns() -> None:
    found = confusion(saying(0, 1, 1, 6), np.array([0, 0, 0, 6]))
    assert [len(row) for row in found] == [7] * 7
    assert (found[0][0], found[0][1], found[6][6], sum(map(sum, found))) == (1, 2, 1, 4)
    assert {type(count) for row in found for count in row} == {int}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_bins_are_those_of_scikit_learns_calibration_curve(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (500, 7)), rng.integers(0, 7, 500)
    bins = reliability(logits, labels, temperature, 15)
    chances = softmax(logits / temperature, axis=1)
    right = chances.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, chances.max(axis=1), n_bins=15)
    assert [one.accuracy for one in bins] == pytest.approx(accuracy)
    assert [one.confidence for one in bins] == pytest.approx(confidence)
    assert sum(one.images for one in bins) == 500


def test_empty_bins_are_left_out_and_certainty_is_in_the_last() -> None:
    logits = 1000.0 * (2 * saying(2, 2, 2) - 1)
    (only,) = reliability(logits, np.array([2, 2, 0]), 1.0, 10)
    assert (only.confidence, only.accuracy, only.images) == (1.0, pytest.approx(2 / 3), 3)
