"""FER+'s votes: beside the faces, in a file of their own, or missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    Files,
    fer2013_csv,
    random_faces,
    write,
    write_folder,
    zip_bytes,
)
from source_files import refusal, sha256

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.profile import profile_of
from fer_pipeline.data.sources.pins import FilePin
from fer_pipeline.data.sources.source import (
    Fetcher,
    pin_source,
    read_pinned,
)
from fer_pipeline.params.schema import DataParams

VOTES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
COLUMNS = (4, 5, 6, 1, 3, 2, 0)
"""The column of votes for each of FER2013's emotions."""


@pytest.fixture(scope="module")
def twice() -> Faces:
    """Each emotion twice in each split."""
    one, other = random_faces(3), random_faces(4)
    return Faces(
        np.concatenate([one.pixels, other.pixels]),
        np.concatenate([one.emotion, other.emotion]),
        np.concatenate([one.usage, other.usage]),
    )


def votes_csv(faces: Faces, to_happy: int, no_face: int) -> bytes:
    """All agree with FER2013's labels, but for two rows."""
    lines = [f"Usage,Image name,{VOTES}\n"]
    for row, (emotion, usage) in enumerate(zip(faces.emotion, faces.usage, strict=True)):
        counts = [0] * 10
        counts[{to_happy: 1, no_face: 9}.get(row, COLUMNS[emotion])] = 10
        lines.append(f"{usage},fer{row:07}.png,{','.join(map(str, counts))}\n")
    return "".join(lines).encode()


@pytest.fixture
def voted(twice: Faces) -> Files:
    sad, neutral = (int(np.flatnonzero(twice.emotion == code)[0]) for code in (4, 6))
    return {**fer2013_csv(twice), "fer2013new.csv": votes_csv(twice, sad, neutral)}


@pytest.fixture
def asking(data: DataParams) -> DataParams:
    return data.model_copy(update={"labels": "ferplus_majority"})


def assert_voted(faces: Faces, twice: Faces) -> None:
    wanted = np.bincount(twice.emotion) + np.array([0, 0, 0, 1, -1, 0, -1])
    assert np.bincount(faces.emotion).tolist() == wanted.tolist()


def test_votes_beside_the_faces_are_part_of_the_source(
    tmp_path: Path, voted: Files, twice: Faces, asking: DataParams, fetcher: Fetcher
) -> None:
    path = write(zip_bytes(voted), tmp_path / "fer.zip")
    pin, _ = pin_source(str(path), None, asking, None, fetcher)
    assert pin.ferplus is None
    faces, origin = read_pinned(pin, asking, fetcher)
    assert_voted(faces, twice)
    assert pin.profile == profile_of(faces, "ferplus_majority")
    assert origin.labels == "ferplus_majority"
    assert {reason: count for reason, count in origin.dropped.items() if count} == {"not_a_face": 1}


def test_votes_in_a_file_of_their_own_are_pinned_with_their_own_digest(
    tmp_path: Path, voted: Files, twice: Faces, asking: DataParams, fetcher: Fetcher
) -> None:
    folder = write_folder(voted, tmp_path)
    path, votes = folder / "fer2013.csv", folder / "fer2013new.csv"
    pin, _ = pin_source(str(path), str(votes), asking, None, fetcher)
    content = votes.read_bytes()
    assert pin.ferplus == FilePin(str(votes), "", len(content), sha256(content))
    assert pin.source.sha256 == sha256(path.read_bytes())
    assert_voted(read_pinned(pin, asking, fetcher)[0], twice)

    votes.write_bytes(content.replace(b"fer0000000", b"fer9999999"))
    assert refusal(lambda: read_pinned(pin, asking, fetcher)) == (
        f"{votes} has changed since it was pinned (sha256 {sha256(content)[:12]}…, now "
        f"{sha256(votes.read_bytes())[:12]}…): run 'fer source pin {path} --ferplus {votes}' to "
        f"accept what it is now"
    )
    votes.unlink()
    assert refusal(lambda: read_pinned(pin, asking, fetcher)).startswith(f"{votes} is missing")


def test_votes_that_are_asked_for_but_not_there_are_refused_with_the_command(
    tmp_path: Path, voted: Files, asking: DataParams, fetcher: Fetcher
) -> None:
    path = write(voted["fer2013.csv"], tmp_path / "fer2013.csv")
    message = refusal(lambda: pin_source(str(path), None, asking, None, fetcher))
    assert message.startswith(f"{path} has no fer2013new.csv beside it")
    assert "'fer source pin URI --ferplus URI'" in message
