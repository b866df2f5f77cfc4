"""Whatever edition it is, in whatever container, under whatever name: the same faces come in."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    CONTAINERS,
    HOLDOUT,
    OFFICIAL,
    Files,
    assert_same_faces,
    challenge,
    competition,
    csv_bytes,
    csv_rows,
    encode,
    fer2013_csv,
    hub_shards,
    icml_csv,
    in_order,
    only,
    parquet_images,
    parquet_numbers,
    parquet_raw_bytes,
    parquet_texts,
    pictures_by_folder,
    pictures_by_name,
    random_faces,
    read_or_refuse,
    refusal,
    tar_bytes,
    write,
    write_folder,
    zip_bytes,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.sources.editions import Reading, read_edition
from fer_pipeline.emotions import EMOTIONS

FACES = random_faces()
IGNORING = Reading("fer", "ignore", holdout=True)

EDITIONS: dict[str, tuple[Files, str]] = {
    "fer2013.csv": (fer2013_csv(FACES), "csv with labels and splits"),
    "icml_face_data.csv": (icml_csv(FACES), "csv with labels and splits"),
    "Kaggle's competition": (competition(FACES), "csv with labels and splits"),
    "folders": (pictures_by_folder(FACES), "pictures in folders"),
    "official file names": (pictures_by_name(FACES), "pictures in folders"),
    "parquet of images": (parquet_images(FACES), "parquet"),
    "parquet of numbers": (parquet_numbers(FACES), "parquet"),
    "parquet of raw bytes": (parquet_raw_bytes(FACES), "parquet"),
    "parquet of texts": (parquet_texts(FACES), "parquet"),
    "Hugging Face": (hub_shards(FACES), "parquet"),
}
WAYS = [
    *[(edition, "zip") for edition in EDITIONS],
    *[("fer2013.csv", container) for container in CONTAINERS if container != "zip"],
    *[("folders", container) for container in ("folder", "tar.gz")],
]
"""Every edition in one container, and a file and a tree of files in those that differ."""
NAMES = ("faces", "faces.png", "faces.tar.gz")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example of a property writes anew."""
    return tmp_path_factory.mktemp("editions") / "faces"


@pytest.mark.parametrize(("edition", "container"), WAYS)
def test_every_edition_in_every_container_under_every_name_gives_the_same_faces(
    edition: str, container: str, tmp_path: Path
) -> None:
    files, name = EDITIONS[edition]
    for file_name in NAMES:
        found = read_edition(CONTAINERS[container](files, tmp_path / file_name), OFFICIAL)
        assert_same_faces(in_order(found.faces), in_order(FACES))
        assert (found.name, found.split_known) == (name, True)
        assert (found.resized, found.unlabelled, found.dropped) == (0, 0, {})


BESIDE: Files = {
    "README.md": b"# FER2013: 48x48 pixels, emotion, Usage\n",
    "LICENSE": b"Database Contents License\n",
    "docs/paper.pdf": b"%PDF-1.5\n\xff\xfe",
    "notes.csv": b"name,value\nx,1\n",
    "empty.txt": b"",
    ".git/config": b"[core]\n",
    ".DS_Store": b"\0\0\0\1Bud1",
    "__MACOSX/._fer2013.csv": b"Mac OS X pixels",
}


@pytest.mark.parametrize("edition", ["fer2013.csv", "folders", "Hugging Face"])
def test_what_lies_beside_the_data_does_not_matter(edition: str, tmp_path: Path) -> None:
    path = write_folder(BESIDE | EDITIONS[edition][0], tmp_path / "faces")
    assert_same_faces(in_order(read_edition(path, OFFICIAL).faces), in_order(FACES))


# The challenge


def test_the_challenges_test_set_has_no_labels_so_it_is_refused(tmp_path: Path) -> None:
    path = write_folder(challenge(FACES), tmp_path / "faces")
    message = refusal(path, HOLDOUT)
    assert "test.csv has no labels, so it can't be test data" in message
    assert "data.unlabelled to 'ignore'" in message


def test_the_challenges_training_set_has_no_splits_to_test_on(tmp_path: Path) -> None:
    path = write(challenge(FACES)["train.csv"], tmp_path / "train.csv")
    message = refusal(path, OFFICIAL)
    assert "has no face in PublicTest: it names no splits: set data.protocol to" in message
    assert len(read_edition(path, HOLDOUT).faces) == 7


# Not one edition


ALL_IN_ONE = fer2013_csv(FACES)

