"""A picture's class is its folder's name; its split its own name's, or a folder's above."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    HOLDOUT,
    OFFICIAL,
    Files,
    assert_same_faces,
    encode,
    pictures_by_folder,
    random_faces,
    refusal,
    tar_bytes,
    write,
    write_folder,
    zip_bytes,
)

from fer_pipeline.data.sources.containers import open_container
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.sources.picture_files import read_pictures
from fer_pipeline.emotions import EMOTIONS

FACES = random_faces()
PICTURES = pictures_by_folder(FACES)
FACE = encode(FACES.pixels[0])
SAD_IN_TRAINING = next(name for name in PICTURES if "/Train/SAD/" in name)


def test_folders_number_no_emotion_by_their_order(tmp_path: Path) -> None:
    names = sorted(f"train/{emotion}/1.png" for emotion in EMOTIONS)
    with open_container(write_folder(dict.fromkeys(names, FACE), tmp_path / "f")) as container:
        faces = read_pictures(container, names).faces
    assert [EMOTIONS[code] for code in faces.emotion] == sorted(EMOTIONS)


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes], ids=["zip", "tar"])
def test_faces_stand_in_the_order_of_names_however_they_are_packed(
    pack: Callable[[Files], bytes], tmp_path: Path
) -> None:
    turned = dict(reversed(PICTURES.items()))
    found = [
        read_edition(write(pack(files), tmp_path / "faces"), OFFICIAL).faces
        for files in (PICTURES, turned)
    ]
    assert_same_faces(found[0], found[1])


def test_pictures_without_splits_are_training_to_hold_out_from(tmp_path: Path) -> None:
    files = {name.replace("Train", "all"): PICTURES[name] for name in PICTURES if "Train" in name}
    path = write_folder(files, tmp_path / "faces")
    edition = read_edition(path, HOLDOUT)
    assert not edition.split_known
    assert set(edition.faces.usage) == {"Training"}
    assert "names no splits: set data.protocol to 'holdout'" in refusal(path)


CORRUPT: dict[str, tuple[Files, list[str]]] = {
    "an unknown class": (
        PICTURES | {"images/Train/bored/1.png": FACE},
        ["images/Train/bored/1.png: folder 'bored' is none of the seven"],
    ),
    "no folders": ({"1.png": FACE}, ["1.png: folder '' is none of the seven expressions, in"]),
    "classes above splits": (PICTURES | {"sad/train/1.png": FACE}, ["folder 'train' is none"]),
    "a split of another name": (
        PICTURES | {"images/holdout/sad/1.png": FACE},
        ["images/holdout/sad/1.png: no folder above it is a split"],
    ),
    "47x48": (
        PICTURES | {SAD_IN_TRAINING: encode(np.zeros((48, 47), np.uint8))},
        [SAD_IN_TRAINING, "picture is 47x48"],
    ),
    "a web page": (
        PICTURES | {SAD_IN_TRAINING: b"<html>"},
        [SAD_IN_TRAINING, "unknown format"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "says"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_folder_of_pictures_is_refused(
    files: Files, says: list[str], tmp_path: Path
) -> None:
    message = refusal(write(zip_bytes(files), tmp_path / "faces"))
    for words in says:
        assert words in message
