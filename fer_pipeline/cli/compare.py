"""Two runs of the graph side by side: their scores, and the paired test of their fused models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fer_pipeline.cli.revisions import checkout
from fer_pipeline.data.faces import load_split
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.evaluation.significance import Gain, conclude, gain_over
from fer_pipeline.fusion.average import fuse
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.paths import EVALUATION, FUSION, PREDICTIONS, TEST

if TYPE_CHECKING:
    from fer_pipeline.params.schema import EvaluationParams

FUSED = "fused"
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "nll": "NLL",
    "ece": "ECE",
    "brier": "Brier",
}
"""The scores that are shown, and their names."""


@dataclass(frozen=True)
class Run:
    """What one run says about its test set.

    Attributes:
        name: the revision, as it was asked for.
        scores: by model, `fused` first, and metric; as `metrics/evaluation.json` has them.
        hits: (N,) true where the fused model is right.
        groups: (N,) equal for images with the same pixels.
        test_sha256: of the test images and their labels.
    """

    name: str
    scores: dict[str, dict[str, float]]
    hits: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]
    test_sha256: str


@dataclass(frozen=True)
class ScorePair:
    """One score of one model in both runs; None where a run has not that model or metric."""

    model: str
    metric: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b less a."""
        return None if self.a is None or self.b is None else self.b - self.a


def read_run(revision: str) -> Run:
    """A run's figures and fused decisions.

    Raises:
        DataError: there is no such revision, or its files are missing, damaged or do not belong
            together.
    """
    with checkout(revision, [EVALUATION, FUSION, TEST, PREDICTIONS]) as folder:
        try:
            evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
            fusion = read_fusion(folder / FUSION)
            split = load_split(folder / TEST)
            logits = read_logits(list(fusion.weights), "test", folder)
            return _run(revision, evaluation, logits, fusion.weights, split.labels, split.groups)
        except (ValueError, KeyError, TypeError, DataError, FusionError) as error:
            raise DataError(f"the run of {revision} can't be read: {error}") from error


def _run(
    revision: str,
    evaluation: Mapping[str, Any],
    logits: npt.NDArray[np.float64],
    weights: Mapping[str, float],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> Run:
    models = {FUSED: evaluation["fused"], **evaluation["single"]}
    hits = fuse(logits, np.array(list(weights.values()))).argmax(axis=1) == labels
    if not np.isclose(hits.mean(), models[FUSED]["accuracy"], rtol=0, atol=1e-9):
        raise DataError(
            f"{EVALUATION} says that fused is right on {models[FUSED]['accuracy']:.2%} of test, "
            f"predictions and {FUSION} say {hits.mean():.2%}: run 'dvc repro'"
        )
    scores = {
        model: {metric: float(found[metric]) for metric in METRICS if metric in found}
        for model, found in models.items()
    }
    return Run(revision, scores, hits, groups, evaluation["test"]["sha256"])


def pair_scores(a: Run, b: Run) -> list[ScorePair]:
    """Every score of every model of either run, the models of a first."""
    return [
        ScorePair(
            model, metric, a.scores.get(model, {}).get(metric), b.scores.get(model, {}).get(metric)
        )
        for model in {**a.scores, **b.scores}
        for metric in METRICS
    ]


def gain_of(b: Run, a: Run, params: EvaluationParams, seed: int) -> Gain | None:
    """How much better the fused model of b is than that of a; None if their test sets differ."""
    if a.test_sha256 != b.test_sha256:
        return None
    return gain_over(b.hits, a.hits, a.groups, params.bootstrap_draws, seed)


def meaning(a: Run, b: Run, gain: Gain | None) -> str:
    """What the comparison says, in one sentence."""
    if gain is None:
        return (
            f"The test sets differ ({len(a.hits):,} and {len(b.hits):,} images): these figures do "
            f"not compare, and there is no test of significance."
        )
    if np.array_equal(a.hits, b.hits):
        return f"{a.name} and {b.name} are right on the same images: there is no difference."
    return conclude(
        gain,
        f"{b.name} is better than {a.name} on this test set",
        f"{a.name} is better than {b.name} on this test set",
    )
