"""Two runs of the graph side by side: their scores, and the paired test of their fused models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.arrays import BoolArray, Int64Array
from fer_pipeline.cli.revisions import checkout
from fer_pipeline.data.faces import load_split
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.evaluation.metrics import METRICS, Scores
from fer_pipeline.evaluation.result import read_evaluation
from fer_pipeline.evaluation.significance import Gain, conclude, gain_over
from fer_pipeline.fusion.average import fuse, image_hits
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.paths import EVALUATION, FUSION, PREDICTIONS, TEST

if TYPE_CHECKING:
    from fer_pipeline.params.schema import EvaluationParams


@dataclass(frozen=True)
class RunScores:
    """What one run says about its test set.

    Attributes:
        name: the revision, as it was asked for.
        scores: by model, `fused` first.
        hits: (N,) true where the fused model is right.
        groups: (N,) equal for images with the same pixels.
        test_sha256: of the test images and their labels.
    """

    name: str
    scores: dict[str, Scores]
    hits: BoolArray
    groups: Int64Array
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


def read_run(revision: str) -> RunScores:
    """A run's figures and fused decisions.

    Raises:
        DataError: there is no such revision, or its files are missing, damaged or do not belong
            together.
    """
    with checkout(revision, [EVALUATION, FUSION, TEST, PREDICTIONS]) as folder:
        try:
            evaluation = read_evaluation(folder / EVALUATION)
            fusion = read_fusion(folder / FUSION)
            split = load_split(folder / TEST)
            logits = read_logits(list(fusion.weights), "test", folder)
            hits = image_hits(fuse(logits, np.array(list(fusion.weights.values()))), split.labels)
        except (ValueError, DataError, FusionError) as error:
            raise DataError(f"the run of {revision} can't be read: {error}") from error
    said = evaluation.test.fused.accuracy
    if not np.isclose(hits.mean(), said, rtol=0, atol=1e-9):
        raise DataError(
            f"the run of {revision} can't be read: {EVALUATION} says that fused is right on "
            f"{said:.2%} of test, predictions and {FUSION} say {hits.mean():.2%}: run 'dvc repro'"
        )
    scores = evaluation.test.models
    return RunScores(revision, scores, hits, split.groups, evaluation.test_sha256)


def pair_scores(a: RunScores, b: RunScores) -> list[ScorePair]:
    """Every score of every model of either run, the models of a first."""
    return [
        ScorePair(
            model,
            metric,
            getattr(a.scores.get(model), metric, None),
            getattr(b.scores.get(model), metric, None),
        )
        for model in {**a.scores, **b.scores}
        for metric in METRICS
    ]


def gain_of(b: RunScores, a: RunScores, params: EvaluationParams, seed: int) -> Gain | None:
    """How much better the fused model of b is than that of a; None if their test sets differ."""
    if a.test_sha256 != b.test_sha256:
        return None
    return gain_over(b.hits, a.hits, a.groups, params.bootstrap_draws, seed)


def meaning(a: RunScores, b: RunScores, gain: Gain | None) -> str:
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