CORRUPT: dict[str, tuple[Files, str]] = {
    "nothing": ({}, "is empty: it holds no file"),
    "only a README": ({"a.md": b"#", "b.md": b"#"}, "is no edition of FER2013 (it holds a.md, "),
    "two csv": (ALL_IN_ONE | icml_csv(FACES), "several editions (fer2013.csv, icml_face_data.csv)"),
    "csv and pictures": (
        ALL_IN_ONE | {"train/sad/1.png": encode(FACES.pixels[0])},
        "holds several editions (fer2013.csv, train/sad/1.png)",
    ),
    "two training sets": (
        {name: challenge(FACES)["train.csv"] for name in ("a.csv", "b.csv")},
        "holds several editions (a.csv, b.csv)",
    ),
    "only archives": (
        {"a.zip": zip_bytes(ALL_IN_ONE), "b.tar.gz": tar_bytes(ALL_IN_ONE, "gz")},
        "holds another archive (a.zip): unpack that one",
    ),
    "no labels": ({"test.csv": challenge(FACES)["test.csv"]}, "is the challenge's test.csv; take"),
    "names on two lines": ({"a\nb": b"", "c\x1b[2J": b""}, "(it holds a?b, c?[2J)"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "says"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_set_of_files_is_refused(files: Files, says: str, tmp_path: Path) -> None:
    path = tmp_path / "faces"
    path.mkdir()
    assert says in refusal(write_folder(files, path))


# Whole


@pytest.mark.parametrize("usage", USAGES)
def test_only_an_empty_split_to_hold_out_is_allowed(usage: str, tmp_path: Path) -> None:
    faces = FACES.select(FACES.usage != usage)
    path = write(only(fer2013_csv(faces)), tmp_path / "fer2013.csv")
    assert f"has no face in {usage}" in refusal(path, OFFICIAL)
    if usage == "Training":
        assert f"has no face in {usage}" in refusal(path, HOLDOUT)
    else:
        assert_same_faces(read_edition(path, HOLDOUT).faces, faces)


def test_a_split_without_one_class_is_refused(tmp_path: Path) -> None:
    for usage, emotion in (("Training", 1), ("PublicTest", 4), ("PrivateTest", 6)):
        faces = FACES.select((FACES.usage != usage) | (FACES.emotion != emotion))
        path = write(zip_bytes(fer2013_csv(faces)), tmp_path / "faces")
        assert f"has no '{EMOTIONS[emotion]}' face in {usage}" in refusal(path)


# Damage anywhere

MORE = Faces(
    np.concatenate([FACES.pixels, random_faces(1).pixels]),
    np.concatenate([FACES.emotion, FACES.emotion[::-1]]),
    np.concatenate([FACES.usage, FACES.usage[::-1]]),
)
"""42 faces, of which the last 21 can be cut off without a loss of a class in a split."""

CSV = csv_bytes(csv_rows(MORE))
ROW_ENDS = [place for place in range(len(CSV)) if CSV[place : place + 1] == b"\n"]


@given(
    end=st.integers(0, len(CSV) - 1) | st.sampled_from(ROW_ENDS) | st.sampled_from(ROW_ENDS[21:])
)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_of_a_csv_cut_off_anywhere_only_whole_rows_are_read(scratch: Path, end: int) -> None:
    found = read_or_refuse(scratch, CSV[:end])
    if found is not None:
        assert len(found) >= 21
        assert_same_faces(found, MORE.select(np.arange(len(found))))
    else:
        assert end not in ROW_ENDS[21:]


CHECKED = {
    "zip of pictures": zip_bytes(pictures_by_folder(FACES), zipfile.ZIP_STORED),
    "zip of a csv": zip_bytes(fer2013_csv(FACES)),
    "tar.gz of pictures": tar_bytes(pictures_by_folder(FACES), "gz"),
    "csv.gz": gzip.compress(only(fer2013_csv(FACES)), 1),
}
"""Forms with checksums, in which no damage can hide."""

FORMS = CHECKED | {
    "csv": only(fer2013_csv(FACES)),
    "tar of pictures": tar_bytes(pictures_by_folder(FACES)),
    "parquet of images": only(parquet_images(FACES)),
    "parquet of numbers": only(parquet_numbers(FACES)),
}


@given(
    kind=st.sampled_from(sorted(FORMS)),
    place=st.floats(0, 1, exclude_max=True) | st.integers(-1500, 600),
    byte=st.none() | st.integers(0, 255),
)
@example(kind="tar of pictures", place=512, byte=None)
@example(kind="zip of a csv", place=-33, byte=0)  # in the directory: a member without a name
@example(kind="zip of a csv", place=30, byte=0xFF)
@settings(deadline=None, max_examples=120, derandomize=True)
def test_an_edition_with_another_byte_or_cut_off_anywhere_is_refused_or_read_whole(
    scratch: Path, kind: str, place: float, byte: int | None
) -> None:
    content = FORMS[kind]
    at = int(place * len(content)) if isinstance(place, float) else place
    damaged = content[:at] if byte is None else bytearray(content)
    if isinstance(damaged, bytearray):
        damaged[at] = byte or 0
    found = read_or_refuse(scratch, bytes(damaged))
    if found is None:
        return
    if kind in CHECKED or byte is None:
        assert_same_faces(in_order(found), in_order(FACES))
    assert found.pixels.shape == (21, 48, 48)
    assert set(found.usage) == set(USAGES)
    assert set(found.emotion.tolist()) == set(range(7))


def test_a_copy_of_a_shard_beside_it_is_refused(tmp_path: Path) -> None:
    files = hub_shards(FACES)
    twice = files | {f"copy/{name}": content for name, content in files.items()}
    assert "is one the copy of the other?" in refusal(write_folder(twice, tmp_path / "faces"))


def test_a_picture_beside_a_csv_illustrates_it(tmp_path: Path) -> None:
    files = fer2013_csv(FACES) | {"cover.png": encode(FACES.pixels[0])}
    found = read_edition(write_folder(files, tmp_path / "faces"), OFFICIAL)
    assert_same_faces(found.faces, FACES)
