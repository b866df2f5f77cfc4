"""Duplicates, conflicts and constants are counted exactly, on pictures made for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fer_pipeline.data.faces import Faces, Int64Array, UInt8Array
from fer_pipeline.data.profile import KNOWN_COUNTS
from fer_pipeline.data.quality.duplicates import (
    Quality,
    assess,
    count_classes,
    differences_from_known,
    group_by_pixels,
    group_nearly,
)
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import EMOTIONS


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


def test_groups_do_not_depend_on_the_memory_layout(faces: Faces) -> None:
    strided = Faces(faces.pixels[::-1], faces.emotion[::-1], faces.usage[::-1])
    assert group_by_pixels(strided).tolist() == [0, 1, 1, 2, 0, 0, 0, 3, 3, 4]


def test_every_fault_is_counted(faces: Faces) -> None:
    groups = group_by_pixels(faces)
    assert assess(faces, groups, groups) == Quality(
        images=10,
        distinct=5,
        duplicate_groups=3,
        across_splits=2,
        conflicting=2,
        val_in_train=1,
        test_in_train=2,
        constant=1,
        near_duplicate_groups=0,
        near_across_splits=0,
        near_test_in_train=0,
    )


@pytest.mark.parametrize(
    ("near", "groups", "across", "test_in_train"),
    [
        # The test image of group 0 is nearly the training images of group 1.
        ([0, 0, 0, 2, 2, 2, 3, 4, 4, 2], 1, 1, 1),
        # Groups 3 and 4, of val and test: not in Training.
        ([0, 1, 1, 2, 2, 2, 3, 3, 3, 2], 1, 1, 0),
        ([0, 0, 0, 2, 2, 2, 3, 3, 3, 2], 2, 2, 1),  # both at once
    ],
)
def test_near_duplicates_are_counted_without_the_exact_ones(
    near: list[int], groups: int, across: int, test_in_train: int, faces: Faces
) -> None:
    exact = group_by_pixels(faces)
    assert assess(faces, exact, np.array(near)) == replace(
        assess(faces, exact, exact),
        near_duplicate_groups=groups,
        near_across_splits=across,
        near_test_in_train=test_in_train,
    )


def test_images_that_are_equal_or_nearly_so_are_in_one_near_group() -> None:
    first, second = (draw_face(3, np.random.default_rng(seed)) for seed in (0, 100))
    brighter = np.clip(first.astype(np.int64) + 20, 0, 255).astype(np.uint8)
    pixels = (second, first, CONSTANT, brighter, first, CONSTANT, second)
    faces = make_faces(*(("Training", 0, one) for one in pixels))
    groups = group_by_pixels(faces)
    assert groups.tolist() == [0, 1, 2, 3, 1, 2, 0]
    near = group_nearly(faces, groups)
    assert [set(np.flatnonzero(near == one).tolist()) for one in dict.fromkeys(near)] == [
        {0, 6},
        {1, 3, 4},
        {2, 5},
    ]


def test_classes_are_counted_for_every_split_and_emotion(faces: Faces) -> None:
    counts = count_classes(faces)
    assert list(counts) == ["Training", "PublicTest", "PrivateTest"]
    assert all(list(row) == list(EMOTIONS) for row in counts.values())
    assert {split: list(row.values()) for split, row in counts.items()} == {
        "Training": [1, 1, 1, 0, 0, 0, 0],
        "PublicTest": [0, 0, 1, 2, 0, 0, 0],
        "PrivateTest": [0, 0, 2, 0, 1, 1, 0],
    }


def known_counts() -> dict[str, dict[str, int]]:
    return {usage: dict(zip(EMOTIONS, row, strict=True)) for usage, row in KNOWN_COUNTS.items()}


def test_fer2013s_own_counts_are_those_of_the_challenge() -> None:
    assert {usage: sum(row) for usage, row in KNOWN_COUNTS.items()} == {
        "Training": 28709,
        "PublicTest": 3589,
        "PrivateTest": 3589,
    }
    assert differences_from_known(known_counts()) == []


def test_each_count_that_is_not_fer2013s_is_named_with_both() -> None:
    counts = known_counts()
    counts["Training"]["disgust"] -= 1
    counts["PrivateTest"]["neutral"] = 0
    assert differences_from_known(counts) == [
        {"split": "Training", "emotion": "disgust", "found": 435, "known": 436},
        {"split": "PrivateTest", "emotion": "neutral", "found": 0, "known": 626},
    ]


@pytest.fixture(scope="module")
def fer2013(root: Path) -> Faces:
    """The real set, where this machine has it."""
    path = root.parent / "shared" / "fer2013" / "fer2013.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return read_edition(path, Reading("fer", "refuse", holdout=False)).faces


@pytest.fixture(scope="module")
def fer2013_groups(fer2013: Faces) -> Int64Array:
    return group_by_pixels(fer2013)


@pytest.mark.slow
def test_the_real_fer2013_has_the_faults_that_are_known_of_it(
    fer2013: Faces, fer2013_groups: Int64Array
) -> None:
    quality = assess(fer2013, fer2013_groups, fer2013_groups)
    assert quality == Quality(
        images=35887,
        distinct=34034,
        duplicate_groups=1516,
        across_splits=557,
        conflicting=57,
        val_in_train=280,
        test_in_train=288,
        constant=12,
        near_duplicate_groups=0,
        near_across_splits=0,
        near_test_in_train=0,
    )
    assert differences_from_known(count_classes(fer2013)) == []


@pytest.mark.slow
def test_the_real_fer2013_has_near_duplicates_too(
    fer2013: Faces, fer2013_groups: Int64Array
) -> None:
    near = group_nearly(fer2013, fer2013_groups)
    quality = assess(fer2013, fer2013_groups, near)
    # Another build of scipy may tip a pair over a limit.
    assert quality.near_duplicate_groups == pytest.approx(1055, abs=5)
    assert quality.near_across_splits == pytest.approx(483, abs=5)
    assert quality.near_test_in_train == pytest.approx(213, abs=5)
    _, first = np.unique(fer2013_groups, return_index=True)
    assert np.bincount(near[first]).max() == 15  # chains do not run away
