"""Only a fused model that beats every single one by enough is registered."""

from __future__ import annotations

import pytest

from fer_pipeline.evaluation.comparison import Agreement, Comparison
from fer_pipeline.evaluation.gate import Verdict, judge
from fer_pipeline.evaluation.metrics import Scores
from fer_pipeline.evaluation.significance import Gain
from fer_pipeline.params.schema import GateParams


def make_test(
    fused: float, resnet50: float = 0.65, inception_v3: float = 0.60, p: float = 0.02
) -> Comparison:
    """Accuracies on test, and a p; resnet50 was the best on val."""
    single = {"resnet50": resnet50, "inception_v3": inception_v3}
    return Comparison(
        images=1000,
        fused=Scores(fused, fused, 1.0, 0.1),
        single={name: Scores(own, own, 1.0, 0.1) for name, own in single.items()},
        best_single="resnet50",
        gains={name: Gain(fused - own, (0.0, 0.1), p) for name, own in single.items()},
        agreement=Agreement(0.8, 0.6, {}),
    )


def gate(min_gain: float = 0.0, max_p: float | None = None) -> GateParams:
    return GateParams(min_gain=min_gain, max_p=max_p)


def test_gate_passes_a_fused_model_above_every_single() -> None:
    assert judge(make_test(0.66), gate()).passed is True


def test_gate_rejects_a_fused_model_below_a_single() -> None:
    assert judge(make_test(0.64), gate()).passed is False


def test_gate_rejects_a_tie_with_the_best_single() -> None:
    assert judge(make_test(0.65), gate()).passed is False


@pytest.mark.parametrize("images", [3, 7, 3589, 7178])
def test_gate_tells_one_image_from_a_tie(images: int) -> None:
    right = images // 3
    single = right / images
    one_more = make_test((right + 1) / images, single, single)
    assert judge(one_more, gate()).passed is True
    # The same share, reached by another sum: a rounding error is no gain.
    tie = make_test(single * (1 + 2**-52), single, single)
    assert judge(tie, gate()).passed is False


@pytest.mark.parametrize("better", ["resnet50", "inception_v3"])
def test_gate_wants_every_single_beaten_and_not_only_the_best_on_val(better: str) -> None:
    verdict = judge(make_test(0.66, **{better: 0.67}), gate())
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
    assert judge(make_test(fused), gate(min_gain)).passed is passed


@pytest.mark.parametrize(
    ("p", "passed"), [(0.001, True), (0.05, True), (0.0501, False), (1.0, False)]
)
def test_gate_wants_at_most_the_largest_p_where_one_is_set(p: float, passed: bool) -> None:
    assert judge(make_test(0.7, p=p), gate(max_p=0.05)).passed is passed
    assert judge(make_test(0.7, p=p), gate(max_p=None)).passed is True


def test_gate_wants_gain_and_p_together() -> None:
    assert judge(make_test(0.64, p=0.001), gate(max_p=0.05)).passed is False


def test_gate_rejects_an_accuracy_that_is_no_number() -> None:
    assert judge(make_test(float("nan")), gate()).passed is False


def test_gate_gives_one_reason_per_single_and_p_against_the_best() -> None:
    assert judge(make_test(0.66, p=0.25), gate(0.005, 0.05)) == Verdict(
        passed=False,
        reasons=(
            "+1.00 points on resnet50, 66.00% against 65.00%: above the 0.5 required; "
            "McNemar p 0.2500 is above 0.05",
            "+6.00 points on inception_v3, 66.00% against 60.00%: above the 0.5 required",
        ),
    )
