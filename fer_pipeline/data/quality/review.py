"""The faces that a person should look at: conflicting labels, empty pictures, near duplicates."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fer_pipeline.data.faces import Faces, Int64Array
from fer_pipeline.emotions import EMOTIONS

SHOWN = 24
"""Faces of each kind that are shown, at most."""

LOW_CONTRAST = 10.0
"""Standard deviation of the greys below which a face can hardly be seen."""

Vote = tuple[str, str, int]
"""Split, emotion, and how many images there have both."""


def worst_conflicts(faces: Faces, groups: Int64Array) -> list[tuple[int, tuple[Vote, ...]]]:
    """Groups of equal images with different labels: one row of each, and its labels.

    Those with the most images that contradict the most frequent label come first.
    """
    found = []
    for group in np.flatnonzero(np.bincount(groups) > 1):
        rows = np.flatnonzero(groups == group)
        labels = Counter(faces.emotion[rows].tolist())
        if len(labels) > 1:
            against = len(rows) - max(labels.values())
            found.append((-against, int(rows[0]), _votes(faces, rows)))
    return [(row, votes) for _, row, votes in sorted(found)[:SHOWN]]


def suspicious(faces: Faces, groups: Int64Array, near: Int64Array) -> dict[str, list[int]]:
    """Rows to look at, by what is odd about them."""
    spread = faces.pixels.reshape(len(faces), -1).std(axis=1)
    by_spread = np.argsort(spread, kind="stable")
    faint = by_spread[(spread[by_spread] > 0) & (spread[by_spread] < LOW_CONTRAST)]
    return {
        "One grey value": np.flatnonzero(spread == 0)[:SHOWN].tolist(),
        "Hardly any contrast": faint[:SHOWN].tolist(),
        "Nearly the same, with different labels": _near_conflicts(faces, groups, near),
    }


def caption(faces: Faces, row: int) -> str:
    return f"{faces.usage[row]}, {EMOTIONS[faces.emotion[row]]}"


def _near_conflicts(faces: Faces, groups: Int64Array, near: Int64Array) -> list[int]:
    """Pairs of different images, next to each other, that one near group holds."""
    order = np.argsort(near, kind="stable")
    here, there = order[:-1], order[1:]
    odd = (near[here] == near[there]) & (groups[here] != groups[there])
    odd &= faces.emotion[here] != faces.emotion[there]
    pairs = np.stack([here[odd], there[odd]], axis=1)[: SHOWN // 2]
    return [int(row) for row in pairs.ravel()]


def _votes(faces: Faces, rows: Int64Array) -> tuple[Vote, ...]:
    counts = Counter((str(faces.usage[row]), EMOTIONS[faces.emotion[row]]) for row in rows)
    return tuple((usage, emotion, count) for (usage, emotion), count in sorted(counts.items()))
