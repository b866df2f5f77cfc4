"""What is wrong with a set of faces: duplicates, conflicting labels, constant images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_pipeline.data.faces import USAGES, BoolArray, Faces, Int64Array
from fer_pipeline.emotions import EMOTIONS


@dataclass(frozen=True)
class Quality:
    """Figures of a set of faces.

    Attributes:
        images: number of images.
        distinct: number of different images, by their pixels.
        duplicate_groups: sets of two or more images with the same pixels.
        across_splits: duplicate groups with members in more than one split.
        conflicting: duplicate groups whose members have different labels.
        val_in_train: PublicTest images whose pixels also stand in Training.
        test_in_train: PrivateTest images whose pixels also stand in Training.
        constant: images whose pixels all have one value.
    """

    images: int
    distinct: int
    duplicate_groups: int
    across_splits: int
    conflicting: int
    val_in_train: int
    test_in_train: int
    constant: int


def group_by_pixels(faces: Faces) -> Int64Array:
    """(N,) numbers that are the same for images with the same pixels, in order of first sight."""
    rows = np.ascontiguousarray(faces.pixels.reshape(len(faces), -1))
    keys = rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[group].astype(np.int64)


def in_split(groups: Int64Array, faces: Faces, usage: str) -> BoolArray:
    """(N,) true where the same pixels stand in the given split."""
    return np.isin(groups, groups[faces.usage == usage])


def assess(faces: Faces, groups: Int64Array) -> Quality:
    """Count the faults of a set, given its groups of equal pixels."""
    sizes = np.bincount(groups)
    trained = in_split(groups, faces, "Training")
    usage = np.array([USAGES.index(name) for name in faces.usage])
    flat = faces.pixels.reshape(len(faces), -1)
    return Quality(
        images=len(faces),
        distinct=len(sizes),
        duplicate_groups=int((sizes > 1).sum()),
        across_splits=_groups_with_several(usage, groups),
        conflicting=_groups_with_several(faces.emotion.astype(np.int64), groups),
        val_in_train=int(trained[faces.usage == "PublicTest"].sum()),
        test_in_train=int(trained[faces.usage == "PrivateTest"].sum()),
        constant=int((flat.min(axis=1) == flat.max(axis=1)).sum()),
    )


def class_counts(faces: Faces) -> list[dict[str, object]]:
    """Images per split and emotion, one row each."""
    return [
        {
            "split": usage,
            "emotion": name,
            "images": int(((faces.usage == usage) & (faces.emotion == code)).sum()),
        }
        for usage in USAGES
        for code, name in enumerate(EMOTIONS)
    ]


def _groups_with_several(values: Int64Array, groups: Int64Array) -> int:
    """How many groups hold more than one value."""
    pairs = np.unique(np.stack([groups, values]), axis=1)
    return int((np.bincount(pairs[0]) > 1).sum())
