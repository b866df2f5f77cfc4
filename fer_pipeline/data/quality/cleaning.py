"""The policies of `params.yaml` that clean the training images.

PublicTest and PrivateTest are never touched, so that figures stay comparable with everyone's.
Nor do their labels decide anything about a training label: that would leak them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fer_pipeline.data.faces import BoolArray, Faces, Int64Array

DropDuplicatesOf = Literal["none", "val", "test", "both"]
Conflicts = Literal["keep", "majority", "drop"]


@dataclass(frozen=True)
class Policies:
    """What is to be cleaned.

    Attributes:
        drop_constant: leave out training images of one grey value.
        drop_train_duplicates_of: leave out training images that also stand in these splits.
        conflicts: what becomes of training images that are the same with different labels: all
            kept, all given the label of the majority (dropped without one), or all dropped.
    """

    drop_constant: bool
    drop_train_duplicates_of: DropDuplicatesOf
    conflicts: Conflicts


@dataclass(frozen=True)
class Cleaning:
    """How many training images each policy changed; an image counts for the first one only."""

    constant_dropped: int
    duplicates_dropped: int
    conflicts_dropped: int
    conflicts_relabelled: int


def clean(
    faces: Faces, groups: Int64Array, policies: Policies, val: BoolArray, test: BoolArray
) -> tuple[Faces, Int64Array, Cleaning]:
    """Apply the policies.

    Args:
        faces: the whole set.
        groups: (N,) equal for images with the same pixels.
        policies: what to do.
        val: (N,) true for the images of val.
        test: (N,) true for those of test.

    Returns:
        The faces that stay, their groups, and what was done.
    """
    training = ~(val | test)
    constant = training & _constant(faces) if policies.drop_constant else np.zeros_like(training)
    held_out = np.zeros_like(training)
    if policies.drop_train_duplicates_of in ("val", "both"):
        held_out |= val
    if policies.drop_train_duplicates_of in ("test", "both"):
        held_out |= test
    copies = training & ~constant & np.isin(groups, groups[held_out])
    rows = np.flatnonzero(training & ~constant & ~copies)
    labels = faces.emotion.copy()
    undecided = np.zeros_like(training)
    if policies.conflicts != "keep":
        for members in _conflicts(groups, labels, rows):
            winner = _majority(labels[members]) if policies.conflicts == "majority" else None
            undecided[members] = winner is None
            labels[members] = labels[members] if winner is None else winner
    kept = ~(constant | copies | undecided)
    relabelled = kept & (labels != faces.emotion)
    counts = [int(rows.sum()) for rows in (constant, copies, undecided, relabelled)]
    return Faces(faces.pixels, labels, faces.usage).select(kept), groups[kept], Cleaning(*counts)


def _constant(faces: Faces) -> BoolArray:
    flat = faces.pixels.reshape(len(faces), -1)
    same: BoolArray = flat.min(axis=1) == flat.max(axis=1)
    return same


def _conflicts(
    groups: Int64Array, labels: np.ndarray[tuple[int], np.dtype[np.int8]], rows: Int64Array
) -> list[Int64Array]:
    """The members among `rows` of each group whose members there have different labels."""
    order = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    parts = np.split(order, starts)
    return [part for part in parts if len(np.unique(labels[part])) > 1]


def _majority(labels: np.ndarray[tuple[int], np.dtype[np.int8]]) -> int | None:
    """The label of most members; None on a tie."""
    counts = np.bincount(labels)
    best = np.flatnonzero(counts == counts.max())
    return int(best[0]) if len(best) == 1 else None
