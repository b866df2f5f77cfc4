"""What a set of faces looks like in a few numbers.

A profile is small enough to stand in `data/source.lock.yaml`, so that a new version can be
compared with the last one wherever the project is, without the last one's images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fer_pipeline.data.faces import Faces, Int64Array, UInt8Array
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS

BIN = 4
"""Greys per bin. FER2013 is equalised: nearly half of its faces have a mean grey from 128 to 129,
so with bins of one grey a rounding in another edition's JPEGs would look like drift."""

BRIGHTNESS_MIDDLES = tuple(range(0, 257, BIN))
"""Middles of the bins of mean greys, so that 128 lies inside a bin."""

CONTRAST_MIDDLES = tuple(range(BIN // 2, 128, BIN))
"""The same of standard deviations, the largest possible one of which is 127.5."""


KNOWN_COUNTS: dict[str, tuple[int, ...]] = {
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}
"""FER2013's own images per split, in the order of `EMOTIONS`."""

LIKE = 0.01
"""How far shares of classes may be from FER2013's to be taken for them: the share of images that
would have to have another label. Numbers in alphabetical order differ by 0.06."""


@dataclass(frozen=True)
class Profile:
    """Figures of a set, as counts of images.

    Attributes:
        labels: where the labels came from; class balances compare only if this agrees.
        classes: images per emotion, in the order of `EMOTIONS`.
        brightness: images per bin of their mean grey, one count per `BRIGHTNESS_MIDDLES`.
        contrast: images per bin of their greys' standard deviation, one per `CONTRAST_MIDDLES`.
    """

    labels: str
    classes: tuple[int, ...]
    brightness: tuple[int, ...]
    contrast: tuple[int, ...]

    def __post_init__(self) -> None:
        rows = (self.classes, self.brightness, self.contrast)
        sizes, images = tuple(len(row) for row in rows), tuple(sum(row) for row in rows)
        needed = (NUM_EMOTIONS, len(BRIGHTNESS_MIDDLES), len(CONTRAST_MIDDLES))
        if sizes != needed:
            raise ValueError(f"a profile has {needed} counts, not {sizes}")
        if len(set(images)) > 1 or not images[0] or min(map(min, rows)) < 0:
            raise ValueError(f"a profile counts the same images three times, not {images}")

    @property
    def images(self) -> int:
        return sum(self.brightness)


def profile_of(faces: Faces, labels: str) -> Profile:
    """The profile of a set that is not empty."""
    return Profile(labels, _counts(faces.emotion, NUM_EMOTIONS), *count_greys(faces.pixels))


def count_greys(images: UInt8Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Images per bin of brightness, and per bin of contrast, of (N, 48, 48) images."""
    flat = images.reshape(len(images), -1)
    return (
        _counts(flat.mean(axis=1) / BIN + 0.5, len(BRIGHTNESS_MIDDLES)),
        _counts(flat.std(axis=1) / BIN, len(CONTRAST_MIDDLES)),
    )


def other_order(counts: Int64Array) -> tuple[str, ...] | None:
    """What the labels seem to mean, if their counts are FER2013's in another order; else None.

    Exact counts of one split, of both test splits or of all decide; so do shares that are nearly
    FER2013's, among a thousand images or more, where the present order is far from them.

    Args:
        counts: (7,) images per label.
    """
    train, val, test = map(np.array, KNOWN_COUNTS.values())
    for known in (train, val, test, val + test, train + val + test):
        sizes = known * counts.sum() / known.sum()
        # Sorted side by side, no other order fits better.
        matched = np.empty(NUM_EMOTIONS, np.int64)
        matched[counts.argsort()] = known.argsort()
        now, best = (_distance(counts, one) for one in (sizes, sizes[matched]))
        if best == 0 < now or (counts.sum() >= 1000 and best < LIKE and now > 3 * LIKE):
            return tuple(EMOTIONS[code] for code in matched)
    return None


def _distance(counts: Int64Array, sizes: npt.NDArray[np.float64]) -> float:
    """The share of images that would have to move."""
    return float(np.abs(counts - sizes).sum() / 2 / counts.sum())


def _counts(values: np.ndarray[tuple[int], np.dtype[np.generic]], bins: int) -> tuple[int, ...]:
    counts = np.bincount(values.astype(np.int64), minlength=bins)
    return tuple(int(count) for count in counts)
