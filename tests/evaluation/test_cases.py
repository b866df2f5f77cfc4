"""The faces of the report are those that the figures count."""

from __future__ import annotations

import numpy as np
import pytest

from fer_pipeline.evaluation.comparison import TestLogits, find_cases

SURE, UNSURE = 4.0, 1.0


def logits_of(answers: list[int], sure: list[float]) -> np.ndarray:
    logits = np.zeros((len(answers), 7))
    logits[np.arange(len(answers)), answers] = sure
    return logits


#                 right  rescued, thrice  broken  both wrong, twice the same picture
LABELS = np.array([0, 1, 1, 1, 2, 3, 3])
FUSED = [0, 1, 1, 1, 5, 6, 6]
SINGLE = [0, 4, 4, 4, 2, 6, 6]
CONFIDENT = [2.0, 1.0, 4.0, 2.0, 3.0, 2.0, 5.0]
GROUPS = np.array([10, 11, 12, 13, 14, 15, 15])


def make_test(temperature: float = 1.0) -> TestLogits:
    single = logits_of(SINGLE, [1.0] * len(SINGLE))
    fused = logits_of(FUSED, CONFIDENT)
    return TestLogits(fused, temperature, {"resnet50": single}, LABELS, GROUPS)


def test_each_kind_is_found_counted_and_ordered_by_confidence() -> None:
    cases = find_cases(make_test(), "resnet50", most=10)
    rows = {kind: [case.row for case in found] for kind, found in cases.examples.items()}
    # Of row 5's picture the surer copy.
    assert rows == {"rescued": [2, 3, 1], "broken": [4], "mistakes": [6, 4]}
    assert cases.images == {"rescued": 3, "broken": 1, "mistakes": 3}


def test_a_case_says_what_was_said_and_how_surely_after_temperature() -> None:
    (case, *_) = find_cases(make_test(temperature=2.0), "resnet50", most=10).examples["rescued"]
    assert (case.actual, case.fused, case.single) == (1, 1, 4)
    assert case.confidence == pytest.approx(np.exp(2.0) / (np.exp(2.0) + 6))


def test_no_more_examples_than_asked_for_but_all_are_counted() -> None:
    cases = find_cases(make_test(), "resnet50", most=1)
    assert [len(found) for found in cases.examples.values()] == [1, 1, 1]
    assert cases.images["rescued"] == 3


def test_rescued_less_broken_is_the_gain() -> None:
    test = make_test()
    cases = find_cases(test, "resnet50", most=0)
    gain = np.mean(test.fused.argmax(1) == LABELS) - np.mean(
        test.single["resnet50"].argmax(1) == LABELS
    )
    assert (cases.images["rescued"] - cases.images["broken"]) / len(LABELS) == gain
    assert cases.examples["rescued"] == ()
