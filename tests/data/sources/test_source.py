"""A source is read as it was pinned, or not at all; what is wrong is said with what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from edition_files import assert_same_faces, challenge, pictures_by_folder, write, write_folder
from source_files import CSV, FACES, OTHER_CSV, SAMPLE, refusal, sha256

from fer_pipeline.data.profile import profile_of
from fer_pipeline.data.sources.pins import FilePin, Pin, read_pin, write_pin
from fer_pipeline.data.sources.sample import SAMPLE_VERSION, draw_sample
from fer_pipeline.data.sources.source import Fetcher, pin_source, read_pinned, upstream_moved
from fer_pipeline.params.schema import DataParams


def test_the_sample_is_drawn_as_the_params_say(data: DataParams, fetcher: Fetcher) -> None:
    faces, origin = read_pinned(SAMPLE, data, fetcher)
    assert_same_faces(faces, draw_sample(7, 8, 9, seed=3))
    assert (origin.uri, origin.version, origin.sha256) == ("sample", SAMPLE_VERSION, "")
    assert (origin.synthetic, origin.edition, origin.labels) == (True, "synthetic sample", "fer")


def test_another_version_of_the_sample_than_the_pinned_one_is_refused(
    data: DataParams, fetcher: Fetcher
) -> None:
    old = replace(SAMPLE, source=FilePin("sample", "0", 0, ""))
    assert upstream_moved(old.source) == f"version '0', now '{SAMPLE_VERSION}'"
    assert upstream_moved(SAMPLE.source) == ""
    assert refusal(lambda: read_pinned(old, data, fetcher)) == (
        f"the built-in sample has changed since it was pinned (version '0', now "
        f"'{SAMPLE_VERSION}'): run 'fer source pin sample' to accept what it is now"
    )


def test_the_sample_has_no_votes(data: DataParams, fetcher: Fetcher) -> None:
    voted = data.model_copy(update={"labels": "ferplus_majority"})
    message = refusal(lambda: read_pinned(SAMPLE, voted, fetcher))
    assert message == "data.labels is ferplus_majority: the built-in sample has no votes"


def test_a_pinned_file_is_read_back_with_its_origin(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin = take(path)
    assert pin == Pin(
        FilePin(str(path), "", len(CSV), sha256(CSV)), None, profile_of(FACES, "fer"), None
    )
    write_pin(pin, tmp_path / "source.lock.yaml")
    faces, origin = read_pinned(read_pin(tmp_path / "source.lock.yaml"), data, fetcher)
    assert_same_faces(faces, FACES)
    assert (origin.uri, origin.version, origin.sha256) == (str(path), "", sha256(CSV))
    assert (origin.synthetic, origin.edition) == (False, "csv with labels and splits")
    assert (origin.resized, origin.unlabelled, origin.dropped) == (0, 0, {})


def test_a_file_that_changed_since_it_was_pinned_is_refused_with_both_digests(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    path = write(CSV, tmp_path / "fer.csv")
    pin = take(path)
    write(OTHER_CSV, path)
    assert refusal(lambda: read_pinned(pin, data, fetcher)) == (
        f"{path} has changed since it was pinned (sha256 {sha256(CSV)[:12]}…, now "
        f"{sha256(OTHER_CSV)[:12]}…): run 'fer source pin {path}' to accept what it is now"
    )


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("missing.csv", "missing.csv is missing: give 'sample', an existing file or folder, "),
        ("", "the source is missing: give 'sample', "),
        ("x" * 300, "xxx"),  # longer than a name can be
        ("empty.csv", "empty.csv is empty (0 bytes): fetch it again"),
        ("folder", "folder is empty: it holds no file"),
        ("ftp://x.org/fer.csv", "ftp:// is not known: give https://, http://, s3:// or a path"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_what_to_do(
    uri: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take: Callable[..., Pin]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty.csv").touch()
    assert refusal(lambda: take(uri)).startswith(says)


def test_how_a_source_is_read_is_up_to_the_params(
    tmp_path: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    """The challenge has no splits, and a `test.csv` without labels."""
    path = write_folder(challenge(FACES), tmp_path / "challenge")
    assert "data.unlabelled to 'ignore'" in refusal(lambda: take(path))
    ignoring = data.model_copy(update={"unlabelled": "ignore"})
    attempt = partial(pin_source, str(path), None, ignoring, None, fetcher)
    assert "data.protocol to 'holdout'" in refusal(attempt)
    holding = ignoring.model_copy(update={"protocol": "holdout"})
    pin, _ = pin_source(str(path), None, holding, None, fetcher)
    faces, origin = read_pinned(pin, holding, fetcher)
    assert set(faces.usage) == {"Training"}
    assert (len(faces), origin.unlabelled) == (7, 14)


def test_a_relative_source_is_found_from_the_folder_of_an_experiment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[..., Pin],
    data: DataParams,
    fetcher: Fetcher,
) -> None:
    """`dvc exp run --temp` has there what git knows, and the data are not part of that."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write(CSV, Path("data/fer.csv"))
    pin = take("data/fer.csv")
    own = read_pinned(pin, data, fetcher)[1]
    experiment = tmp_path / ".dvc/tmp/exps/standalone/tmpab12"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    faces, origin = read_pinned(pin, data, fetcher)
    assert_same_faces(faces, FACES)
    assert origin == own
    assert upstream_moved(pin.source) == ""
    write(OTHER_CSV, tmp_path / "data/fer.csv")
    assert "data/fer.csv has changed since it was pinned" in refusal(
        lambda: read_pinned(pin, data, fetcher)
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder(pictures_by_folder(FACES), tmp_path / "pictures")


def test_a_folder_is_pinned_and_read_back(
    pictures: Path, take: Callable[..., Pin], data: DataParams, fetcher: Fetcher
) -> None:
    pin = take(pictures)
    assert pin.source.size == sum(map(len, pictures_by_folder(FACES).values()))
    assert take(pictures) == pin
    faces, origin = read_pinned(pin, data, fetcher)
    assert len(faces) == 21
    assert profile_of(faces, "fer") == pin.profile == profile_of(FACES, "fer")
    assert origin.edition == "pictures in folders"


def move(pictures: Path) -> None:
    """To another class."""
    first = min(pictures.rglob("*/6/*.png"))
    first.rename(first.parents[1] / "Angry" / first.name)


def add(pictures: Path) -> None:
    first = min(pictures.rglob("*.png"))
    first.with_name("copy.png").write_bytes(first.read_bytes())


def change(pictures: Path) -> None:
    first, second, *_ = sorted(pictures.rglob("*.png"))
    first.write_bytes(second.read_bytes())


@pytest.mark.parametrize("edit", [move, add, change])
def test_a_folder_that_changed_since_it_was_pinned_is_refused(
    edit: Callable[[Path], None],
    pictures: Path,
    take: Callable[..., Pin],
    data: DataParams,
    fetcher: Fetcher,
) -> None:
    pin = take(pictures)
    assert upstream_moved(pin.source) == ""
    edit(pictures)
    message = refusal(lambda: read_pinned(pin, data, fetcher))
    assert message.startswith(f"{pictures} has changed since it was pinned (sha256 ")
    assert upstream_moved(pin.source) in message
