"""The policy by its table of cases: who becomes champion, and what is said of it."""

from __future__ import annotations

import pytest

from fer_pipeline.params.schema import PromotionParams
from fer_pipeline.registry.policy import Decision, PairedComparison, decide


def against(gain: float, p: float = 0.01, rescored: bool = False) -> PairedComparison:
    return PairedComparison("4", 3589, gain, (gain - 0.01, gain + 0.01), p, rescored)


@pytest.mark.parametrize(
    ("gate_passed", "comparison", "min_gain", "max_p", "promoted"),
    [
        # no champion: the gate alone decides
        (True, None, 0.0, None, True),
        (True, None, 0.5, 0.0001, True),
        (False, None, 0.0, None, False),
        # a champion: better by more than the least gain
        (True, against(0.01), 0.0, None, True),
        (True, against(1 / 3589), 0.0, None, True),
        (True, against(0.0), 0.0, None, False),
        (True, against(1e-17), 0.0, None, False),  # a rounding error is no gain
        (True, against(-0.01), 0.0, None, False),
        (True, against(0.005), 0.005, None, False),
        (True, against(0.006), 0.005, None, True),
        (True, against(-0.004), -0.005, None, True),
        (True, against(float("nan")), 0.0, None, False),
        # and, where asked for, by more than chance
        (True, against(0.01, p=0.05), 0.0, 0.05, True),
        (True, against(0.01, p=0.06), 0.0, 0.05, False),
        (True, against(-0.01, p=0.0001), 0.0, 0.05, False),
        (True, against(0.01, p=1.0), 0.0, None, True),
        # a champion that was scored again counts like any other
        (True, against(0.01, rescored=True), 0.0, None, True),
        (True, against(-0.01, rescored=True), 0.0, None, False),
        # nothing makes up for the gate
        (False, against(0.5, p=0.0), 0.0, None, False),
        (False, against(0.5, p=0.0), -1.0, 1.0, False),
    ],
)
def test_the_policy(
    gate_passed: bool,
    comparison: PairedComparison | None,
    min_gain: float,
    max_p: float | None,
    promoted: bool,
) -> None:
    params = PromotionParams(auto=False, min_gain=min_gain, max_p=max_p)
    assert decide(gate_passed, comparison, params).promote is promoted


@pytest.mark.parametrize("comparison", [None, against(0.5, p=0.0)])
def test_what_was_rolled_back_does_not_return_by_itself(
    comparison: PairedComparison | None,
) -> None:
    params = PromotionParams(auto=True, min_gain=0.0, max_p=None)
    assert decide(True, comparison, params, withdrawn="yesterday: it harms") == Decision(
        False, "it was champion and was rolled back (yesterday: it harms)"
    )


@pytest.mark.parametrize("auto", [True, False])
def test_the_policy_says_the_same_whoever_asks(auto: bool) -> None:
    params = PromotionParams(auto=auto, min_gain=0.0, max_p=None)
    assert decide(True, against(0.01), params).promote is True


def test_the_reason_holds_the_figures() -> None:
    params = PromotionParams(auto=False, min_gain=0.005, max_p=0.05)
    assert decide(True, against(0.0123, p=0.2, rescored=True), params) == Decision(
        False,
        "+1.23 points on champion 4 over 3,589 images, on which it was scored again: above the "
        "0.5 required; McNemar p 0.2000 is above 0.05",
    )
    assert decide(False, None, params).reason == "the gate did not pass"
    assert decide(True, None, params).reason == "the gate passed, and there is no champion yet"
