"""How far a set of faces has drifted from an earlier version of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

from fer_pipeline.arrays import Int64Array
from fer_pipeline.data.profile import Profile
from fer_pipeline.errors import DataError

Counts = Sequence[int] | Int64Array


@dataclass(frozen=True)
class Shift:
    """A two-sample Kolmogorov-Smirnov test: the largest gap of the distributions, 0 to 1, and p."""

    ks: float
    p: float


@dataclass(frozen=True)
class ClassShift:
    """A chi-square test of homogeneity, and its size as Cramér's V, 0 to 1."""

    chi2: float
    p: float
    cramers_v: float


@dataclass(frozen=True)
class Drift:
    """How a set differs from an earlier one.

    Attributes:
        class_balance: None where the labels come from different places.
        brightness: of the mean greys.
        contrast: of the standard deviations.
        largest: the largest of Cramér's V and the two KS gaps: what `data.max_drift` limits. An
            effect size, not a p: with 36,000 faces the least difference is significant.
    """

    class_balance: ClassShift | None
    brightness: Shift
    contrast: Shift
    largest: float


def measure_drift(now: Profile, before: Profile) -> Drift:
    """Compare two versions of a source."""
    classes = compare_classes(now.classes, before.classes) if now.labels == before.labels else None
    brightness = compare_counts(now.brightness, before.brightness)
    contrast = compare_counts(now.contrast, before.contrast)
    sizes = [brightness.ks, contrast.ks, *([classes.cramers_v] if classes else [])]
    return Drift(classes, brightness, contrast, max(sizes))


def require_small(drift: Drift, limit: float | None, advice: str) -> None:
    """Refuse a version that has drifted further than `data.max_drift` allows.

    Raises:
        DataError: it has; the message names the figure and the limit, and ends with `advice`.
    """
    if limit is None or drift.largest <= limit:
        return
    figures = {
        "brightness": drift.brightness.ks,
        "contrast": drift.contrast.ks,
        "class balance": drift.class_balance.cramers_v if drift.class_balance else 0.0,
    }
    raise DataError(
        f"this version of the source has drifted from the last one: its "
        f"{max(figures, key=figures.__getitem__)} differs by {drift.largest:.3f}, more than "
        f"data.max_drift, which is {limit}: raise that to accept it; {advice}"
    )


def compare_counts(now: Counts, before: Counts) -> Shift:
    """Compare two distributions, each given as images per bin of the same bins."""
    found = ks_2samp(
        *(np.repeat(np.arange(len(one)), one) for one in (now, before)), method="asymp"
    )
    return Shift(float(found.statistic), float(found.pvalue))


def compare_classes(now: Counts, before: Counts) -> ClassShift:
    """Compare two class balances, each given as images per class."""
    table = np.array([now, before])
    table = table[:, table.sum(axis=0) > 0]
    found = chi2_contingency(table, correction=False)
    # Cramér's V for two rows: the root of chi-square over the number of images.
    return ClassShift(
        float(found.statistic), float(found.pvalue), float(np.sqrt(found.statistic / table.sum()))
    )
