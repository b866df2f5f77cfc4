"""The test images that the report shows: where fusing changed the answer, and sure mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from fer_pipeline.evaluation.comparison import TestLogits


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
