"""Which images each protocol puts where, and what they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_pipeline.data.faces import USAGES, Faces, Int64Array, Split, load_split, save_split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import SplitName, hold_out, split_faces
from fer_pipeline.errors import DataError

USAGE = np.array(
    ["PrivateTest", "Training", "PublicTest", "Training", "PrivateTest", "PublicTest", "Training"]
)
GREYS = np.array([50, 10, 10, 20, 40, 40, 20])


@pytest.fixture
def faces() -> Faces:
    """Seven plain images: grey 10 is in train and val, 40 in val and test, 20 twice in train."""
    pixels = np.repeat(GREYS.astype(np.uint8), 48 * 48).reshape(-1, 48, 48)
    return Faces(pixels, np.arange(7, dtype=np.int8), USAGE)


@pytest.fixture
def official(faces: Faces) -> dict[SplitName, Split]:
    return split_faces(faces, group_by_pixels(faces), "official")


@pytest.fixture
def paper(faces: Faces) -> dict[SplitName, Split]:
    return split_faces(faces, group_by_pixels(faces), "paper")


def labels(splits: dict[SplitName, Split]) -> dict[str, list[int]]:
    return {name: split.labels.tolist() for name, split in splits.items()}


def test_official_keeps_the_data_sets_own_splits_in_their_order(
    official: dict[SplitName, Split],
) -> None:
    assert labels(official) == {"train": [1, 3, 6], "val": [2, 5], "test": [0, 4]}


def test_paper_reports_on_all_that_is_not_trained_on(paper: dict[SplitName, Split]) -> None:
    assert labels(paper) == {"train": [1, 3, 6], "val": [0, 2, 4, 5], "test": [0, 2, 4, 5]}
    np.testing.assert_array_equal(paper["val"].images, paper["test"].images)


def test_groups_are_shared_across_splits(official: dict[SplitName, Split]) -> None:
    groups = {name: split.groups.tolist() for name, split in official.items()}
    assert groups == {"train": [1, 2, 2], "val": [1, 3], "test": [0, 3]}
    assert {name: len(split) for name, split in official.items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
    }


def test_in_train_marks_the_pixels_that_train_has(
    official: dict[SplitName, Split], paper: dict[SplitName, Split]
) -> None:
    assert official["train"].in_train.tolist() == [True, True, True]
    assert official["val"].in_train.tolist() == [True, False]
    assert official["test"].in_train.tolist() == [False, False]
    assert paper["test"].in_train.tolist() == [False, True, False, False]


def unsplit(per_emotion: int, *others: str) -> tuple[Faces, Int64Array]:
    """So many different training faces of each emotion, then one face of the other splits each."""
    emotion = [*list(range(7)) * per_emotion, *range(len(others))]
    usage = ["Training"] * (7 * per_emotion) + list(others)
    pixels = np.zeros((len(usage), 48, 48), np.uint8)
    pixels[:, 0, 0] = np.arange(len(usage))
    faces = Faces(pixels, np.array(emotion, np.int8), np.array(usage))
    return faces, np.arange(len(usage))


def per_emotion(faces: Faces) -> dict[str, list[int]]:
    return {
        usage: np.bincount(faces.emotion[faces.usage == usage], minlength=7).tolist()
        for usage in USAGES
    }


def test_a_tenth_of_each_emotion_is_held_out_for_each_missing_split() -> None:
    faces, groups = unsplit(25)
    assert per_emotion(hold_out(faces, groups, seed=0)) == {
        "Training": [21] * 7,
        "PublicTest": [2] * 7,
        "PrivateTest": [2] * 7,
    }


def test_the_seed_decides_who_is_held_out() -> None:
    faces, groups = unsplit(20)
    first, same, other = (hold_out(faces, groups, seed).usage.tolist() for seed in (0, 0, 1))
    assert first == same
    assert first != other


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(("Training", "Training", "PublicTest")), st.integers(0, 6)),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 12),
    st.integers(0, 9),
)
def test_no_copy_of_a_face_that_was_held_out_trains(
    rows: list[tuple[str, int]], distinct: int, seed: int
) -> None:
    usage = np.array([split for split, _ in rows] + ["Training"] * 21)
    emotion = np.array([label for _, label in rows] + [*range(7)] * 3, np.int8)
    faces = Faces(np.zeros((len(usage), 48, 48), np.uint8), emotion, usage)
    # Besides copies among the rows, three different training faces of every emotion.
    groups = np.concatenate([np.arange(len(rows)) * 7 % distinct, distinct + np.arange(21)])
    held = hold_out(faces, groups, seed)
    for group in range(distinct):
        own = groups == group
        assert len(set(held.usage[own & (usage == "Training")].tolist())) <= 1
    kept = usage == "PublicTest"
    np.testing.assert_array_equal(held.usage[kept], usage[kept])


def test_too_few_faces_of_an_emotion_to_hold_out_are_refused() -> None:
    emotion = np.array([*range(7)] * 3, np.int8)[:-1]  # neutral has two
    faces = Faces(np.zeros((20, 48, 48), np.uint8), emotion, np.full(20, "Training"))
    with pytest.raises(DataError, match="neutral has 2 different training faces: too few"):
        hold_out(faces, np.arange(20), seed=0)


def test_a_saved_split_comes_back_the_same_and_with_the_same_bytes(
    official: dict[SplitName, Split], tmp_path: Path
) -> None:
    for name in ("first.npz", "second.npz"):
        save_split(official["val"], tmp_path / name)
    found = load_split(tmp_path / "first.npz")
    for field in ("images", "labels", "groups", "in_train"):
        wanted = getattr(official["val"], field)
        np.testing.assert_array_equal(getattr(found, field), wanted)
        assert getattr(found, field).dtype == wanted.dtype
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_a_missing_split_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        load_split(tmp_path / "val.npz")
    assert str(refused.value) == f"{tmp_path / 'val.npz'} is missing: run 'dvc repro prepare'"


def test_a_damaged_split_is_named_with_the_command_that_makes_it(
    official: dict[SplitName, Split], tmp_path: Path
) -> None:
    path = tmp_path / "val.npz"
    save_split(official["val"], path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", images=official["val"].images)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, images=np.array([{}], dtype=object))
    broken = [b"", b"no zip", whole[:-30], whole[: len(whole) // 2]]
    for content in [*broken, (tmp_path / "other.npz").read_bytes(), pickled.read_bytes()]:
        path.write_bytes(content)
        with pytest.raises(DataError, match="can't be read") as refused:
            load_split(path)
        assert str(refused.value).startswith(str(path))
        assert str(refused.value).endswith("run 'dvc repro --force --single-item prepare'")
