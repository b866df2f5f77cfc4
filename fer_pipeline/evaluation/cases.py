"""The test images worth a look: where fusing changed the answer, and the surest mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from fer_pipeline.evaluation.comparison import TestLogits

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


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
    """Examples of each kind, the clearest first, and how many there are in all."""

    rescued: tuple[Case, ...]
    broken: tuple[Case, ...]
    mistakes: tuple[Case, ...]
    rescued_images: int
    broken_images: int
    mistaken_images: int


def find_cases(test: TestLogits, best_single: str, most: int) -> Cases:
    """Rescued: the fused model is right where the best single one is wrong; broken: the reverse.

    Args:
        test: logits and labels.
        best_single: name of a backbone.
        most: examples of each kind; copies of one picture count as one.
    """
    single = test.single[best_single].argmax(axis=1)
    probabilities = softmax(test.fused / test.temperature, axis=1)  # (N, C)
    fused, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right, single_right = fused == test.labels, single == test.labels

    def case(row: int) -> Case:
        return Case(
            row,
            actual=int(test.labels[row]),
            fused=int(fused[row]),
            single=int(single[row]),
            confidence=float(confidence[row]),
        )

    def examples(chosen: BoolArray) -> tuple[Case, ...]:
        return _clearest(chosen, confidence, test.groups, most, case)

    rescued, broken = right & ~single_right, ~right & single_right
    return Cases(
        examples(rescued),
        examples(broken),
        examples(~right),
        int(rescued.sum()),
        int(broken.sum()),
        int((~right).sum()),
    )


def _clearest(
    chosen: BoolArray,
    confidence: FloatArray,
    groups: npt.NDArray[np.int64],
    most: int,
    case: Callable[[int], Case],
) -> tuple[Case, ...]:
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-confidence[rows], kind="stable")]
    _, first = np.unique(groups[rows], return_index=True)  # of each picture, its surest answer
    return tuple(case(int(row)) for row in rows[np.sort(first)[:most]])
