"""The rule on gain and p, and the gate: may this fused model be registered? Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_pipeline.evaluation.comparison import Comparison
    from fer_pipeline.params.schema import Rule


@dataclass(frozen=True)
class Verdict:
    """What was decided, and one sentence per check."""

    passed: bool
    reasons: tuple[str, ...]


def improves(gain: float, mcnemar_p: float | None, rule: Rule, over: str) -> tuple[bool, str]:
    """Whether a gain is enough, and why.

    Args:
        gain: the accuracy of one model less that of another, a fraction.
        mcnemar_p: of the two; None where p does not matter.
        rule: what is required.
        over: the other model, for the sentence.
    """
    # A difference of two fractions over the same N is exact only up to rounding: a tie must not
    # pass for 1e-17 more.
    better = gain > rule.min_gain + 1e-9
    reason = (
        f"{100 * gain:+.2f} points on {over}: {'above' if better else 'not above'} the "
        f"{100 * rule.min_gain:g} required"
    )
    if mcnemar_p is None or rule.max_p is None:
        return better, reason
    significant = mcnemar_p <= rule.max_p
    found = f"McNemar p {mcnemar_p:.4f} is {'at most' if significant else 'above'} {rule.max_p:g}"
    return better and significant, f"{reason}; {found}"


def judge(test: Comparison, rule: Rule) -> Verdict:
    """Compare the fused model with every single one on test.

    Passes if the gain over each single one is enough; only over the best one by val accuracy must
    it be significant as well.
    """
    found = []
    for name, single in test.single.items():
        p = test.gain.mcnemar_p if name == test.best_single else None
        over = f"{name}, {test.fused.accuracy:.2%} against {single.accuracy:.2%}"
        found.append(improves(test.fused.accuracy - single.accuracy, p, rule, over))
    return Verdict(all(enough for enough, _ in found), tuple(reason for _, reason in found))
