"""May a challenger become champion? A pure function of what is known about the two."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fer_pipeline.evaluation.gate import improves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fer_pipeline.params.schema import PromotionParams


@dataclass(frozen=True)
class Duel:
    """A challenger against the champion, image by image, on the challenger's test set.

    Attributes:
        champion: its version.
        images: in the test set.
        gain: the challenger's accuracy less the champion's, a fraction.
        ci95: bootstrap interval of the gain, low and high.
        mcnemar_p: of the exact test.
        rescored: the champion had been tested on another test set, and was scored on this one.
    """

    champion: str
    images: int
    gain: float
    ci95: tuple[float, float]
    mcnemar_p: float
    rescored: bool

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Duel:
        low, high = content["ci95"]
        return cls(**{**content, "ci95": (float(low), float(high))})


@dataclass(frozen=True)
class Decision:
    """What the policy says, and why, in one sentence."""

    promote: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def decide(
    gate_passed: bool, duel: Duel | None, params: PromotionParams, withdrawn: str = ""
) -> Decision:
    """Apply the policy.

    Promotes if the gate passed and, where there is a champion, the challenger's gain is strictly
    above `min_gain` and, where `max_p` is set, McNemar's p is at most that.

    Args:
        gate_passed: whether the challenger beat its own single models.
        duel: None where there is no champion.
        params: the section `promotion`.
        withdrawn: when and why it was rolled back as champion; empty if it was not. What people
            took back does not return by itself.
    """
    if not gate_passed:
        return Decision(False, "the gate did not pass")
    if withdrawn:
        return Decision(False, f"it was champion and was rolled back ({withdrawn})")
    if duel is None:
        return Decision(True, "the gate passed, and there is no champion yet")
    rescored = ", on which it was scored again" if duel.rescored else ""
    over = f"champion {duel.champion} over {duel.images:,} images{rescored}"
    return Decision(*improves(duel.gain, duel.mcnemar_p, params, over))
