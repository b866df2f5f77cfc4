"""A source is read as it was pinned, or not at all; what is wrong is said with what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_pipeline.data.faces import USAGES
from fer_pipeline.data.sample import SAMPLE_VERSION
from fer_pipeline.data.sources import Pin, read_pin, read_source, resolve, write_pin
from fer_pipeline.errors import DataError
from fer_pipeline.params import DataParams, Params, SampleParams

GREYS = (10, 20, 30)


def write_csv(path: Path, greys: tuple[int, int, int] = GREYS) -> Path:
    """Three plain images, one per split."""
    rows = [
        f"{code},{' '.join([str(grey)] * 2304)},{usage}\n"
        for code, (grey, usage) in enumerate(zip(greys, USAGES, strict=True))
    ]
    path.write_text("emotion,pixels,Usage\n" + "".join(rows))
    return path


def write_parquet(path: Path) -> Path:
    """The same as parquet."""
    images = []
    for grey in GREYS:
        Image.new("L", (48, 48), grey).save(path, "PNG")
        images.append(path.read_bytes())
    pq.write_table(pa.table({"emotion": [0, 1, 2], "Usage": USAGES, "image": images}), path)
    return path


def naming(source: Path | str, params: Params) -> DataParams:
    """The committed data section with another source, and the smallest sample."""
    sample = SampleParams(train=7, val=7, test=7, seed=0)
    return params.data.model_copy(update={"source": str(source), "sample": sample})


def test_the_sample_is_known_by_its_version() -> None:
    assert resolve("sample") == Pin("sample", SAMPLE_VERSION, "")


def test_a_file_is_known_by_its_sha256(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer.csv")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolve(str(path)) == Pin(str(path), "", digest)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("missing.csv", "missing.csv is missing: set data.source to 'sample' or to a file"),
        ("folder", "folder is a folder: set data.source to a csv or parquet file"),
        ("empty.csv", "empty.csv is empty (0 bytes): fetch it again"),
        ("s3://faces/fer.csv", "data.source is s3://faces/fer.csv: only 'sample' and local files"),
        ("https://x.org/fer.csv", "data.source is https://x.org/fer.csv: only 'sample' and local"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_what_to_do(
    uri: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty.csv").touch()
    for attempt in (lambda: resolve(uri), lambda: read_source(naming(uri, params), None)):
        with pytest.raises(DataError) as refused:
            attempt()
        assert str(refused.value).startswith(says)


def test_the_sample_is_drawn_as_the_params_say(params: Params) -> None:
    faces, origin = read_source(naming("sample", params), resolve("sample"))
    assert [(faces.usage == usage).sum() for usage in USAGES] == [7, 7, 7]
    assert (origin.uri, origin.version, origin.sha256) == ("sample", SAMPLE_VERSION, "")
    assert (origin.pinned, origin.synthetic) == (True, True)


def test_a_file_is_read_with_its_origin(tmp_path: Path, params: Params) -> None:
    path = write_csv(tmp_path / "fer.csv")
    faces, origin = read_source(naming(path, params), resolve(str(path)))
    assert faces.pixels[:, 0, 0].tolist() == list(GREYS)
    assert (origin.uri, origin.version) == (str(path), "")
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (origin.pinned, origin.synthetic) == (True, False)


@pytest.mark.parametrize("name", ["fer.csv", "fer.parquet", "fer"])
def test_csv_and_parquet_are_told_apart_by_content_not_by_name(
    name: str, tmp_path: Path, params: Params
) -> None:
    for write in (write_csv, write_parquet):
        faces, _ = read_source(naming(write(tmp_path / name), params), None)
        np.testing.assert_array_equal(faces.pixels[:, 0, 0], GREYS)
        assert faces.emotion.tolist() == [0, 1, 2]


def test_an_unpinned_source_is_read_and_called_unpinned(tmp_path: Path, params: Params) -> None:
    path = write_csv(tmp_path / "fer.csv")
    for pin in (None, Pin("sample", "0", ""), Pin("elsewhere.csv", "", "ab" * 32)):
        faces, origin = read_source(naming(path, params), pin)
        assert len(faces) == 3
        assert origin.pinned is False


def test_a_file_that_changed_since_it_was_pinned_is_refused(tmp_path: Path, params: Params) -> None:
    path = write_csv(tmp_path / "fer.csv")
    pin = resolve(str(path))
    write_csv(path, greys=(10, 20, 31))
    with pytest.raises(DataError) as refused:
        read_source(naming(path, params), pin)
    assert str(refused.value) == (
        f"{path} has changed since it was pinned "
        f"(sha256 {pin.sha256[:12]}…, now {resolve(str(path)).sha256[:12]}…): "
        f"run 'fer source pin {path}' to accept what it is now"
    )


def test_another_version_of_the_sample_than_the_pinned_one_is_refused(params: Params) -> None:
    with pytest.raises(DataError) as refused:
        read_source(naming("sample", params), Pin("sample", "0", ""))
    assert str(refused.value) == (
        f"sample has changed since it was pinned (version '0', now '{SAMPLE_VERSION}'): "
        "run 'fer source pin sample' to accept what it is now"
    )


def test_a_damaged_file_is_refused_even_if_the_pin_agrees(tmp_path: Path, params: Params) -> None:
    path = tmp_path / "fer.csv"
    path.write_text("<html><body>Sign in</body></html>\n")
    with pytest.raises(DataError, match=r"fer\.csv"):
        read_source(naming(path, params), resolve(str(path)))


@pytest.mark.parametrize("pin", [Pin("sample", "1", ""), Pin("a: b#c.csv", "", "0" * 64)])
def test_a_written_pin_is_read_back(pin: Pin, tmp_path: Path) -> None:
    path = tmp_path / "data" / "source.lock.yaml"
    write_pin(pin, path)
    assert read_pin(path) == pin


def test_no_lock_file_is_no_pin(tmp_path: Path) -> None:
    assert read_pin(tmp_path / "source.lock.yaml") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- sample\n",
        "sample\n",
        "uri: sample\n",
        "uri: sample\nversion: '1'\nsha256: ''\nsize: 3\n",
        "uri: [sample\n",
        "<<<<<<< HEAD\nuri: sample\n=======\nuri: fer.csv\n>>>>>>> other\n",
    ],
    ids=["empty", "list", "text", "keys missing", "key unknown", "broken", "merge conflict"],
)
def test_a_broken_lock_is_refused_with_the_command_that_mends_it(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.lock.yaml"
    path.write_text(content)
    with pytest.raises(DataError) as refused:
        read_pin(path)
    assert str(refused.value).startswith(f"{path} is no source lock (")
    assert str(refused.value).endswith("run 'fer source pin URI'")
    assert "\n" not in str(refused.value)


def test_a_lock_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "source.lock.yaml"
    path.write_bytes(b"uri: gr\xfc\xdfe\nversion: ''\nsha256: ''\n")
    with pytest.raises(DataError, match="is no source lock"):
        read_pin(path)
