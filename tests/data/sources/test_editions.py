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
    parquet_bytes,
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
from fer_pipeline.data.profile import KNOWN_COUNTS
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
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
    for name in ("train.csv", "fer_test.csv"):
        path = write(challenge(FACES)["train.csv"], tmp_path / name)
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


# As people have them


def csv_per_split(faces: Faces, names: tuple[str, ...] = ("train", "val", "test")) -> Files:
    """A csv of labels and pixels for each split."""
    parts = {
        name: faces.select(faces.usage == usage) for name, usage in zip(names, USAGES, strict=True)
    }
    rows = {name: [row[:2] for row in csv_rows(part)] for name, part in parts.items()}
    return {f"{name}.csv": csv_bytes(some, ("emotion", "pixels")) for name, some in rows.items()}


def under_ferplus_names(files: Files) -> Files:
    """Pictures in the folders that FER+'s own script makes."""
    names = {"Train": "FER2013Train", "validation": "FER2013Valid", "TEST": "FER2013Test"}
    return {
        name.replace(f"/{split}/", f"/{folder}/"): content
        for split, folder in names.items()
        for name, content in files.items()
        if f"/{split}/" in name
    }


@pytest.mark.parametrize(
    "files",
    [
        csv_per_split(FACES),
        csv_per_split(FACES, ("fer_train", "fer_valid", "fer_public_and_private/test")),
        under_ferplus_names(pictures_by_folder(FACES)),
    ],
    ids=["a csv for each split", "in folders", "FER+'s folders"],
)
def test_splits_are_known_by_the_names_that_people_give_them(files: Files, tmp_path: Path) -> None:
    found = read_edition(write_folder(files, tmp_path / "faces"), OFFICIAL)
    assert found.split_known
    assert_same_faces(in_order(found.faces), in_order(FACES))


@pytest.mark.parametrize("kind", ["pictures", "csv"])
def test_what_may_be_splits_under_other_names_is_named(kind: str, tmp_path: Path) -> None:
    """Those who then set `holdout` would lose the splits that they have."""
    files = pictures_by_folder(FACES)
    for split, letter in (("Train", "A"), ("validation", "B"), ("TEST", "C")):
        files = {name.replace(split, letter): content for name, content in files.items()}
    if kind == "csv":
        files = csv_per_split(FACES, ("A", "B", "C"))
        assert "several editions (A.csv, B.csv, C.csv)" in refusal(
            write_folder(files, tmp_path / "faces")
        )
        return
    path = write_folder(files, tmp_path / "faces")
    assert "if A, B, C are its splits, call them train, val and test" in refusal(path)


VOTES = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear")
"""FER+'s first seven columns, by FER2013's names; contempt, unknown and no face follow."""


def voted_pictures(faces: Faces) -> Files:
    """Pictures by split alone, with the votes on them beside them; the first is of contempt."""
    files: Files = {}
    folders = dict(zip(USAGES, ("FER2013Train", "FER2013Valid", "FER2013Test"), strict=True))
    for row, (image, code, usage) in enumerate(
        zip(faces.pixels, faces.emotion, faces.usage, strict=True)
    ):
        votes = [8 * (name == EMOTIONS[code]) for name in VOTES] + [0, 1, 1]
        if row == 0:
            votes = [0] * 7 + [9, 1, 0]
        listed = f'fer{row:07}.png,"(0, 0, 48, 48)",{",".join(map(str, votes))}\n'
        labels = f"{folders[usage]}/label.csv"
        files[labels] = files.get(labels, b"") + listed.encode()
        files[f"{folders[usage]}/fer{row:07}.png"] = encode(image)
    return files


def test_pictures_with_votes_beside_them_get_the_label_that_most_vote_for(tmp_path: Path) -> None:
    twice = Faces.joined([FACES, FACES])
    path = write_folder(voted_pictures(twice), tmp_path / "faces")
    found = read_edition(path, Reading("ferplus_majority", "refuse", holdout=False))
    assert_same_faces(in_order(found.faces), in_order(twice.select(np.arange(1, 42))))
    assert found.dropped == {"contempt": 1, "unknown": 0, "not_a_face": 0, "no_majority": 0}
    assert "set data.labels to 'ferplus_majority'" in refusal(path)
    min(path.rglob("*.png")).unlink()
    assert "is missing, but votes on it are there" in refusal(path, names=path / "FER2013Test")


def test_faces_of_an_eighth_class_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    files = pictures_by_folder(FACES)
    files["images/Train/Contempt/1.png"] = files[min(files)]
    path = write_folder(files, tmp_path / "faces")
    assert "(1 of 'contempt'): set data.unlabelled to 'ignore'" in refusal(path)
    found = read_edition(path, Reading("fer", "ignore", holdout=False))
    assert found.dropped == {"contempt": 1}
    assert_same_faces(in_order(found.faces), in_order(FACES))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10600000\n"


@pytest.mark.parametrize(
    "files",
    [
        {"fer2013.csv": POINTER},
        dict.fromkeys(hub_shards(FACES), POINTER),
        dict.fromkeys(pictures_by_folder(FACES), POINTER),
    ],
    ids=["csv", "shards", "pictures"],
)
@pytest.mark.parametrize("container", ["zip", "folder"])
def test_a_pointer_of_git_lfs_is_called_that(files: Files, container: str, tmp_path: Path) -> None:
    message = refusal(CONTAINERS[container](files, tmp_path / "faces"))
    assert "is a Git LFS pointer, not the data: run 'git lfs pull'" in message


ALPHABETICAL = sorted(EMOTIONS)


def sized(counts: dict[str, list[int]]) -> bytes:
    """A parquet of so many faces per split and label, all of the same two greys."""
    total = sum(map(sum, counts.values()))
    face = np.resize(np.array([90, 200], np.uint8), 2304).tobytes()
    usages = [usage for usage, row in counts.items() for _ in range(sum(row))]
    labels = [label for row in counts.values() for label in np.repeat(range(7), row).tolist()]
    return parquet_bytes({"image": [face] * total, "emotion": labels, "Usage": usages})


def in_alphabetical_order(row: tuple[int, ...]) -> list[int]:
    return [row[EMOTIONS.index(name)] for name in ALPHABETICAL]


@pytest.mark.parametrize(("holdout", "fewer"), [(True, 0), (False, 40)])
def test_fer2013s_counts_in_another_order_are_refused_with_the_order_they_suggest(
    holdout: bool, fewer: int, tmp_path: Path
) -> None:
    """Even where some faces were left out, as copies are by many."""
    own = {usage: list(row) for usage, row in KNOWN_COUNTS.items()}
    own["Training"][3] -= fewer
    assert read_edition(write(sized(own), tmp_path / "own"), OFFICIAL)
    turned = {usage: in_alphabetical_order(tuple(row)) for usage, row in own.items()}
    if holdout:  # both test splits in one
        turned["PrivateTest"] = np.add(turned["PrivateTest"], turned.pop("PublicTest")).tolist()
    reading = HOLDOUT if holdout else OFFICIAL
    message = refusal(write(sized(turned), tmp_path / "turned"), reading)
    assert f"as if its labels 0 to 6 meant {', '.join(ALPHABETICAL)}" in message


def test_most_faces_of_one_grey_are_refused(tmp_path: Path) -> None:
    flat = Faces(FACES.pixels.copy(), FACES.emotion, FACES.usage)
    flat.pixels[FACES.usage == "PublicTest"] = 7
    path = write(only(parquet_raw_bytes(flat)), tmp_path / "faces")
    assert "7 of the 7 faces in PublicTest have one grey value" in refusal(path)


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
