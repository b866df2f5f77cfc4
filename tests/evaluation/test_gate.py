"""Only a fused model that beats every single one by enough is registered."""

from __future__ import annotations

from typing import Any

import pytest

from fer_pipeline.evaluation.gate import Verdict, judge
from fer_pipeline.params.schema import GateParams


def make_evaluation(
    fused: float, resnet50: float = 0.65, inception_v3: float = 0.60, p: float = 0.02
) -> dict[str, Any]:
    """The part of evaluation.json that the gate reads; resnet50 was the best on val."""
    return {
        "fused": {"accuracy": fused},
        "single": {
            "resnet50": {"accuracy": resnet50},
            "inception_v3": {"accuracy": inception_v3},
        },
        "best_single": "resnet50",
        "gain": {"accuracy": fused - resnet50, "mcnemar_p": p},
    }


def gate(min_gain: float = 0.0, max_p: float | None = None) -> GateParams:
    return GateParams(min_gain=min_gain, max_p=max_p)


def test_gate_passes_a_fused_model_above_every_single() -> None:
    assert judge(make_evaluation(0.66), gate()).passed is True


def test_gate_rejects_a_fused_model_below_a_single() -> None:
    assert judge(make_evaluation(0.64), gate()).passed is False


def test_gate_rejects_a_tie_with_the_best_single() -> None:
    assert judge(make_evaluation(0.65), gate()).passed is False


@pytest.mark.parametrize("images", [3, 7, 3589, 7178])
def test_gate_tells_one_image_from_a_tie(images: int) -> None:
    right = images // 3
    single = right / images
    one_more = make_evaluation((right + 1) / images, single, single)
    assert judge(one_more, gate()).passed is True
    # The same share, reached by another sum: a rounding error is no gain.
    tie = make_evaluation(single * (1 + 2**-52), single, single)
    assert judge(tie, gate()).passed is False


@pytest.mark.parametrize("better", ["resnet50", "inception_v3"])
def test_gate_wants_every_single_beaten_and_not_only_the_best_on_val(better: str) -> None:
    evaluation = make_evaluation(0.66)
    evaluation["single"][better]["accuracy"] = 0.67
    verdict = judge(evaluation, gate())
    assert verdict.passed is False
    assert [better in reason for reason in verdict.reasons if "not above" in reason] == [True]


@pytest.mark.parametrize(
    ("min_gain", "fused", "passed"),
    [
        (0.01, 0.661, True),
        (0.01, 0.66, False),  # exactly the gain, up to rounding
        (0.01, 0.655, False),
        (-0.01, 0.645, True),
        (-0.01, 0.64, False),
    ],
)
def test_gate_wants_more_than_the_least_gain(min_gain: float, fused: float, passed: bool) -> None:
    assert judge(make_evaluation(fused), gate(min_gain)).passed is passed


@pytest.mark.parametrize(
    ("p", "passed"), [(0.001, True), (0.05, True), (0.0501, False), (1.0, False)]
)
def test_gate_wants_at_most_the_largest_p_where_one_is_set(p: float, passed: bool) -> None:
    assert judge(make_evaluation(0.7, p=p), gate(max_p=0.05)).passed is passed
    assert judge(make_evaluation(0.7, p=p), gate(max_p=None)).passed is True


def test_gate_wants_gain_and_p_together() -> None:
    assert judge(make_evaluation(0.64, p=0.001), gate(max_p=0.05)).passed is False


def test_gate_rejects_an_accuracy_that_is_no_number() -> None:
    assert judge(make_evaluation(float("nan")), gate()).passed is False


def test_gate_gives_one_reason_per_single_and_one_for_p() -> None:
    assert judge(make_evaluation(0.66, p=0.25), gate(0.005, 0.05)) == Verdict(
        passed=False,
        reasons=(
            "fused 66.00% against resnet50 65.00%: +1.00 points, above the 0.5 required",
            "fused 66.00% against inception_v3 60.00%: +6.00 points, above the 0.5 required",
            "McNemar p 0.2500 against resnet50 is above 0.05",
        ),
    )
    assert len(judge(make_evaluation(0.66), gate()).reasons) == 2
