"""Faces for the pages come back as they were picked, and from no damaged file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_pipeline.data.faces import Example, read_examples, write_examples
from fer_pipeline.errors import DataError

FACES = [
    Example("conflict", np.full((48, 48), 7, np.uint8), {"votes": [["Training", "sad", 2]]}),
    Example("One grey value", np.eye(48, dtype=np.uint8), {"caption": "Training, “fear”"}),
]


@pytest.mark.parametrize("faces", [FACES, []], ids=["two", "none"])
def test_examples_come_back_and_give_the_same_bytes(faces: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    write_examples(path, faces)
    written = path.read_bytes()
    found = read_examples(path, "prepare")
    assert [(one.kind, one.facts) for one in found] == [(one.kind, one.facts) for one in faces]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(found, faces, strict=True))
    write_examples(path, list(found))
    assert path.read_bytes() == written


def test_a_missing_or_damaged_file_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match="is missing: run 'dvc repro prepare'"):
        read_examples(path, "prepare")
    path.write_bytes(b"PK nothing of the kind")
    with pytest.raises(DataError, match="run 'dvc repro --force --single-item prepare'"):
        read_examples(path, "prepare")
