"""A challenger against the champion on the same test images, from what is on record."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.data.faces import load_split, split_sha256
from fer_pipeline.errors import DataError, RegistryError
from fer_pipeline.paths import TEST
from fer_pipeline.registry.check import score_version
from fer_pipeline.registry.policy import Duel
from fer_pipeline.registry.records import Record, read_record

if TYPE_CHECKING:
    import numpy.typing as npt

    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

DUEL_TAG = "duel"
"""Version tag: the last duel of a challenger. Versions do not change, so it stays true."""


def find_duel(
    tracking: Tracking, params: Params, challenger: str, champion: str, *, may_score: bool = True
) -> Duel | None:
    """Compare two versions, or take the comparison that is on record.

    Args:
        tracking: the store.
        params: for the model's name, and the draws and seed of the bootstrap.
        challenger, champion: their versions.
        may_score: whether the champion may be scored again, which can take minutes.

    Returns:
        None only where it would have to be scored again and may not.

    Raises:
        RegistryError: a record is missing, or the challenger's test images are.
    """
    name = params.registry.model_name
    known = _known_duel(tracking, name, challenger, champion)
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
    duel = _compare(champion, hits, ours, params, rescored)
    text = json.dumps(duel.to_json())
    tracking.client.set_model_version_tag(name, challenger, DUEL_TAG, text)
    return duel


def _known_duel(tracking: Tracking, name: str, challenger: str, champion: str) -> Duel | None:
    text = tracking.client.get_model_version(name, challenger).tags.get(DUEL_TAG)
    duel = Duel.from_json(json.loads(text)) if text else None
    return duel if duel is not None and duel.champion == champion else None


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
    """(N,) where the champion is right on the challenger's test images."""
    try:
        test = load_split(TEST)
    except DataError as error:
        raise RegistryError(
            f"champion {champion} was tested on other images than version {challenger} and must "
            f"be scored on these, but {error}"
        ) from error
    if split_sha256(test) != ours.test_sha256:
        raise RegistryError(
            f"champion {champion} was tested on other images than version {challenger} and must "
            f"be scored on these, but {TEST} holds others: check out the commit of the version "
            f"and its data ('fer registry status' names them)"
        )
    log.info(
        "scoring champion %s on the %d test images of version %s", champion, len(test), challenger
    )
    logits = score_version(tracking, name, champion, test.images)
    return np.asarray(logits.argmax(axis=1) == test.labels)


def _compare(
    champion: str, hits: npt.NDArray[np.bool_], ours: Record, params: Params, rescored: bool
) -> Duel:
    # SciPy's statistics take a second to import.
    from fer_pipeline.evaluation.significance import gain_over

    gain = gain_over(ours.hits, hits, ours.groups, params.evaluation.bootstrap_draws, params.seed)
    return Duel(champion, len(hits), gain.accuracy, gain.ci95, gain.mcnemar_p, rescored)
