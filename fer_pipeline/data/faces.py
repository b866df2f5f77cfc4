"""Labelled faces as arrays: the whole set as ingested, the splits as prepared, single examples.

Examples are picked for the pages by the stages that may see the data, so that the stages that draw
pages need not open a split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_pipeline.arrays import BoolArray as BoolArray
from fer_pipeline.arrays import Int64Array as Int64Array
from fer_pipeline.arrays import UInt8Array as UInt8Array
from fer_pipeline.files import read_arrays, whole_file

SIDE = 48
"""Height and width of a FER2013 image in pixels."""

USAGES: tuple[str, ...] = ("Training", "PublicTest", "PrivateTest")
"""FER2013's official splits, by the names that its `Usage` column uses."""


@dataclass(frozen=True)
class Faces:
    """A set of labelled faces with its official splits.

    Attributes:
        pixels: (N, 48, 48) uint8, 0 black to 255 white.
        emotion: (N,) int8, an index into `EMOTIONS`.
        usage: (N,) str, one of `USAGES`.
    """

    pixels: UInt8Array
    emotion: npt.NDArray[np.int8]
    usage: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def joined(cls, parts: Sequence[Faces]) -> Faces:
        """The faces of all parts, in order."""
        return cls(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.emotion for part in parts]),
            np.concatenate([part.usage for part in parts]),
        )

    def select(self, rows: BoolArray | Int64Array) -> Faces:
        """The faces of these rows, given as a mask or as indices."""
        return Faces(self.pixels[rows], self.emotion[rows], self.usage[rows])


@dataclass(frozen=True)
class Split:
    """One prepared split, as a backbone reads it.

    Attributes:
        images: (N, 48, 48) uint8.
        labels: (N,) int64, an index into `EMOTIONS`.
        groups: (N,) int64; images with the same pixels have the same number, over all splits.
        in_train: (N,) bool, true where the same pixels also stand in the training split.
    """

    images: UInt8Array
    labels: Int64Array
    groups: Int64Array
    in_train: BoolArray

    def __len__(self) -> int:
        return len(self.images)


def split_sha256(split: Split) -> str:
    """The digest of a split's images and their labels, by which test sets are told apart."""
    return hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()


def save_split(split: Split, path: Path) -> None:
    """Write a split as an uncompressed `.npz`; the same split gives the same bytes."""
    np.savez(path, **vars(split))


def load_split(path: Path) -> Split:
    """Read a split.

    Raises:
        DataError: the file is missing, or no prepared split.
    """
    with read_arrays(path, "prepare") as arrays:
        return Split(arrays["images"], arrays["labels"], arrays["groups"], arrays["in_train"])


@dataclass(frozen=True)
class Example:
    """One face that a page shows.

    Attributes:
        kind: the group that it is shown in.
        pixels: (48, 48) uint8.
        facts: what the page says of it, as JSON can hold it.
    """

    kind: str
    pixels: UInt8Array
    facts: Mapping[str, Any]


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples in their order; the same examples give the same bytes."""
    with whole_file(path) as partial:
        np.savez(
            partial,
            allow_pickle=False,
            pixels=np.array([one.pixels for one in examples], np.uint8),  # (K, 48, 48)
            kinds=np.array([one.kind for one in examples], np.str_),
            facts=np.array([json.dumps(one.facts) for one in examples], np.str_),
        )


def read_examples(path: Path, stage: str) -> tuple[Example, ...]:
    """Read what `write_examples` wrote; `stage` is the one that did.

    Raises:
        DataError: the file is missing or damaged.
    """
    with read_arrays(path, stage) as arrays:
        rows = zip(arrays["kinds"], arrays["pixels"], arrays["facts"], strict=True)
        return tuple(Example(str(kind), own, json.loads(facts)) for kind, own, facts in rows)
