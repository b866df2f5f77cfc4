"""FER+'s votes become labels as its authors take them, for the faces that they were given on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    assert_same_faces,
    csv_bytes,
    fer2013_csv,
    only,
    parquet_images,
    random_faces,
    refusal,
    tar_bytes,
    write,
    write_folder,
    zip_bytes,
)

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.profile import profile_of
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.sources.ferplus import FILE_NAME, majority_labels
from fer_pipeline.data.sources.source import Fetcher, pin_source, read_pinned
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.params.schema import DataParams

FERPLUS = Reading("ferplus_majority", "refuse", holdout=False)
HEADER = (
    "Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger", "disgust",
    "fear", "contempt", "unknown", "NF",
)  # fmt: skip
NAMES = HEADER[2:]
COLUMN_OF = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""FER+'s name of each of FER2013's labels 0 to 6."""

ONCE = random_faces()
TWICE = Faces(
    np.concatenate([ONCE.pixels, random_faces(1).pixels]),
    np.concatenate([ONCE.emotion, ONCE.emotion]),
    np.concatenate([ONCE.usage, ONCE.usage]),
)
"""42 faces: each emotion twice in each split, so that some can be dropped."""


def votes_row(usage: str, **votes: int) -> list[str]:
    return [usage, "fer.png", *(str(votes.get(name, 0)) for name in NAMES)]


def agreeing(faces: Faces) -> list[list[str]]:
    """Votes by which every face keeps its label: nine for it and one outlier."""
    return [
        votes_row(str(usage), **{COLUMN_OF[emotion]: 9, "contempt": 1})
        for emotion, usage in zip(faces.emotion, faces.usage, strict=True)
    ]


ROWS = agreeing(TWICE)


def votes_csv(rows: list[list[str]]) -> bytes:
    return csv_bytes(rows, HEADER)


def labels_of(**votes: int) -> tuple[str | None, list[str]]:
    """The majority label of one row of votes, and the reasons that were counted."""
    counts = np.array([[votes.get(name, 0) for name in NAMES]], np.int64)
    labels, dropped = majority_labels(counts)
    label = EMOTIONS[labels[0]] if labels[0] >= 0 else None
    return label, [reason for reason, count in dropped.items() if count]


def test_votes_are_mapped_by_the_columns_name() -> None:
    for emotion, name in zip(EMOTIONS, COLUMN_OF, strict=True):
        assert labels_of(**{name: 10}) == (emotion, [])


@pytest.mark.parametrize(
    ("votes", "label", "reason"),
    [
        ({"sadness": 6, "anger": 4}, "sad", []),
        ({"sadness": 5, "anger": 5}, None, ["no_majority"]),
        ({"sadness": 3, "anger": 2, "fear": 1, "disgust": 1}, "sad", []),
        ({}, None, ["no_majority"]),
        ({"NF": 10}, None, ["not_a_face"]),
        ({"unknown": 6, "sadness": 4}, None, ["unknown"]),
        ({"contempt": 7, "neutral": 3}, None, ["contempt"]),
    ],
    ids=[
        "more than half", "a tie", "single votes don't count", "no votes", "not a face", "unknown",
        "contempt",
    ],
)  # fmt: skip
def test_a_label_needs_more_than_half_of_the_votes(
    votes: dict[str, int], label: str | None, reason: list[str]
) -> None:
    assert labels_of(**votes) == (label, reason)


