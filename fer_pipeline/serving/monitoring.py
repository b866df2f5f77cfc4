"""Whether the faces that come in, and what the model says of them, are as when it was measured.

What was seen is kept as counts, so that it takes the same memory for any number of faces, and
compared by effect sizes from 0, no difference, to 1: Kolmogorov-Smirnov distances of brightness,
contrast and confidence, Cramér's V of the expressions, and the share of faces that were enlarged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_pipeline.arrays import Int64Array, UInt8Array
from fer_pipeline.data.faces import SIDE
from fer_pipeline.data.profile import count_greys
from fer_pipeline.data.quality.drift import compare_classes, compare_counts
from fer_pipeline.emotions import NUM_EMOTIONS

CHANCE = 0.001
"""A difference with a p above this may be one of two draws from the same faces: few faces differ
much by chance alone."""

LARGEST_SIDE = 1024
"""Larger sides are counted as this one."""

_BINS = 100


@dataclass(frozen=True)
class Observed:
    """Counts of faces.

    Attributes:
        expressions: (7,) faces per expression that the model sees in them.
        confidence: (100,) faces per per cent of the probability of that expression.
        confidence_sum: of those probabilities.
        brightness, contrast: faces per bin, as in `data.profile`; None where not known.
        sides: (1025,) faces per pixel of their smaller side before resizing; None where not known.
    """

    expressions: Int64Array
    confidence: Int64Array
    confidence_sum: float
    brightness: Int64Array | None = None
    contrast: Int64Array | None = None
    sides: Int64Array | None = None

    @property
    def images(self) -> int:
        return int(self.expressions.sum())

    @property
    def mean_confidence(self) -> float:
        return self.confidence_sum / self.images

    def side_figures(self) -> dict[str, int]:
        """Smallest, median and largest of the smaller sides, in pixels."""
        assert self.sides is not None
        reached = self.sides.cumsum()
        at = {"smallest": 1, "median": (self.images + 1) // 2, "largest": self.images}
        return {key: int(np.searchsorted(reached, rank)) for key, rank in at.items()}

    def __add__(self, other: Observed) -> Observed:
        theirs = vars(other)
        summed: dict[str, Any] = {
            key: None if own is None or theirs[key] is None else own + theirs[key]
            for key, own in vars(self).items()
        }
        return Observed(**summed)


@dataclass(frozen=True)
class Difference:
    """How far two sets differ, 0 to 1, and the chance that two draws from one differ as much."""

    size: float
    p: float


def count_answers(probabilities: npt.NDArray[np.floating]) -> Observed:
    """What a model says of faces, of which nothing else is known.

    Args:
        probabilities: (N, 7) calibrated.
    """
    confidence = probabilities.max(axis=1)
    per_cent = np.minimum(confidence * _BINS, _BINS - 1).astype(np.int64)
    return Observed(
        np.bincount(probabilities.argmax(axis=1), minlength=NUM_EMOTIONS),
        np.bincount(per_cent, minlength=_BINS),
        float(confidence.sum(dtype=np.float64)),
    )


def observe(
    images: UInt8Array, sides: Int64Array, probabilities: npt.NDArray[np.floating]
) -> Observed:
    """Faces and what a model says of them.

    Args:
        images: (N, 48, 48).
        sides: (N, 2) width and height of each before it was resized.
        probabilities: (N, 7) calibrated.
    """
    brightness, contrast = map(np.array, count_greys(images))
    smaller = np.minimum(sides.min(axis=1), LARGEST_SIDE)
    return replace(
        count_answers(probabilities),
        brightness=brightness,
        contrast=contrast,
        sides=np.bincount(smaller, minlength=LARGEST_SIDE + 1),
    )


def compare(now: Observed, before: Observed) -> dict[str, Difference]:
    """How faces and answers differ from those on record, as far as both are known."""
    found = {}
    for measure in ("brightness", "contrast", "confidence"):
        ours, theirs = getattr(now, measure), getattr(before, measure)
        if ours is not None and theirs is not None:
            shift = compare_counts(ours, theirs)
            found[measure] = Difference(shift.ks, shift.p)
    classes = compare_classes(now.expressions, before.expressions)
    found["expressions"] = Difference(classes.cramers_v, classes.p)
    if now.sides is not None:
        # Faces of FER2013 have 48 pixels a side: the model has not seen what was smaller, and
        # is blurred by enlarging it. Of larger ones it sees as much as of its own.
        found["enlarged"] = Difference(float(now.sides[:SIDE].sum()) / now.images, 0.0)
    return found


def beyond(differences: dict[str, Difference], limit: float | None) -> list[str]:
    """The measures that differ by more than the limit, and not by chance; the furthest first."""
    if limit is None:
        return []
    far = [name for name, one in differences.items() if one.size > limit and one.p < CHANCE]
    return sorted(far, key=lambda name: -differences[name].size)
