"""May a version become champion? What is known about the two, and the rule that decides."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from fer_pipeline.errors import RegistryError
from fer_pipeline.evaluation.gate import improves
from fer_pipeline.paths import TEST
from fer_pipeline.registry.aliases import read_aliases, read_moves, withdrawn
from fer_pipeline.registry.check import score_version
from fer_pipeline.registry.record import find_test_split, read_record

if TYPE_CHECKING:
    from fer_pipeline.arrays import BoolArray
    from fer_pipeline.params.schema import Params, PromotionParams
    from fer_pipeline.registry.record import Record
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

GATE_TAG = "gate.passed"
"""Tag of a version: whether the gate passed, `true` or `false`."""

FIGURES = (
    "accuracy", "macro_f1", "clean_accuracy", "gain", "gain_ci95_low", "gain_ci95_high",
    "mcnemar_p",
)  # fmt: skip
"""Tags of a version that compare it with others, from the headline of its evaluation."""

COMPARISON_TAG = "comparison"
"""Tag of a version: its last paired comparison, which stays true since versions do not change."""


@dataclass(frozen=True)
class PairedComparison:
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


class Decision(NamedTuple):
    """What the policy says, and why, in one sentence; `promote` is None where it can't say."""

    promote: bool | None
    reason: str


def decide(
    gate_passed: bool,
    comparison: PairedComparison | None,
    params: PromotionParams,
    *,
    withdrawn: str = "",
) -> Decision:
    """Apply the policy: a pure function of what is known.

    Promotes if the gate passed and, where there is a champion, the challenger's gain is strictly
    above `min_gain` and, where `max_p` is set, McNemar's p is at most that.

    Args:
        gate_passed: whether the challenger beat its own single models.
        comparison: with the champion; None where there is no champion.
        params: the section `promotion`.
        withdrawn: when and why it was rolled back as champion; empty if it was not. What people
            took back does not return by itself.
    """
    if not gate_passed:
        return Decision(False, "the gate did not pass")
    if withdrawn:
        return Decision(False, f"it was champion and was rolled back ({withdrawn})")
    if comparison is None:
        return Decision(True, "the gate passed, and there is no champion yet")
    rescored = ", on which it was scored again" if comparison.rescored else ""
    over = f"champion {comparison.champion} over {comparison.images:,} images{rescored}"
    return Decision(*improves(comparison.gain, comparison.mcnemar_p, params, over))


def evaluate_policy(
    tracking: Tracking, params: Params, number: str, *, may_score: bool = True
) -> Decision:
    """Ask the policy about a version.

    Args:
        tracking: the store.
        params: the model's name, the policy, the bootstrap.
        number: the version.
        may_score: whether the champion may be scored again, which can take minutes.
    """
    name = params.registry.model_name
    champion = read_aliases(tracking, name).champion
    tags = tracking.client.get_model_version(name, number).tags
    comparison = None
    if champion is not None:
        try:
            comparison = compare_versions(tracking, params, number, champion, may_score=may_score)
        except RegistryError as error:
            return Decision(None, str(error))
    taken_back = withdrawn(read_moves(tracking, name), number)
    return decide(tags.get(GATE_TAG) == "true", comparison, params.promotion, withdrawn=taken_back)


def compare_versions(
    tracking: Tracking, params: Params, challenger: str, champion: str, *, may_score: bool = True
) -> PairedComparison:
    """Compare two versions on the challenger's test set, or take the comparison on record.

    Args:
        tracking: the store.
        params: for the model's name, and the draws and seed of the bootstrap.
        challenger, champion: their versions.
        may_score: whether the champion may be scored again, which can take minutes.

    Raises:
        RegistryError: the challenger's record is missing; or the champion must be scored again,
            and may not be, or the challenger's test images are not here.
    """
    # SciPy's statistics take a second to import.
    from fer_pipeline.evaluation.significance import gain_over

    name = params.registry.model_name
    text = tracking.client.get_model_version(name, challenger).tags.get(COMPARISON_TAG)
    known = TypeAdapter(PairedComparison).validate_json(text) if text else None
    if known is not None and known.champion == champion:
        return known
    ours = read_record(tracking, name, challenger)
    recorded = _recorded_hits(tracking, name, champion, ours.test_sha256)
    if recorded is None and not may_score:
        raise RegistryError(
            "the champion was tested on other images: it is scored on these when you promote"
        )
    hits = _score_again(tracking, name, champion, ours) if recorded is None else recorded
    gain = gain_over(ours.hits, hits, ours.groups, params.evaluation.bootstrap_draws, params.seed)
    comparison = PairedComparison(
        champion, len(hits), gain.accuracy, gain.ci95, gain.mcnemar_p, rescored=recorded is None
    )
    told = json.dumps(asdict(comparison))
    tracking.client.set_model_version_tag(name, challenger, COMPARISON_TAG, told)
    return comparison


def _recorded_hits(
    tracking: Tracking, name: str, champion: str, test_sha256: str
) -> BoolArray | None:
    """Where the champion was right on that test set, or None where no record says so."""
    try:
        record = read_record(tracking, name, champion)
    except RegistryError as error:
        log.info("%s", error)
        return None
    return record.hits if record.test_sha256 == test_sha256 else None


def _score_again(tracking: Tracking, name: str, champion: str, ours: Record) -> BoolArray:
    """(N,) true where the champion is right on the challenger's test images."""
    test = find_test_split(ours)
    if test is None:
        raise RegistryError(
            f"champion {champion} was tested on other images and must be scored on these, but "
            f"{TEST} is missing or holds others: check out the commit of the version and its data "
            "('fer registry status' names them)"
        )
    log.info("scoring champion %s on the %d test images of the version", champion, len(test))
    logits = score_version(tracking, name, champion, test.images)
    return np.asarray(logits.argmax(axis=1) == test.labels)
