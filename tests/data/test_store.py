"""The ingested set comes back as it was written; another file is refused with the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.store import Origin, read_faces, write_faces
from fer_pipeline.errors import DataError

ORIGIN = Origin(
    uri="s3://faces/grüße/fer2013.zip",
    version="v7",
    sha256="ab" * 32,
    synthetic=False,
    edition="csv with labels and splits, labels by FER+",
    labels="ferplus_majority",
    resized=3,
    unlabelled=4,
    dropped={"not_a_face": 1, "no_majority": 2},
)


@pytest.fixture(scope="module")
def faces() -> Faces:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 48, 48), np.uint8)
    return Faces(pixels, np.array([0, 1, 2, 3, 4, 5, 6, 0, 1], np.int8), np.repeat(USAGES, 3))


@pytest.fixture
def path(faces: Faces, tmp_path: Path) -> Path:
    path = tmp_path / "faces.parquet"
    write_faces(faces, ORIGIN, path)
    return path


def assert_same_faces(found: Faces, wanted: Faces) -> None:
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(found.emotion, wanted.emotion)
    np.testing.assert_array_equal(found.usage, wanted.usage)
    assert (found.pixels.dtype, found.emotion.dtype) == (np.uint8, np.int8)


def test_faces_and_their_origin_come_back(faces: Faces, path: Path) -> None:
    found, origin = read_faces(path)
    assert_same_faces(found, faces)
    assert origin == ORIGIN


def test_the_same_faces_give_the_same_bytes(faces: Faces, path: Path, tmp_path: Path) -> None:
    write_faces(faces, ORIGIN, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def with_an_older_origin(path: Path) -> None:
    table = pq.read_table(path)
    metadata = {b"fer.origin": json.dumps(asdict(ORIGIN) | {"pinned": True}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def without_usage(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["usage"]), path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "something else": lambda path: path.write_text("<html>"),
    "no usage": without_usage,
    "an origin of an older form": with_an_older_origin,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_file_that_is_no_ingested_set_is_refused_with_the_command(
    spoil: Callable[[Path], object], path: Path
) -> None:
    spoil(path)
    with pytest.raises(DataError) as refused:
        read_faces(path)
    assert str(refused.value).startswith(f"{path} can't be read (")
    assert str(refused.value).endswith("run 'dvc repro --force --single-item ingest'")
    assert "\n" not in str(refused.value)
