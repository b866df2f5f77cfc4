"""Parquet by what its columns hold: any of the known forms reads, any fault is named by its row."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from edition_files import (
    HOLDOUT,
    HUB_CLASSES,
    OFFICIAL,
    assert_same_faces,
    csv_rows,
    encode,
    hub_shards,
    hub_table,
    in_order,
    parquet_bytes,
    parquet_columns,
    random_faces,
    refusal,
    write,
    write_folder,
)

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.emotions import EMOTIONS

FACES = random_faces()
COLUMNS = parquet_columns(FACES)
FLAT = FACES.pixels.reshape(21, -1)
ROW = 4
"""The row that the tests spoil, counted from 1."""


def read(content: bytes, path: Path) -> Faces:
    return read_edition(write(content, path), OFFICIAL).faces


def with_image(column: Any) -> bytes:
    return parquet_bytes(COLUMNS | {"image": column})


def spoilt(column: str, value: object) -> bytes:
    values = list(COLUMNS[column])
    values[ROW - 1] = value
    return parquet_bytes(COLUMNS | {column: values})


def spoilt_list(value: Any) -> bytes:
    values = FLAT.tolist()
    values[ROW - 1] = value
    return with_image(values)


@pytest.mark.parametrize(
    "image",
    [
        pa.array(list(FLAT), pa.list_(pa.uint8())),
        pa.array(FLAT.tolist(), pa.list_(pa.float64())),
        pa.array(FACES.pixels.tolist(), pa.list_(pa.list_(pa.uint8()))),
        pa.array([one.tobytes() for one in FACES.pixels], pa.binary(2304)),
        pa.array([f" {row[1]} " for row in csv_rows(FACES)], pa.large_string()),
        pa.chunked_array([COLUMNS["image"][:5], COLUMNS["image"][5:]]),
    ],
    ids=[
        "lists of bytes", "lists of floats", "lists of lists", "fixed raw bytes", "large text",
        "chunks",
    ],
)  # fmt: skip
def test_images_come_in_any_form_of_column(image: Any, tmp_path: Path) -> None:
    assert_same_faces(read(with_image(image), tmp_path / "fer.parquet"), FACES)


@pytest.mark.parametrize(
    ("image", "label", "usage"),
    [("image", "emotion", "Usage"), ("img", "Label", "split"), (" Pixels", "labels", "split")],
)
def test_columns_are_told_by_what_people_call_them(
    image: str, label: str, usage: str, tmp_path: Path
) -> None:
    columns = {
        usage: COLUMNS["Usage"],
        image: COLUMNS["image"],
        label: COLUMNS["emotion"],
        "x": FLAT[:, 0],
    }
    assert_same_faces(read(parquet_bytes(columns), tmp_path / "fer.parquet"), FACES)


@pytest.mark.parametrize("classes", [HUB_CLASSES, HUB_CLASSES[::-1]])
def test_numbers_are_mapped_by_the_names_in_the_files_own_metadata(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    table = hub_table(FACES).append_column("split", pa.array(COLUMNS["Usage"]))
    about = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
    content = parquet_bytes(table.replace_schema_metadata({"huggingface": json.dumps(about)}))
    numbers = np.array(table["label"].to_pylist())
    codes = [0, 1, 2, 3, 6, 4, 5] if classes == HUB_CLASSES else [5, 4, 6, 3, 2, 1, 0]
    wanted = Faces(FACES.pixels, np.array(codes, np.int8)[numbers], FACES.usage)
    assert_same_faces(read(content, tmp_path / "fer.parquet"), wanted)


@pytest.mark.parametrize(
    "about",
    [
        b"{", b"null", b'{"info": {"features": {"emotion": {}}}}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_metadata_without_names_leave_fer2013s_own_numbers(about: bytes, tmp_path: Path) -> None:
    table = pa.table(COLUMNS).replace_schema_metadata({b"huggingface": about})
    assert_same_faces(read(parquet_bytes(table), tmp_path / "fer.parquet"), FACES)


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-{}", "data/validation-{}", "data/test-{}"),
        ("default/train/{}", "default/validation/{}", "default/test/{}"),
        ("train_{}", "val_{}", "test_{}"),
    ],
)
def test_a_shards_name_or_its_folders_says_its_split(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    edition = read_edition(write_folder(hub_shards(FACES, names), tmp_path / "hub"), OFFICIAL)
    assert edition.split_known
    assert_same_faces(in_order(edition.faces), in_order(FACES))


def test_shards_without_splits_are_training_to_hold_out_from(tmp_path: Path) -> None:
    files = hub_shards(FACES, ("part-a-{}", "part-b-{}", "part-c-{}"))
    path = write_folder(files, tmp_path / "hub")
    edition = read_edition(path, HOLDOUT)
    assert not edition.split_known
    assert set(edition.faces.usage) == {"Training"}
    write_folder(hub_shards(random_faces(1)), path)
    assert "names no split" in refusal(path, names=path / "part-a-00000-of-00002.parquet")


def test_pictures_of_another_size_are_counted(tmp_path: Path) -> None:
    large = [encode(np.kron(one, np.ones((2, 2), np.uint8))) for one in FACES.pixels[:3]]
    content = with_image(large + COLUMNS["image"][3:])
    edition = read_edition(write(content, tmp_path / "fer.parquet"), OFFICIAL)
    assert edition.resized == 3
    assert_same_faces(edition.faces, FACES)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (spoilt("emotion", 7), "emotion is 7, not 0 to 6 or its name"),
        (spoilt("Usage", "Holdout"), "Usage is 'Holdout', not Training, PublicTest or"),
        (spoilt("image", encode(np.zeros((48, 47), np.uint8))), "picture is 47x48: only squares"),
        (spoilt("image", b"no image at all"), "picture can't be read: unknown format"),
        (spoilt("image", None), "picture can't be read"),
        (spoilt_list([1, 2, 3]), "3 pixels, not 2304"),
        (spoilt_list(None), "0 pixels, not 2304"),
        (spoilt_list([0] * 2303 + [-1]), "a pixel is -1, not 0 to 255"),
        (spoilt_list([None] * 2304), "a pixel is nan, not 0 to 255"),
        (with_image([["0"] * 2304] * 3 + [["grey"] * 2304] * 18), "the pixels are no numbers"),
        (
            with_image([row[1] for row in csv_rows(FACES)[:3]] + ["0x1 " * 2304] * 18),
            "a pixel is '0x1', not 0 to 255",
        ),
    ],
    ids=[
        "label 7", "unknown split", "47x48", "text for an image", "no image", "three numbers",
        "no list", "-1", "a list of nothing", "words in a list", "a number to another base",
    ],
)  # fmt: skip
def test_a_corrupt_parquet_value_is_refused_with_its_row(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = write(content, tmp_path / "fer.parquet")
    assert refusal(path).startswith(f"{path}, row {ROW}: {says}")


def without(column: str) -> dict[str, Any]:
    return {name: values for name, values in COLUMNS.items() if name != column}


def twice(column: str) -> pa.Table:
    table = pa.table(COLUMNS)
    return table.append_column(column, table[column])


def not_utf8(column: str) -> bytes:
    damaged = pa.Array.from_buffers(
        pa.string(), 21, [None, *pa.array([b"\xff\xfe"] * 21, pa.binary()).buffers()[1:]]
    )
    return parquet_bytes(COLUMNS | {column: damaged})


CORRUPT: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "no image": (lambda: parquet_bytes(without("image")), ["no column 'image'", "'emotion', 'Us"]),
    "no split": (lambda: parquet_bytes(without("Usage")), ["no face in PublicTest", "no splits"]),
    "images twice": (lambda: parquet_bytes(twice("image")), ["2 columns for 'image'"]),
    "numbers for images": (lambda: with_image(list(range(21))), ["'image' holds int64, not"]),
    "names that are no list": (
        lambda: parquet_bytes(
            pa.table(COLUMNS).replace_schema_metadata(
                {"huggingface": json.dumps({"info": {"features": {"emotion": {"names": {}}}}})}
            )
        ),
        ["names of 'emotion' are no list"],
    ),
    "ragged lists": (lambda: with_image([[[1, 2], [3]]] * 21), ["row 1: the pixels are no "]),
    "pixels not UTF-8": (lambda: not_utf8("image"), ["is not a whole parquet file", "UTF8"]),
    "cut off": (lambda: parquet_bytes(COLUMNS)[:-20], ["is not a whole parquet file"]),
}  # fmt: skip


@pytest.mark.parametrize(("build", "says"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_parquet_is_refused(
    build: Callable[[], bytes], says: list[str], tmp_path: Path
) -> None:
    message = refusal(write(build(), tmp_path / "fer.parquet"))
    for words in says:
        assert words in message


def test_names_beside_numbers_say_what_they_mean(tmp_path: Path) -> None:
    """Whatever column has them; what contradicts them is refused."""
    alphabetical = [sorted(EMOTIONS).index(EMOTIONS[code]) for code in COLUMNS["emotion"]]
    names = [EMOTIONS[code].title() for code in COLUMNS["emotion"]]
    path = tmp_path / "fer.parquet"
    for columns in (
        {"emotion": alphabetical, "emotion_name": names},
        {"emotion": names, "label": alphabetical},
        {"emotion": COLUMNS["emotion"], "emotion_name": names},
    ):
        assert_same_faces(read(parquet_bytes(without("emotion") | columns), path), FACES)
    wrong = [*alphabetical[:-1], (alphabetical[-1] + 1) % 7]
    write(parquet_bytes(COLUMNS | {"emotion": wrong, "emotion_name": names}), path)
    assert "columns emotion_name and emotion contradict each other" in refusal(path)
    numbers = {"emotion": COLUMNS["emotion"], "label": alphabetical}
    assert "columns emotion and label contradict" in refusal(
        write(parquet_bytes(without("emotion") | numbers), path)
    )
    table = hub_table(FACES).append_column("emotion", pa.array([*names[1:], names[0]]))
    assert "columns label and emotion contradict" in refusal(write(parquet_bytes(table), path))


def test_shards_with_names_for_numbers_beside_one_without_are_refused(tmp_path: Path) -> None:
    files = hub_shards(FACES)
    first = min(name for name in files if name.endswith(".parquet"))
    table = hub_table(FACES.select(FACES.usage == "PrivateTest"))
    files[first] = parquet_bytes(table.replace_schema_metadata(None))
    path = write_folder(files, tmp_path / "hub")
    assert "has labels by number, without their names" in refusal(path, names=path / first)


def test_a_label_beyond_the_names_in_the_metadata_is_refused(tmp_path: Path) -> None:
    table = hub_table(FACES, HUB_CLASSES[:6])
    row = table["label"].to_pylist().index(6) + 1
    message = refusal(write(parquet_bytes(table), tmp_path / "train.parquet"))
    assert f"row {row}: emotion is '6, without a name'" in message


def once(value: bytes, rows: int) -> pa.Array:
    """A column of the same value, which parquet stores once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [value])


def zeros(in_each: int, rows: int) -> pa.Array:
    """Lists of zeros, which take next to no place in a file."""
    offsets = np.arange(rows + 1, dtype=np.int32) * in_each
    return pa.ListArray.from_arrays(offsets, np.zeros(in_each * rows, np.uint8))


BOMBS: dict[str, tuple[int, Callable[[], pa.Array], str]] = {
    "many numbers": (4, lambda: zeros(1 << 20, 4), "has 4,194,304 values"),
    "many rows": (500_000, lambda: once(bytes(2304), 500_000), "has 500,000 rows"),
    "large values": (21, lambda: once(bytes(64 << 20), 21), "21 values that unpack to 67,108,"),
}


@pytest.mark.parametrize(("rows", "build", "says"), BOMBS.values(), ids=BOMBS.keys())
def test_a_small_parquet_that_unpacks_to_much_is_refused_before_it_takes_memory(
    rows: int, build: Callable[[], pa.Array], says: str, tmp_path: Path
) -> None:
    table = pa.table({"image": build(), "emotion": np.zeros(rows, np.int8)})
    content = parquet_bytes(table, compression="zstd", store_schema=False)
    assert len(content) < 200_000
    path = write(content, tmp_path / "train.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert says in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
