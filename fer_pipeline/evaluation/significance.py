"""Is one classifier better than another on the same images? Paired, and by groups of duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_pipeline.arrays import BoolArray, Int64Array

LEVEL = 0.05
"""Largest p that counts as significant, to go with the 95 % interval."""


@dataclass(frozen=True)
class Gain:
    """The accuracy of one classifier less that of another, on the same images.

    Attributes:
        accuracy: the difference, a fraction.
        ci95: its 95 % bootstrap interval, low and high.
        mcnemar_p: of the exact test.
    """

    accuracy: float
    ci95: tuple[float, float]
    mcnemar_p: float

    @property
    def may_be_chance(self) -> bool:
        """Whether the interval includes zero, or p is too large."""
        low, high = self.ci95
        return low <= 0 <= high or self.mcnemar_p > LEVEL


def conclude(gain: Gain, better: str, worse: str) -> str:
    """What interval and p say together, in one sentence; a difference is one only to both.

    Args:
        gain: of one classifier over another.
        better: what is so where the gain is real and positive.
        worse: what is so where it is real and negative.
    """
    low, high = gain.ci95
    significant = gain.mcnemar_p <= LEVEL
    p = f"p is {'at most' if significant else 'above'} {LEVEL:g}"
    if low <= 0 <= high:
        verdict = "Undecided" if significant else "The difference may be chance"
        return f"{verdict}: the interval includes zero, and {p}."
    side = "above" if low > 0 else "below"
    if not significant:
        return f"Undecided: the interval lies {side} zero, but {p}."
    return f"{better if low > 0 else worse}: the interval lies {side} zero, and {p}."


def gain_over(
    hits_a: BoolArray, hits_b: BoolArray, groups: Int64Array, draws: int, seed: int
) -> Gain:
    """How much better a is than b; arguments as for `gain_interval`."""
    return Gain(
        float(hits_a.mean() - hits_b.mean()),
        gain_interval(hits_a, hits_b, groups, draws, seed),
        mcnemar_p(hits_a, hits_b),
    )


def mcnemar_p(hits_a: BoolArray, hits_b: BoolArray) -> float:
    """Two-sided exact McNemar p: the discordant images split as a fair coin would (McNemar, 1947).

    Args:
        hits_a, hits_b: (N,) true where each classifier is right.
    """
    from scipy.stats import binomtest  # takes most of a second, and pages need no test

    only_a = int((hits_a & ~hits_b).sum())
    only_b = int((hits_b & ~hits_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def gain_interval(
    hits_a: BoolArray,
    hits_b: BoolArray,
    groups: Int64Array,
    draws: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of accuracy(a) - accuracy(b), resampling whole groups.

    Copies of one image are not independent, so groups of equal pixels are drawn with
    replacement instead of images. Only a group's size and its difference in hits matter, and
    few such pairs occur: counting how often each pair is drawn (multinomial) is the same
    bootstrap at a fraction of the cost.

    Args:
        hits_a, hits_b: (N,) true where each classifier is right.
        groups: (N,) equal for images with the same pixels.
        draws: bootstrap samples.
        seed: of the draws.
        level: coverage of the interval.

    Returns:
        The lower and upper bound, as fractions.
    """
    _, member = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member)
    gains = np.bincount(member, hits_a.astype(np.int64) - hits_b.astype(np.int64))
    kinds, counts = np.unique(np.stack([sizes, gains.astype(np.int64)]), axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sizes), counts / counts.sum(), size=draws)
    ratios = (drawn @ kinds[1]) / (drawn @ kinds[0])  # (draws,)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
