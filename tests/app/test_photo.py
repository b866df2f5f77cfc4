"""Faces are found in a photograph, their boxes stay inside it, and the map says what counted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fer_pipeline.app.photo import PATCH, Box, centre, clip, cover, find_faces, map_falls
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import EMOTIONS


def draw_group(size: tuple[int, int], places: list[Box]) -> Image.Image:
    """A photograph of happy drawn faces on grey."""
    photo = Image.new("RGB", size, (150, 160, 140))
    for seed, box in enumerate(places):
        face = draw_face(EMOTIONS.index("happy"), np.random.default_rng(seed))
        photo.paste(Image.fromarray(face).resize((box.side, box.side)), box[:2])
    return photo


@pytest.mark.parametrize("enlarged", [1, 4], ids=["as found", "a large photo"])
def test_the_faces_of_a_photograph_are_found_from_left_to_right(enlarged: int) -> None:
    places = [Box(*(enlarged * value for value in box)) for box in ((40, 90, 200), (330, 30, 150))]
    found = find_faces(draw_group((560 * enlarged, 340 * enlarged), places[::-1]))
    assert len(found) == 2
    for box, place in zip(found, places, strict=True):
        assert abs(np.subtract(box.corners, place.corners)).max() < 0.15 * place.side


def test_a_picture_without_a_face_has_none() -> None:
    assert find_faces(Image.new("RGB", (400, 300), "white")) == []
    assert find_faces(Image.new("RGB", (1, 1), "white")) == []


def test_a_box_stays_in_its_photograph() -> None:
    assert clip(Box(90, -5, 20), (100, 50)) == Box(80, 0, 20)
    assert clip(Box(10, 10, 80), (100, 50)) == Box(10, 0, 50)
    assert centre((100, 50)) == Box(37, 12, 25)
    assert centre((1, 1)) == Box(0, 0, 1)


def test_a_patch_of_the_mean_grey_covers_every_pixel_in_turn() -> None:
    face = np.random.default_rng(0).integers(0, 100, (48, 48), np.uint8)
    changed = cover(face) != face
    assert changed.any(axis=0).mean() > 0.95  # a pixel may have the mean grey itself
    assert changed.sum(axis=(1, 2)).max() <= PATCH**2
    assert set(cover(face)[changed]) == {round(face.mean())}


def test_the_map_is_largest_where_the_probability_comes_from() -> None:
    face = np.zeros((48, 48), np.uint8)
    face[36:42, 12:18] = 255  # all that the model looks at

    def probability(images: np.ndarray) -> np.ndarray:
        return images[:, 36:42, 12:18].mean(axis=(1, 2)).astype(np.float32) / 255

    falls = map_falls(1.0, probability(cover(face)))
    assert falls[36:42, 12:18].min() == falls.max() > 0.9
    assert falls[:30].max() == falls[:, 24:].max() == 0