def test_faces_without_a_label_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    spoilt = [
        {"NF": 10}, {"NF": 8}, {"NF": 6}, {"unknown": 9}, {"unknown": 6}, {"contempt": 10},
        {"fear": 5, "anger": 5},
    ]  # fmt: skip
    for row, votes in enumerate(spoilt):
        rows[row] = votes_row(str(TWICE.usage[row]), **votes)
    files = fer2013_csv(TWICE) | {FILE_NAME: votes_csv(rows)}
    edition = read_edition(write_folder(files, tmp_path / "fer"), FERPLUS)
    assert edition.dropped == {"contempt": 1, "unknown": 2, "not_a_face": 3, "no_majority": 1}
    assert_same_faces(edition.faces, TWICE.select(np.arange(7, 42)))
    assert edition.name == "csv with labels and splits, labels by FER+"


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        lambda content: zip_bytes({"FERPlus/fer2013new.csv": content, "FERPlus/README.md": b"#"}),
        lambda content: tar_bytes({"votes.csv": content}, "gz"),
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
        lambda content: content + b"\n\n",
    ],
    ids=["a file", "in a zip", "under another name", "from Windows", "blank lines at the end"],
)
def test_the_votes_may_lie_elsewhere(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    votes = write(pack(votes_csv(ROWS)), tmp_path / "votes")
    path = write(only(parquet_images(TWICE)), tmp_path / "faces")
    assert_same_faces(read_edition(path, FERPLUS, votes).faces, TWICE)


def spoilt(place: int, value: str) -> bytes:
    rows = [list(row) for row in ROWS]
    rows[3][place] = value
    return votes_csv(rows)


def turned_in_each_split(rows: list[list[str]]) -> list[list[str]]:
    """Every row of votes at the place of the next one of its split."""
    places = [[i for i, row in enumerate(rows) if row[0] == usage] for usage in USAGES]
    after = {i: one[(k + 1) % len(one)] for one in places for k, i in enumerate(one)}
    return [rows[after[i]] for i in range(len(rows))]


CORRUPT_VOTES: dict[str, tuple[bytes, str]] = {
    "a word": (spoilt(4, "many"), ", row 4: a number of votes is 'many'"),
    "gigantic": (spoilt(4, "9" * 5000), ", row 4: a number of votes is '999"),
    "unknown split": (spoilt(0, "Holdout"), ", row 4: Usage is 'Holdout'"),
    "a field without end": (spoilt(1, '"' + "x" * 200_000), " is no csv: "),
    "another split": (spoilt(0, USAGES[2]), ", row 4: Usage is PrivateTest, but the source's row"),
    "too few columns": (votes_csv([*ROWS[:3], ["Training"], *ROWS[4:]]), "row 4: 1 columns"),
    "no Usage": (votes_csv(ROWS).replace(b"Usage", b"Split", 1), " has not the columns of FER+"),
    "a row too few": (votes_csv(ROWS[:-1]), " has votes on 41 faces, the source has 42"),
    "another order": (
        votes_csv(turned_in_each_split(ROWS)),
        " of the faces: the rows are in another order",
    ),
    "Latin-1": (votes_csv(ROWS).replace(b"fer.png", b"f\xe9r.png"), " is no csv in UTF-8"),
    "old Mac lines": (votes_csv(ROWS).replace(b"\n", b"\r"), " is no csv: "),
    "an empty zip": (zip_bytes({}), " holds no fer2013new.csv"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), CORRUPT_VOTES.values(), ids=CORRUPT_VOTES.keys())
def test_corrupt_votes_are_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = write(only(fer2013_csv(TWICE)), tmp_path / "fer2013.csv")
    votes = write(content, tmp_path / "votes")
    assert says in refusal(path, FERPLUS, names=votes, votes=votes)


def test_votes_in_a_file_of_their_own_are_pinned_with_their_own_digest(
    tmp_path: Path, data: DataParams, fetcher: Fetcher
) -> None:
    path = write(only(fer2013_csv(TWICE)), tmp_path / "fer2013.csv")
    votes = write(votes_csv(ROWS), tmp_path / FILE_NAME)
    for uri in ("sample", str(path)):
        with pytest.raises(DataError, match="votes"):
            pin_source(uri, str(votes), data, None, fetcher)
    asking = data.model_copy(update={"labels": "ferplus_majority"})
    with pytest.raises(DataError, match="the built-in sample has no votes"):
        pin_source("sample", str(votes), asking, None, fetcher)
    with pytest.raises(DataError, match=f"{path} holds no {FILE_NAME}, .* --ferplus URI"):
        pin_source(str(path), None, asking, None, fetcher)
    pin, _ = pin_source(str(path), str(votes), asking, None, fetcher)
    assert pin.ferplus is not None
    assert pin.ferplus.sha256 == hashlib.sha256(votes.read_bytes()).hexdigest()
    faces, origin = read_pinned(pin, asking, fetcher)
    assert_same_faces(faces, TWICE)
    assert origin.labels == "ferplus_majority"
    assert pin.profile == profile_of(faces, "ferplus_majority")
    votes.write_bytes(votes_csv(ROWS).replace(b"fer.png", b"other.png", 1))
    with pytest.raises(DataError, match=f"'fer source pin {path} --ferplus {votes}' to accept"):
        read_pinned(pin, asking, fetcher)
