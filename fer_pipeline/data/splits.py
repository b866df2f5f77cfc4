"""Which faces train, which choose, and which are held back."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fer_pipeline.data.faces import Faces, Int64Array, Split
from fer_pipeline.data.quality import in_split

SplitName = Literal["train", "val", "test"]


def split_faces(
    faces: Faces, groups: Int64Array, protocol: Literal["official", "paper"]
) -> dict[SplitName, Split]:
    """The three prepared splits.

    Args:
        faces: the whole set.
        groups: (N,) equal for images with the same pixels.
        protocol: `official` takes FER2013's own splits. `paper` follows Cao et al., who train
            on 28,709 images, the size of Training, and report on all others: val and test are
            then the same images, and what is chosen on val flatters test.
    """
    trained = in_split(groups, faces, "Training")
    usages: dict[SplitName, tuple[str, ...]]
    if protocol == "official":
        usages = {"train": ("Training",), "val": ("PublicTest",), "test": ("PrivateTest",)}
    else:
        others = ("PublicTest", "PrivateTest")
        usages = {"train": ("Training",), "val": others, "test": others}
    splits: dict[SplitName, Split] = {}
    for name, members in usages.items():
        rows = np.isin(faces.usage, members)
        splits[name] = Split(
            images=faces.pixels[rows],
            labels=faces.emotion[rows].astype(np.int64),
            groups=groups[rows],
            in_train=trained[rows],
        )
    return splits
