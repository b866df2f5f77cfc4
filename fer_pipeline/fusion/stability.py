"""How far fusion weights move when other val images of the same kind had been drawn.

Weights are refitted to bootstrap resamples (Efron, 1979), and to four fifths of val with the rest
held out. Copies of one image are not independent, so both divide val by groups of equal pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.errors import FusionError
from fer_pipeline.fusion.average import Fitter, fuse, image_hits

FOLDS = 5


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (with the divisor D - 1) of weights over D fits, each (M,)."""

    mean: FloatArray
    sd: FloatArray


@dataclass(frozen=True)
class FoldSpread(Spread):
    """The same over fits with one fold left out each.

    Attributes:
        held_out_accuracy: top-1 on all of val, each image by the fit that left its fold out.
    """

    held_out_accuracy: float


@dataclass(frozen=True)
class Stability:
    """How one method's weights move over resamples of val, and over folds."""

    bootstrap: Spread
    folds: FoldSpread


def measure_stability(
    fitters: Mapping[str, Fitter],
    logits: FloatArray,
    labels: Int64Array,
    groups: Int64Array,
    draws: int,
    seed: int,
) -> dict[str, Stability]:
    """Every method's stability, by name; all methods see the same resamples and folds.

    Args:
        fitters: of the methods, prepared on these logits and labels.
        logits: (M, N, C) of val.
        labels: (N,).
        groups: (N,) equal for images with the same pixels.
        draws: bootstrap resamples, at least 2.
        seed: of the resamples and of the folds.

    Raises:
        FusionError: val has fewer groups than there are folds.
    """
    of_draws, of_folds = np.random.default_rng(seed).spawn(2)
    counts = bootstrap_counts(groups, draws, of_draws)
    folds = fold_numbers(groups, of_folds)
    kept = (folds != np.arange(FOLDS)[:, None]).astype(np.float64)  # (5, N)
    found = {}
    for name, fit in fitters.items():
        weights = fit(kept)  # (5, M)
        held_out = sum(
            int(image_hits(fuse(logits[:, folds == fold], own), labels[folds == fold]).sum())
            for fold, own in enumerate(weights)
        )
        folds_spread = FoldSpread(*_mean_and_sd(weights), held_out / len(labels))
        found[name] = Stability(Spread(*_mean_and_sd(fit(counts))), folds_spread)
    return found


def bootstrap_counts(groups: Int64Array, draws: int, rng: np.random.Generator) -> FloatArray:
    """(draws, N) how often each image is drawn, when whole groups are drawn with replacement."""
    _, member = np.unique(groups, return_inverse=True)  # (N,) from 0 to G - 1
    size = int(member.max()) + 1
    drawn = rng.multinomial(size, np.full(size, 1 / size), size=draws)  # (draws, G)
    return drawn[:, member].astype(np.float64)


def fold_numbers(groups: Int64Array, rng: np.random.Generator) -> Int64Array:
    """(N,) from 0 to 4: the fold of each image; groups stay whole, folds have as many groups.

    Raises:
        FusionError: there are fewer groups than folds.
    """
    _, member = np.unique(groups, return_inverse=True)
    size = int(member.max()) + 1
    if size < FOLDS:
        raise FusionError(
            f"val has {size} different images: the stability of fusion weights needs {FOLDS}"
        )
    return np.asarray((rng.permutation(size) % FOLDS)[member], np.int64)


def _mean_and_sd(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    return weights.mean(axis=0), weights.std(axis=0, ddof=1)
