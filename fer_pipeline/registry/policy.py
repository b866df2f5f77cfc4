"""May a version become champion? What is known about the two, and the rule that decides."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from fer_pipeline.data.faces import load_split, split_sha256
from fer_pipeline.errors import DataError, RegistryError
from fer_pipeline.evaluation.gate import improves
from fer_pipeline.paths import TEST
from fer_pipeline.registry.aliases import WITHDRAWN_TAG, read_aliases
from fer_pipeline.registry.check import score_version
from fer_pipeline.registry.version_files import Record, read_record

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.params.schema import Params, PromotionParams
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

GATE_TAG = "gate.passed"
"""Tag of a version: whether the gate passed, `true` or `false`."""

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

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PairedComparison:
        return TypeAdapter(cls).validate_json(text)


@dataclass(frozen=True)
class Decision:
    """What the policy says, and why, in one sentence."""

    promote: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


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
) -> Decision | None:
    """Ask the policy about a version.

    Args:
        tracking: the store.
        params: the model's name, the policy, the bootstrap.
        number: the version.
        may_score: whether the champion may be scored again, which can take minutes.

    Returns:
        None where the champion would have to be scored again and may not.
    """
    name = params.registry.model_name
    champion = read_aliases(tracking, name).champion
    tags = tracking.client.get_model_version(name, number).tags
    comparison = None
    if champion is not None:
        comparison = compare_versions(tracking, params, number, champion, may_score=may_score)
        if comparison is None:
            return None
    passed, withdrawn = tags.get(GATE_TAG) == "true", tags.get(WITHDRAWN_TAG, "")
    return decide(passed, comparison, params.promotion, withdrawn=withdrawn)


def compare_versions(
    tracking: Tracking, params: Params, challenger: str, champion: str, *, may_score: bool = True
) -> PairedComparison | None:
    """Compare two versions on the challenger's test set, or take the comparison on record.

    Args:
        tracking: the store.
        params: for the model's name, and the draws and seed of the bootstrap.
        challenger, champion: their versions.
        may_score: whether the champion may be scored again, which can take minutes.

    Returns:
        None only where the champion would have to be scored again and may not.

    Raises:
        RegistryError: a record is missing, or the challenger's test images are.
    """
    name = params.registry.model_name
    known = _known_comparison(tracking, name, challenger, champion)
    if known is not None:
        return known
    theirs, ours = _try_record(tracking, name, champion), read_record(tracking, name, challenger)
    rescored = theirs is None or theirs.test_sha256 != ours.test_sha256
    if theirs is not None and not rescored:
        hits = theirs.hits
    elif may_score:
        hits = _score_again(tracking, name, champion, challenger, ours)
    else:
        return None
    comparison = _compare(champion, hits, ours, params, rescored)
    tracking.client.set_model_version_tag(name, challenger, COMPARISON_TAG, comparison.to_json())
    return comparison


def _known_comparison(
    tracking: Tracking, name: str, challenger: str, champion: str
) -> PairedComparison | None:
    text = tracking.client.get_model_version(name, challenger).tags.get(COMPARISON_TAG)
    found = PairedComparison.from_json(text) if text else None
    return found if found is not None and found.champion == champion else None


def _try_record(tracking: Tracking, name: str, number: str) -> Record | None:
    """A champion's record, or None where it has none: then it is scored again."""
    try:
        return read_record(tracking, name, number)
    except RegistryError as error:
        log.info("%s", error)
        return None


def _score_again(
    tracking: Tracking, name: str, champion: str, challenger: str, ours: Record
) -> npt.NDArray[np.bool_]:
    """(N,) true where the champion is right on the challenger's test images."""
    why = (
        f"champion {champion} was tested on other images than version {challenger} and must "
        "be scored on these, but"
    )
    try:
        test = load_split(TEST)
    except DataError as error:
        raise RegistryError(f"{why} {error}") from error
    if split_sha256(test) != ours.test_sha256:
        raise RegistryError(
            f"{why} {TEST} holds others: check out the commit of the version and its data "
            "('fer registry status' names them)"
        )
    log.info(
        "scoring champion %s on the %d test images of version %s", champion, len(test), challenger
    )
    logits = score_version(tracking, name, champion, test.images)
    return np.asarray(logits.argmax(axis=1) == test.labels)


def _compare(
    champion: str, hits: npt.NDArray[np.bool_], ours: Record, params: Params, rescored: bool
) -> PairedComparison:
    # SciPy's statistics take a second to import.
    from fer_pipeline.evaluation.significance import gain_over

    gain = gain_over(ours.hits, hits, ours.groups, params.evaluation.bootstrap_draws, params.seed)
    return PairedComparison(champion, len(hits), gain.accuracy, gain.ci95, gain.mcnemar_p, rescored)
