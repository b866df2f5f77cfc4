"""Labelled faces as arrays: the whole set as ingested, and the splits as prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fer_pipeline.arrays import BoolArray as BoolArray
from fer_pipeline.arrays import Int64Array as Int64Array
from fer_pipeline.arrays import UInt8Array as UInt8Array
from fer_pipeline.files import read_arrays

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
