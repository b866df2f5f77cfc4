"""Faces are found in a photograph, and their boxes stay inside it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fer_pipeline.app.detector import Box, centre, clip, find_faces
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
