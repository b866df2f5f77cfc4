"""Which faces train, which choose, and which are held back.

The policies of `params.yaml` clean the training images only. PublicTest and PrivateTest are never
touched, so that figures stay comparable with everyone's. Nor do their labels decide anything about
a training label: that would leak them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fer_pipeline.data.faces import BoolArray, Faces, Int64Array, Split
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError

if TYPE_CHECKING:
    from fer_pipeline.params.schema import DataParams

SplitName = Literal["train", "val", "test"]
Protocol = Literal["official", "paper", "holdout"]

HELD_OUT = 10
"""Protocol `holdout` takes one in this many training faces for each split that is missing."""


@dataclass(frozen=True)
class Cleaning:
    """How many training images each policy changed; an image counts for the first one only."""

    constant_dropped: int
    duplicates_dropped: int
    conflicts_dropped: int
    conflicts_relabelled: int


def hold_out(faces: Faces, groups: Int64Array, seed: int) -> Faces:
    """Take the splits that a set has not from its training faces, a tenth each.

    Drawn per emotion over groups of equal pixels, so that every emotion keeps its share and no
    copy of a held-out face trains.

    Args:
        faces: the whole set.
        groups: (N,) equal for images with the same pixels.
        seed: of the draw.

    Raises:
        DataError: an emotion has too few training faces to have some in each split.
    """
    usage = faces.usage.copy().astype("<U11")
    rng = np.random.default_rng(seed)
    missing = [name for name in ("PublicTest", "PrivateTest") if not (usage == name).any()]
    training = np.flatnonzero(usage == "Training")
    _, first = np.unique(groups[training], return_index=True)
    heads = training[first]  # one face of each group
    for emotion in range(NUM_EMOTIONS):
        members = rng.permutation(groups[heads[faces.emotion[heads] == emotion]])
        if len(members) <= len(missing):
            raise DataError(
                f"{EMOTIONS[emotion]} has {len(members)} different training faces: too few to "
                f"take {' and '.join(missing)} from them"
            )
        share = max(1, len(members) // HELD_OUT)
        for place, name in enumerate(missing):
            taken = members[place * share : (place + 1) * share]
            usage[np.isin(groups, taken) & (faces.usage == "Training")] = name
    return Faces(faces.pixels, faces.emotion, usage)


def members(faces: Faces, protocol: Protocol) -> dict[SplitName, BoolArray]:
    """(N,) masks of the splits.

    Args:
        faces: the whole set.
        protocol: `official` and `holdout` take PublicTest as val and PrivateTest as test. `paper`
            follows Cao et al., who train on 28,709 images, the size of Training, and report on
            all others: val and test are then the same images, and what is chosen on val flatters
            test.
    """
    val, test = (faces.usage == name for name in ("PublicTest", "PrivateTest"))
    if protocol == "paper":
        val = test = val | test
    return {"train": faces.usage == "Training", "val": val, "test": test}


def split_faces(faces: Faces, groups: Int64Array, protocol: Protocol) -> dict[SplitName, Split]:
    """The three prepared splits; `groups` is (N,), equal for images with the same pixels."""
    masks = members(faces, protocol)
    trained = np.isin(groups, groups[masks["train"]])
    return {
        name: Split(
            images=faces.pixels[rows],
            labels=faces.emotion[rows].astype(np.int64),
            groups=groups[rows],
            in_train=trained[rows],
        )
        for name, rows in masks.items()
    }


def clean(
    faces: Faces, groups: Int64Array, policies: DataParams, val: BoolArray, test: BoolArray
) -> tuple[Faces, Int64Array, Cleaning]:
    """Apply the policies of cleaning.

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
    constant = training & policies.drop_constant & (np.ptp(faces.pixels, axis=(1, 2)) == 0)
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
