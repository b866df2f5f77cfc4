"""Which images each protocol puts where, and what they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_pipeline.data.faces import Faces, Split, load_split, save_split
from fer_pipeline.data.quality import group_by_pixels
from fer_pipeline.data.splits import SplitName, split_faces
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


def test_images_stay_with_their_labels(official: dict[SplitName, Split]) -> None:
    for split in official.values():
        assert split.images.shape == (len(split), 48, 48)
        assert split.images[:, 0, 0].tolist() == GREYS[split.labels].tolist()


def test_groups_are_shared_across_splits(official: dict[SplitName, Split]) -> None:
    groups = {name: split.groups.tolist() for name, split in official.items()}
    assert groups == {"train": [1, 2, 2], "val": [1, 3], "test": [0, 3]}


def test_in_train_marks_the_pixels_that_train_has(
    official: dict[SplitName, Split], paper: dict[SplitName, Split]
) -> None:
    assert official["train"].in_train.tolist() == [True, True, True]
    assert official["val"].in_train.tolist() == [True, False]
    assert official["test"].in_train.tolist() == [False, False]
    assert paper["test"].in_train.tolist() == [False, True, False, False]


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


# numpy leaves the file open where it finds no whole zip in it.
@pytest.mark.filterwarnings(r"ignore:unclosed file .*val\.npz:ResourceWarning")
def test_a_damaged_split_is_named_with_the_command_that_makes_it(
    official: dict[SplitName, Split], tmp_path: Path
) -> None:
    path = tmp_path / "val.npz"
    save_split(official["val"], path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", images=official["val"].images)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, images=np.array([{}], dtype=object))
    broken = [b"no zip", whole[:-30], whole[: len(whole) // 2]]
    for content in [*broken, (tmp_path / "other.npz").read_bytes(), pickled.read_bytes()]:
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a prepared split") as refused:
            load_split(path)
        assert str(refused.value).startswith(str(path))
        assert str(refused.value).endswith("run 'dvc repro --force prepare'")


def test_an_empty_split_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "val.npz").touch()
    with pytest.raises(DataError, match="run 'dvc repro --force prepare'"):
        load_split(tmp_path / "val.npz")
