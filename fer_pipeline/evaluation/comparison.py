"""The fused model against each single one on the same images: what `evaluation.json` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fer_pipeline.evaluation.agreement import agreement
from fer_pipeline.evaluation.metrics import FloatArray, Int64Array, score
from fer_pipeline.evaluation.significance import BoolArray, gain_over

if TYPE_CHECKING:
    from fer_pipeline.params.schema import EvaluationParams


@dataclass(frozen=True)
class TestLogits:
    """Everything that is compared on one set of test images.

    Attributes:
        fused: (N, C) logits of the method that counts, before temperature.
        temperature: of the fused logits.
        single: (N, C) logits per backbone.
        labels: (N,).
        groups: (N,) equal for images with the same pixels.
    """

    __test__ = False  # the name is no pytest class

    fused: FloatArray
    temperature: float
    single: dict[str, FloatArray]
    labels: Int64Array
    groups: Int64Array

    def select(self, rows: BoolArray) -> TestLogits:
        """The same for some of the images."""
        return TestLogits(
            self.fused[rows],
            self.temperature,
            {name: logits[rows] for name, logits in self.single.items()},
            self.labels[rows],
            self.groups[rows],
        )


def compare(
    test: TestLogits, best_single: str, params: EvaluationParams, seed: int
) -> dict[str, object]:
    """Scores of the fused and every single model, and the gain over the singles.

    Args:
        test: logits and labels.
        best_single: the best backbone by val accuracy: it is not chosen on test.
        params: bootstrap draws and calibration bins.
        seed: of the bootstrap.

    Returns:
        images, fused, single, best_single, gain over it with accuracy, ci95 and mcnemar_p,
        gains with the same over every single, and agreement of the singles.
    """
    hits = test.fused.argmax(axis=1) == test.labels
    gains = {
        name: gain_over(
            hits,
            logits.argmax(axis=1) == test.labels,
            test.groups,
            params.bootstrap_draws,
            seed,
        ).to_json()
        for name, logits in test.single.items()
    }
    return {
        "images": len(test.labels),
        "fused": score(test.fused, test.labels, test.temperature, params.ece_bins),
        "single": {
            name: score(logits, test.labels, 1.0, params.ece_bins)
            for name, logits in test.single.items()
        },
        "best_single": best_single,
        "gain": gains[best_single],
        "gains": gains,
        "agreement": agreement(test.single, test.labels),
    }


def top1_accuracy(logits: FloatArray, labels: Int64Array) -> float:
    """Share of images whose largest logit is their label's."""
    return float(np.mean(logits.argmax(axis=1) == labels))
