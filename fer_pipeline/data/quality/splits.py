"""Which faces train, which choose, and which are held back."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fer_pipeline.data.faces import BoolArray, Faces, Int64Array, Split
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError

SplitName = Literal["train", "val", "test"]
Protocol = Literal["official", "paper", "holdout"]

HELD_OUT = 10
"""Protocol `holdout` takes one in this many training faces for each split that is missing."""


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
