"""Each policy changes the training images that it names, and never one of val or test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import Cleaning, clean, members
from fer_pipeline.params.schema import DataParams

NOTHING = DataParams.model_construct(
    drop_constant=False, drop_train_duplicates_of="none", conflicts="keep"
)
EVERYTHING = DataParams.model_construct(
    drop_constant=True, drop_train_duplicates_of="both", conflicts="majority"
)

Row = tuple[str, int, int]
"""Split, emotion, and the number of the picture; picture 0 has one grey."""

TRAIN, VAL, TEST = USAGES
ROWS: list[Row] = [
    (TRAIN, 3, 0),  # 0: constant
    (TEST, 0, 0),  # 1: constant, and the copy of a training image
    (TRAIN, 1, 1),  # 2: like val, which has another label
    (VAL, 2, 1),  # 3
    (TRAIN, 4, 2),  # 4: like test
    (TEST, 4, 2),  # 5
    (TRAIN, 0, 3),  # 6: like 7 and 9, which have another label
    (TRAIN, 5, 3),  # 7
    (TRAIN, 2, 4),  # 8: like 10, which has another label
    (TRAIN, 5, 3),  # 9
    (TRAIN, 6, 4),  # 10
    (TRAIN, 6, 5),  # 11: like none
    (TRAIN, 6, 6),  # 12: like 13, with the same label
    (TRAIN, 6, 6),  # 13
]


def make_faces(rows: list[Row]) -> Faces:
    pixels = np.zeros((len(rows), 48, 48), np.uint8)
    pixels[:, 0, 0] = [number for _, _, number in rows]
    emotion = np.array([emotion for _, emotion, _ in rows], np.int8)
    return Faces(pixels, emotion, np.array([usage for usage, _, _ in rows]))


def cleaned(rows: list[Row], policies: DataParams) -> tuple[list[Row], Cleaning]:
    """What stays of the rows, under the official protocol."""
    faces = make_faces(rows)
    groups = group_by_pixels(faces)
    masks = members(faces, "official")
    kept, kept_groups, cleaning = clean(faces, groups, policies, masks["val"], masks["test"])
    numbers = kept.pixels[:, 0, 0].tolist()
    pairs = set(zip(numbers, kept_groups.tolist(), strict=True))
    assert len(pairs) == len(set(numbers)) == len(set(kept_groups.tolist()))
    return list(zip(kept.usage.tolist(), kept.emotion.tolist(), numbers, strict=True)), cleaning


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    assert cleaned(ROWS, NOTHING) == (ROWS, Cleaning(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("policies", "dropped", "cleaning"),
    [
        (NOTHING.model_copy(update={"drop_constant": True}), (0,), Cleaning(1, 0, 0, 0)),
        (
            NOTHING.model_copy(update={"drop_train_duplicates_of": "val"}),
            (2,),
            Cleaning(0, 1, 0, 0),
        ),
        (
            NOTHING.model_copy(update={"drop_train_duplicates_of": "test"}),
            (0, 4),
            Cleaning(0, 2, 0, 0),
        ),
        (
            NOTHING.model_copy(update={"drop_train_duplicates_of": "both"}),
            (0, 2, 4),
            Cleaning(0, 3, 0, 0),
        ),
        (NOTHING.model_copy(update={"conflicts": "drop"}), (6, 7, 8, 9, 10), Cleaning(0, 0, 5, 0)),
    ],
)
def test_each_policy_drops_the_training_images_that_it_names(
    policies: DataParams, dropped: tuple[int, ...], cleaning: Cleaning
) -> None:
    kept = [row for place, row in enumerate(ROWS) if place not in dropped]
    assert cleaned(ROWS, policies) == (kept, cleaning)


def test_the_majority_gives_its_label_and_a_tie_is_dropped() -> None:
    kept = list(ROWS)
    kept[6] = (TRAIN, 5, 3)
    wanted = [row for place, row in enumerate(kept) if place not in (8, 10)]
    assert cleaned(ROWS, NOTHING.model_copy(update={"conflicts": "majority"})) == (
        wanted,
        Cleaning(0, 0, 2, 1),
    )


def test_more_than_the_others_is_a_majority_without_being_half() -> None:
    rows: list[Row] = [(TRAIN, emotion, 1) for emotion in (0, 6, 6, 3)]
    kept, cleaning = cleaned(rows, NOTHING.model_copy(update={"conflicts": "majority"}))
    assert [emotion for _, emotion, _ in kept] == [6, 6, 6, 6]
    assert cleaning == Cleaning(0, 0, 0, 2)


def test_an_image_counts_for_the_first_policy_only() -> None:
    """Constant, in test, and in conflict at once; what is left has no conflict."""
    rows: list[Row] = [(TRAIN, 0, 0), (TRAIN, 1, 0), (TEST, 2, 0), (TRAIN, 3, 1)]
    assert cleaned(rows, EVERYTHING) == (rows[2:], Cleaning(2, 0, 0, 0))
    no_constants = EVERYTHING.model_copy(update={"drop_constant": False})
    assert cleaned(rows, no_constants) == (rows[2:], Cleaning(0, 2, 0, 0))
    assert cleaned(rows, NOTHING.model_copy(update={"conflicts": "majority"})) == (
        rows[2:],
        Cleaning(0, 0, 2, 0),
    )


ANY_ROWS = st.lists(
    st.tuples(st.sampled_from(USAGES), st.integers(0, 3), st.integers(0, 5)),
    min_size=1,
    max_size=24,
)
ANY_POLICIES = st.builds(
    DataParams.model_construct,
    drop_constant=st.booleans(),
    drop_train_duplicates_of=st.sampled_from(["none", "val", "test", "both"]),
    conflicts=st.sampled_from(["keep", "majority", "drop"]),
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(ANY_ROWS, ANY_POLICIES, st.integers(1, 3))
def test_whatever_the_policies_held_out_images_neither_change_nor_decide_labels(
    rows: list[Row], policies: DataParams, turn: int
) -> None:
    kept, cleaning = cleaned(rows, policies)
    assert [row for row in kept if row[0] != TRAIN] == [row for row in rows if row[0] != TRAIN]
    relabelled = [
        (usage, emotion if usage == TRAIN else (emotion + turn) % 4, number)
        for usage, emotion, number in rows
    ]
    again, same = cleaned(relabelled, policies)
    assert [row for row in again if row[0] == TRAIN] == [row for row in kept if row[0] == TRAIN]
    assert same == cleaning


@settings(deadline=None, max_examples=60, derandomize=True)
@given(ANY_ROWS, ANY_POLICIES)
def test_whatever_the_policies_they_keep_what_they_promise(
    rows: list[Row], policies: DataParams
) -> None:
    kept, cleaning = cleaned(rows, policies)
    train = [row for row in kept if row[0] == TRAIN]
    dropped = cleaning.constant_dropped + cleaning.duplicates_dropped + cleaning.conflicts_dropped
    assert len(rows) - len(kept) == dropped
    numbers = {number for _, _, number in train}
    if policies.drop_constant:
        assert 0 not in numbers
    for split, names in ((VAL, ("val", "both")), (TEST, ("test", "both"))):
        if policies.drop_train_duplicates_of in names:
            assert numbers.isdisjoint(number for usage, _, number in rows if usage == split)
    if policies.conflicts != "keep":
        assert len({(emotion, number) for _, emotion, number in train}) == len(numbers)
