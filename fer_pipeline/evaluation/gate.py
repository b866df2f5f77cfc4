"""The gate: may this fused model be registered? A pure function of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_pipeline.params.schema import GateParams


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and one sentence per check."""

    passed: bool
    reasons: tuple[str, ...]


def judge(evaluation: Mapping[str, Any], gate: GateParams) -> Verdict:
    """Compare the fused model with every single one on test.

    Passes if fused top-1 less each single's is strictly above `gate.min_gain` and, where
    `gate.max_p` is set, McNemar's p against the best single is at most that.

    Args:
        evaluation: the content of `metrics/evaluation.json`.
        gate: its section of the params.
    """
    fused = evaluation["fused"]["accuracy"]
    passed = True
    reasons: list[str] = []
    for name, single in evaluation["single"].items():
        gain = fused - single["accuracy"]
        # A difference of two fractions over the same N is exact only up to rounding:
        # a tie must not pass for 1e-17 more.
        beaten = gain > gate.min_gain + 1e-9
        passed = passed and beaten
        reasons.append(
            f"fused {fused:.2%} against {name} {single['accuracy']:.2%}: {100 * gain:+.2f} points, "
            f"{'above' if beaten else 'not above'} the {100 * gate.min_gain:g} required"
        )
    if gate.max_p is not None:
        p = evaluation["gain"]["mcnemar_p"]
        significant = p <= gate.max_p
        passed = passed and significant
        reasons.append(
            f"McNemar p {p:.4f} against {evaluation['best_single']} is "
            f"{'at most' if significant else 'above'} {gate.max_p:g}"
        )
    return Verdict(passed, tuple(reasons))
