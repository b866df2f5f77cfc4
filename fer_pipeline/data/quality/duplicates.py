"""What is wrong with a set of faces: duplicates, conflicting labels, constant images, gaps.

Besides the counts, the faces that a person should look at are picked here.

Near duplicates are the same photograph, cropped, compressed or lit a little differently. They are
found in two steps. A perceptual hash (the signs of the 64 lowest frequencies of the discrete cosine
transform against their median; Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010) proposes pairs; the correlation of their pixels decides. On FER2013 the two
limits below gave no false pair among 54 that were looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fer_pipeline.data.faces import USAGES, BoolArray, Faces, Int64Array, UInt8Array
from fer_pipeline.data.profile import KNOWN_COUNTS
from fer_pipeline.emotions import EMOTIONS

MAX_DISTANCE = 6
"""The largest distance of two hashes of near duplicates, in bits out of 64."""

MIN_CORRELATION = 0.85
"""The smallest correlation of the pixels of near duplicates."""

SHOWN = 24
"""Faces of each kind that are shown, at most."""

LOW_CONTRAST = 10.0
"""Standard deviation of the greys below which a face can hardly be seen."""

Vote = tuple[str, str, int]
"""Split, emotion, and how many images there have both."""

_BLOCK = 256


@dataclass(frozen=True)
class Quality:
    """Figures of a set of faces, before anything is cleaned.

    Attributes:
        images: number of images.
        distinct: number of different images, by their pixels.
        duplicate_groups: sets of two or more images with the same pixels.
        across_splits: duplicate groups with members in more than one split.
        conflicting: duplicate groups whose members have different labels.
        val_in_train: PublicTest images whose pixels also stand in Training.
        test_in_train: PrivateTest images whose pixels also stand in Training.
        constant: images whose pixels all have one value.
        near_duplicate_groups: sets of two or more different images that are nearly the same.
        near_across_splits: these with members in more than one split.
        near_test_in_train: PrivateTest images that nearly, but not exactly, stand in Training.
    """

    images: int
    distinct: int
    duplicate_groups: int
    across_splits: int
    conflicting: int
    val_in_train: int
    test_in_train: int
    constant: int
    near_duplicate_groups: int
    near_across_splits: int
    near_test_in_train: int


def group_by_pixels(faces: Faces) -> Int64Array:
    """(N,) numbers that are the same for images with the same pixels, in order of first sight."""
    numbers: dict[bytes, int] = {}
    rows = (numbers.setdefault(pixels.tobytes(), len(numbers)) for pixels in faces.pixels)
    return np.fromiter(rows, np.int64, len(faces))


def group_nearly(faces: Faces, groups: Int64Array) -> Int64Array:
    """(N,) numbers that are the same for images that are the same or nearly so."""
    _, first = np.unique(groups, return_index=True)  # one row per group, by the group's number
    return near_groups(faces.pixels[first])[groups]


def in_split(groups: Int64Array, faces: Faces, usage: str) -> BoolArray:
    """(N,) true where an image of the same group stands in the given split."""
    return np.isin(groups, groups[faces.usage == usage])


def assess(faces: Faces, groups: Int64Array, near: Int64Array) -> Quality:
    """Count the faults of a set, given its groups of equal and of nearly equal images."""
    sizes = np.bincount(groups)
    trained, nearly_trained = (in_split(one, faces, "Training") for one in (groups, near))
    usage = np.array([USAGES.index(name) for name in faces.usage])
    test = faces.usage == "PrivateTest"
    several = _groups_with_several(groups, near)  # different images in one near group
    return Quality(
        images=len(faces),
        distinct=len(sizes),
        duplicate_groups=int((sizes > 1).sum()),
        across_splits=len(_groups_with_several(usage, groups)),
        conflicting=len(_groups_with_several(faces.emotion, groups)),
        val_in_train=int(trained[faces.usage == "PublicTest"].sum()),
        test_in_train=int(trained[test].sum()),
        constant=int((np.ptp(faces.pixels, axis=(1, 2)) == 0).sum()),
        near_duplicate_groups=len(several),
        near_across_splits=len(np.intersect1d(several, _groups_with_several(usage, near))),
        near_test_in_train=int((nearly_trained & ~trained)[test].sum()),
    )


def count_classes(faces: Faces) -> dict[str, dict[str, int]]:
    """Images per split and emotion."""
    return {
        usage: {
            emotion: int(((faces.usage == usage) & (faces.emotion == code)).sum())
            for code, emotion in enumerate(EMOTIONS)
        }
        for usage in USAGES
    }


def differences_from_known(counts: dict[str, dict[str, int]]) -> list[dict[str, object]]:
    """Where the counts are not FER2013's own; empty for the whole data set."""
    return [
        {"split": usage, "emotion": emotion, "found": counts[usage][emotion], "known": known}
        for usage, row in KNOWN_COUNTS.items()
        for emotion, known in zip(EMOTIONS, row, strict=True)
        if counts[usage][emotion] != known
    ]


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


def _groups_with_several(
    values: np.ndarray[tuple[int], np.dtype[np.generic]], groups: Int64Array
) -> Int64Array:
    """The groups that hold more than one value."""
    pairs = np.unique(np.stack([groups, values.astype(np.int64)]), axis=1)
    return np.flatnonzero(np.bincount(pairs[0]) > 1)


def near_groups(pixels: UInt8Array) -> Int64Array:
    """(N,) numbers that are the same for images that are nearly the same, directly or by steps.

    Args:
        pixels: (N, 48, 48); images of one grey value resemble nothing.
    """
    first, second = _pairs(pixels)
    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(pixels),) * 2)
    _, groups = connected_components(links, directed=False)
    return np.asarray(groups, np.int64)


def _pairs(pixels: UInt8Array) -> tuple[Int64Array, Int64Array]:
    hashes = _perceptual_hashes(pixels)
    found = []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK, None] ^ hashes[None, start:]  # (B, N - start)
        here, there = np.nonzero(np.bitwise_count(block) <= MAX_DISTANCE)
        later = there > here
        found.append(np.stack([here[later], there[later]]) + start)
    pairs = np.concatenate(found, axis=1)
    alike = _correlations(pixels, pairs) >= MIN_CORRELATION
    return pairs[0, alike], pairs[1, alike]


def _perceptual_hashes(pixels: UInt8Array) -> npt.NDArray[np.uint64]:
    spectrum = dctn(pixels.astype(np.float32), axes=(1, 2))
    low = spectrum[:, :8, :8].reshape(len(pixels), 64)
    # The first is the mean brightness, far larger than the rest: not part of the median.
    signs = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(signs, axis=1).view(np.uint64)[:, 0]


def _correlations(pixels: UInt8Array, pairs: Int64Array) -> npt.NDArray[np.float64]:
    """(P,) Pearson correlations, 0 where an image has one grey value."""
    flat = pixels.reshape(len(pixels), -1)
    result = np.zeros(pairs.shape[1])
    for start in range(0, len(result), 4096):
        part = slice(start, start + 4096)
        left, right = (_standardised(flat[rows[part]]) for rows in pairs)
        result[part] = np.einsum("ij,ij->i", left, right)
    return result


def _standardised(flat: UInt8Array) -> npt.NDArray[np.float64]:
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = centred / np.where(length > 0, length, 1.0)
    return scaled


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
