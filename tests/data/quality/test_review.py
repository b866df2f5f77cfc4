"""What a person is shown first: the worst of each kind, and no more than can be looked at."""

from __future__ import annotations

import numpy as np

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.quality.duplicates import SHOWN, caption, suspicious, worst_conflicts

CONSTANT = "One grey value"
FAINT = "Hardly any contrast"
NEAR = "Nearly the same, with different labels"


def make_faces(emotions: list[int], usage: list[str] | None = None) -> Faces:
    """Black images with one white half, as plain as can be seen well."""
    pixels = np.zeros((len(emotions), 48, 48), np.uint8)
    pixels[:, :24] = 255
    return Faces(
        pixels, np.array(emotions, np.int8), np.array(usage or ["Training"] * len(emotions))
    )


def test_the_group_with_the_most_contradictions_comes_first() -> None:
    faces = make_faces(
        [3, 0, 0, 1, 6, 6, 6, 2, 3, 4, 5, 5], ["Training"] * 10 + ["PublicTest", "Training"]
    )
    #  group 0 agrees; 1 has one against two; 2 has two against three; 4 one against one
    groups = np.array([0, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 0])
    faces.emotion[11] = 3
    assert caption(faces, 10) == "PublicTest, surprise"
    assert worst_conflicts(faces, groups) == [
        (4, (("Training", "fear", 1), ("Training", "happy", 1), ("Training", "neutral", 3))),
        (1, (("Training", "angry", 2), ("Training", "disgust", 1))),
        (9, (("PublicTest", "surprise", 1), ("Training", "sad", 1))),
    ]


def test_constant_and_faint_faces_are_told_apart() -> None:
    """Half of each image is brighter by twice the standard deviation that it is to have."""
    faces = make_faces([0] * 6)
    for row, spread in enumerate((9, 0, 10, 1, 0, 11)):
        faces.pixels[row] = 100
        faces.pixels[row, :24] += 2 * spread
    alone = np.arange(6)
    found = suspicious(faces, alone, alone)
    assert found[CONSTANT] == [1, 4]
    assert found[FAINT] == [3, 0]  # the faintest first


def test_no_more_of_a_kind_are_shown_than_can_be_looked_at() -> None:
    many = 3 * SHOWN
    faces = make_faces([0, 1] * (many // 2))
    faces.pixels[: many // 2] = 7
    faces.pixels[many // 2 :] = 7
    faces.pixels[many // 2 :, :24] = 9
    found = suspicious(faces, np.arange(many), np.arange(many) // 2)
    assert [len(rows) for rows in found.values()] == [SHOWN, SHOWN, SHOWN]
    assert found[NEAR] == list(range(SHOWN))


def test_near_duplicates_are_shown_in_pairs_where_their_labels_differ() -> None:
    faces = make_faces([0, 1, 2, 0, 4, 4])
    groups = np.array([0, 1, 2, 3, 4, 5])
    near = np.array([0, 1, 0, 1, 2, 2])  # 0 and 2 differ, 1 and 3 differ, 4 and 5 agree
    assert suspicious(faces, groups, near)[NEAR] == [0, 2, 1, 3]
