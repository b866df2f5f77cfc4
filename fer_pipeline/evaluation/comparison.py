"""The fused model against each single one on the same images, and images that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from fer_pipeline.arrays import BoolArray, FloatArray, Int64Array
from fer_pipeline.evaluation.metrics import Scores, score
from fer_pipeline.evaluation.significance import Gain, gain_over
from fer_pipeline.fusion.average import image_hits

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

    @property
    def models(self) -> dict[str, FloatArray]:
        """The logits of `fused` and of every backbone."""
        return {"fused": self.fused, **self.single}

    def select(self, rows: BoolArray) -> TestLogits:
        """The same for some of the images."""
        return TestLogits(
            self.fused[rows],
            self.temperature,
            {name: logits[rows] for name, logits in self.single.items()},
            self.labels[rows],
            self.groups[rows],
        )


@dataclass(frozen=True)
class Agreement:
    """How alike the backbones decide: fusing gains only where their errors differ.

    Attributes:
        oracle_accuracy: the share of images that one backbone or more gets right: no choice among
            their answers can be right more often.
        all_agree: the share of images on which all predict the same, right or wrong.
        disagreement: per backbone and other backbone, the share of images on which their
            predictions differ. (Kuncheva and Whitaker, 2003, count only those on which one of the
            two is right; here two different errors differ as well.)
    """

    oracle_accuracy: float
    all_agree: float
    disagreement: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Comparison:
    """Scores of the fused and every single model on some images, and the gain over the singles.

    Attributes:
        images: how many there are.
        fused: scores of the method that counts, after temperature.
        single: the same of every backbone, at temperature 1.
        best_single: the backbone with the best val accuracy; it is not chosen on test.
        gains: of the fused model over every backbone.
        agreement: of the backbones.
    """

    images: int
    fused: Scores
    single: dict[str, Scores]
    best_single: str
    gains: dict[str, Gain]
    agreement: Agreement

    @property
    def gain(self) -> Gain:
        """The gain of the fused model over the best single one."""
        return self.gains[self.best_single]

    @property
    def models(self) -> dict[str, Scores]:
        """The scores of `fused` and of every backbone."""
        return {"fused": self.fused, **self.single}

    def to_json(self) -> dict[str, Any]:
        """What it says, with the gain over the best single one named apart."""
        content = asdict(self)
        gains, agreement = content.pop("gains"), content.pop("agreement")
        gain = gains[self.best_single]
        return {**content, "gain": gain, "gains": gains, "agreement": agreement}


@dataclass(frozen=True)
class Case:
    """One test image and what was said of it; classes are indices into `EMOTIONS`.

    Attributes:
        row: of the image in test.
        actual: its label.
        fused, single: what the fused model and the best single one predict.
        confidence: the fused model's in its own answer, after temperature.
    """

    row: int
    actual: int
    fused: int
    single: int
    confidence: float


@dataclass(frozen=True)
class Cases:
    """Test images by kind: `rescued`, `broken` and `mistakes`.

    Attributes:
        examples: of each kind, the clearest first.
        images: how many of each kind there are in all.
    """

    examples: dict[str, tuple[Case, ...]]
    images: dict[str, int]


def compare(test: TestLogits, best_single: str, params: EvaluationParams, seed: int) -> Comparison:
    """Compare the fused model with every single one.

    Args:
        test: logits and labels.
        best_single: the best backbone by val accuracy.
        params: bootstrap draws and calibration bins.
        seed: of the bootstrap.
    """
    bins, draws = params.ece_bins, params.bootstrap_draws
    hits = image_hits(test.fused, test.labels)
    return Comparison(
        images=len(test.labels),
        fused=score(test.fused, test.labels, test.temperature, bins),
        single={
            name: score(logits, test.labels, 1.0, bins) for name, logits in test.single.items()
        },
        best_single=best_single,
        gains={
            name: gain_over(hits, image_hits(logits, test.labels), test.groups, draws, seed)
            for name, logits in test.single.items()
        },
        agreement=agree(test.single, test.labels),
    )


def agree(single: Mapping[str, FloatArray], labels: Int64Array) -> Agreement:
    """How alike backbones decide.

    Args:
        single: (N, C) logits per backbone.
        labels: (N,).
    """
    predicted = np.stack([logits.argmax(axis=1) for logits in single.values()])  # (M, N)
    return Agreement(
        oracle_accuracy=float((predicted == labels).any(axis=0).mean()),
        all_agree=float((predicted == predicted[0]).all(axis=0).mean()),
        disagreement={
            name: {
                other: float((own != others).mean())
                for other, others in zip(single, predicted, strict=True)
                if other != name
            }
            for name, own in zip(single, predicted, strict=True)
        },
    )


def find_cases(test: TestLogits, best_single: str, most: int) -> Cases:
    """Pick the images whose answer fusing changed, and the mistakes with the highest confidence.

    Of the kind `rescued` are those that the fused model gets right and the best single one wrong,
    of `broken` the reverse, of `mistakes` all that the fused model gets wrong.

    Args:
        test: logits and labels.
        best_single: name of a backbone.
        most: examples of each kind; copies of one picture count as one.
    """
    single = test.single[best_single].argmax(axis=1)
    probabilities = softmax(test.fused / test.temperature, axis=1)  # (N, C)
    fused, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right, single_right = fused == test.labels, single == test.labels

    kinds = {"rescued": right & ~single_right, "broken": ~right & single_right, "mistakes": ~right}
    examples = {}
    for kind, chosen in kinds.items():
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        _, first = np.unique(test.groups[rows], return_index=True)  # of each picture, its surest
        columns = (rows, test.labels[rows], fused[rows], single[rows], confidence[rows])
        clearest = np.sort(first)[:most]
        examples[kind] = tuple(
            Case(*own) for own in zip(*(one[clearest].tolist() for one in columns), strict=True)
        )
    return Cases(examples, {kind: int(rows.sum()) for kind, rows in kinds.items()})
