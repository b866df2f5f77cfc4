"""Duplicates, conflicts and constants are counted exactly, on pictures made for it."""

from __future__ import annotations

import numpy as np
import pytest

from fer_pipeline.data.faces import Faces, UInt8Array
from fer_pipeline.data.quality import Quality, assess, class_counts, group_by_pixels, in_split


def picture(number: int) -> UInt8Array:
    """Two pictures differ by one pixel only, where their numbers differ."""
    pixels = np.zeros((48, 48), np.uint8)
    pixels[0, 0] = 255
    pixels[47, 47] = number
    return pixels


def make_faces(*rows: tuple[str, int, UInt8Array]) -> Faces:
    usage, emotion, pixels = zip(*rows, strict=True)
    return Faces(np.stack(pixels), np.array(emotion, np.int8), np.array(usage))


CONSTANT = np.full((48, 48), 7, np.uint8)


@pytest.fixture
def faces() -> Faces:
    return make_faces(
        ("PrivateTest", 5, picture(5)),
        ("Training", 0, picture(1)),
        ("Training", 1, picture(1)),  # a duplicate in its split, with another label
        ("Training", 2, picture(2)),
        ("PublicTest", 2, picture(2)),  # in three splits, with one label
        ("PrivateTest", 2, picture(2)),
        ("PublicTest", 3, CONSTANT),
        ("PublicTest", 3, picture(4)),
        ("PrivateTest", 4, picture(4)),  # in two splits, with another label
        ("PrivateTest", 2, picture(2)),
    )


def test_groups_are_numbered_by_first_sight(faces: Faces) -> None:
    assert group_by_pixels(faces).tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 2]


def test_one_pixel_makes_another_group() -> None:
    off_by_one = make_faces(("Training", 0, picture(1)), ("Training", 0, picture(2)))
    assert group_by_pixels(off_by_one).tolist() == [0, 1]


def test_groups_do_not_depend_on_the_memory_layout(faces: Faces) -> None:
    strided = Faces(faces.pixels[::-1], faces.emotion[::-1], faces.usage[::-1])
    assert group_by_pixels(strided).tolist() == [0, 1, 1, 2, 0, 0, 0, 3, 3, 4]


def test_every_fault_is_counted(faces: Faces) -> None:
    assert assess(faces, group_by_pixels(faces)) == Quality(
        images=10,
        distinct=5,
        duplicate_groups=3,
        across_splits=2,
        conflicting=2,
        val_in_train=1,
        test_in_train=2,
        constant=1,
    )


def test_a_clean_set_has_no_faults() -> None:
    rows = [(usage, 0, picture(n)) for n, usage in enumerate(("Training", "PublicTest"))]
    clean = make_faces(*rows)
    assert assess(clean, group_by_pixels(clean)) == Quality(2, 2, 0, 0, 0, 0, 0, 0)


def test_in_split_finds_the_same_pixels_elsewhere(faces: Faces) -> None:
    trained = in_split(group_by_pixels(faces), faces, "Training")
    assert np.flatnonzero(trained).tolist() == [1, 2, 3, 4, 5, 9]


def test_class_counts_name_every_split_and_emotion(faces: Faces) -> None:
    rows = class_counts(faces)
    assert len(rows) == 21
    assert rows[0] == {"split": "Training", "emotion": "angry", "images": 1}
    counts = {(row["split"], row["emotion"]): row["images"] for row in rows}
    assert {key: count for key, count in counts.items() if count} == {
        ("Training", "angry"): 1,
        ("Training", "disgust"): 1,
        ("Training", "fear"): 1,
        ("PublicTest", "fear"): 1,
        ("PublicTest", "happy"): 2,
        ("PrivateTest", "fear"): 2,
        ("PrivateTest", "sad"): 1,
        ("PrivateTest", "surprise"): 1,
    }
