"""Which part of a face a prediction rests on: what is covered, and how far that lowers it.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 4.2. It
asks nothing of the networks, so that it explains the fused model as it is.
"""

from __future__ import annotations

import numpy as np

from fer_pipeline.arrays import Float32Array, FloatArray, UInt8Array
from fer_pipeline.data.faces import SIDE

PATCH = 12
"""The side of what is covered, in pixels: a quarter of the face."""

STEP = 6
"""How far the patch moves, in pixels."""

_PLACES = [
    (slice(top, top + PATCH), slice(left, left + PATCH))
    for top in range(0, SIDE - PATCH + 1, STEP)
    for left in range(0, SIDE - PATCH + 1, STEP)
]


def cover(face: UInt8Array) -> UInt8Array:
    """(P, 48, 48) copies of a (48, 48) face, in each another patch covered with its mean grey."""
    covered = np.repeat(face[np.newaxis], len(_PLACES), axis=0)
    for image, place in zip(covered, _PLACES, strict=True):
        image[place] = round(float(face.mean()))
    return covered


def map_falls(whole: float, covered: Float32Array) -> FloatArray:
    """How much a probability falls where a pixel is covered, as the mean over the patches on it.

    Args:
        whole: the probability of an emotion for the face as it is.
        covered: (P,) those for the images of `cover`.

    Returns:
        (48, 48), from -1 to 1; negative where covering makes the emotion more likely.
    """
    sums, patches = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for place, probability in zip(_PLACES, covered, strict=True):
        sums[place] += whole - float(probability)
        patches[place] += 1
    return sums / patches
