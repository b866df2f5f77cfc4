"""The same photograph in another form is near; another photograph, and an empty one, is not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fer_pipeline.data.faces import UInt8Array
from fer_pipeline.data.quality.duplicates import near_groups
from fer_pipeline.data.sources.sample import draw_face

SEEDS = (2, 7, 17)  # of faces that are found: a shift hides half of these drawings


def face(seed: int, emotion: int = 3) -> UInt8Array:
    return draw_face(emotion, np.random.default_rng(seed))


def brightened(pixels: UInt8Array) -> UInt8Array:
    return np.clip(pixels.astype(np.int64) + 20, 0, 255).astype(np.uint8)


def flattened(pixels: UInt8Array) -> UInt8Array:
    """With half of the contrast."""
    return (64 + pixels / 2).astype(np.uint8)


def shifted(pixels: UInt8Array) -> UInt8Array:
    """One pixel to the right."""
    return np.pad(pixels, ((0, 0), (1, 0)), mode="edge")[:, :48]


def cropped(pixels: UInt8Array) -> UInt8Array:
    """Without its outermost pixels, enlarged again."""
    return np.asarray(Image.fromarray(pixels[1:47, 1:47]).resize((48, 48)))


def recompressed(pixels: UInt8Array) -> UInt8Array:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def sets(*pixels: UInt8Array) -> list[set[int]]:
    """Which of the images are near, by their places."""
    groups = near_groups(np.stack(pixels))
    return [set(np.flatnonzero(groups == group).tolist()) for group in dict.fromkeys(groups)]


@pytest.mark.parametrize("change", [brightened, flattened, shifted, cropped, recompressed])
def test_a_changed_copy_is_near(change: Callable[[UInt8Array], UInt8Array]) -> None:
    for seed in SEEDS:
        assert not np.array_equal(change(face(seed)), face(seed))
        assert sets(face(seed), change(face(seed))) == [{0, 1}]


def test_another_persons_face_is_not_near() -> None:
    assert sets(*(face(seed) for seed in range(20))) == [{place} for place in range(20)]


def test_an_image_of_one_grey_resembles_nothing() -> None:
    greys = [np.full((48, 48), grey, np.uint8) for grey in (0, 7, 8, 255)]
    assert sets(*greys, face(0), greys[1]) == [{0}, {1}, {2}, {3}, {4}, {5}]


def test_images_that_are_near_by_steps_are_in_one_group() -> None:
    """One person's face turns into another's."""
    shares = np.linspace(0, 1, 21)
    steps = [((1 - share) * face(0) + share * face(1)).astype(np.uint8) for share in shares]
    assert sets(steps[0], steps[-1]) == [{0}, {1}]
    assert sets(*steps) == [set(range(21))]


def test_groups_do_not_depend_on_what_else_there_is_nor_on_the_order() -> None:
    """More images than are compared at a time, with the copies far apart."""
    others = [face(seed, seed % 7) for seed in range(100, 400)]
    assert {0, 301} in sets(face(0), *others, brightened(face(0)))
    assert {0, 301} in sets(brightened(face(0)), *reversed(others), face(0))
