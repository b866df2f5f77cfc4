"""Whatever is wrong with an edition, the reader says which file, which row and which value."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.formats import Origin, read_csv, read_faces, read_parquet, write_faces
from fer_pipeline.errors import DataError

ORIGIN = Origin("some/fer2013.csv", "", "ab" * 32, pinned=True, synthetic=False)
ROW = 4
"""The row that the tests spoil, counted from 1."""


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Nine random images, three per split, with every emotion."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 48, 48), np.uint8)
    return Faces(pixels, np.array([0, 1, 2, 3, 4, 5, 6, 0, 1], np.int8), np.repeat(USAGES, 3))


@pytest.fixture
def rows(faces: Faces) -> list[list[str]]:
    """The faces as fer2013.csv has them: emotion, pixels, Usage; a fresh copy for each test."""
    return [
        [str(emotion), " ".join(map(str, image.ravel())), usage]
        for emotion, image, usage in zip(faces.emotion, faces.pixels, faces.usage, strict=True)
    ]


def write_csv(
    rows: Sequence[Sequence[str]],
    path: Path,
    header: Sequence[str] = ("emotion", "pixels", "Usage"),
) -> Path:
    path.write_text("".join(f"{','.join(row)}\n" for row in (header, *rows)))
    return path


def encode(image: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def columns_of(faces: Faces) -> dict[str, Any]:
    """The faces as the columns of a parquet edition, to be spoilt one at a time."""
    return {
        "emotion": faces.emotion.astype(np.int64).tolist(),
        "Usage": faces.usage.tolist(),
        "image": [encode(image) for image in faces.pixels],
    }


def write_columns(columns: dict[str, Any], path: Path) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def assert_same_faces(found: Faces, wanted: Faces) -> None:
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(found.emotion, wanted.emotion)
    np.testing.assert_array_equal(found.usage, wanted.usage)
    assert (found.pixels.dtype, found.emotion.dtype) == (np.uint8, np.int8)


def test_a_csv_gives_back_the_faces_in_it(
    faces: Faces, rows: list[list[str]], tmp_path: Path
) -> None:
    assert_same_faces(read_csv(write_csv(rows, tmp_path / "fer.csv")), faces)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
    ],
    ids=["windows lines", "byte order mark", "no last newline", "blank lines at the end"],
)
def test_a_csv_may_come_from_any_system(
    rewrite: Callable[[str], str], faces: Faces, rows: list[list[str]], tmp_path: Path
) -> None:
    path = write_csv(rows, tmp_path / "fer.csv")
    path.write_bytes(rewrite(path.read_text()).encode())
    assert_same_faces(read_csv(path), faces)


def test_a_csv_may_have_its_columns_in_another_order_and_further_ones(
    faces: Faces, rows: list[list[str]], tmp_path: Path
) -> None:
    turned = [[usage, "x", pixels, emotion] for emotion, pixels, usage in rows]
    path = write_csv(turned, tmp_path / "fer.csv", ("Usage", "note", "pixels", "emotion"))
    assert_same_faces(read_csv(path), faces)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (0, "7", "emotion is '7', not 0 to 6"),
        (0, "-1", "emotion is '-1', not 0 to 6"),
        (0, "", "emotion is '', not 0 to 6"),
        (0, "3.0", "emotion is '3.0', not 0 to 6"),
        (0, "happy", "emotion is 'happy', not 0 to 6"),
        (2, "Test", "Usage is 'Test', not one of Training, PublicTest, PrivateTest"),
        (2, "", "Usage is '', not one of Training, PublicTest, PrivateTest"),
        (2, "training", "Usage is 'training', not one of Training, PublicTest, PrivateTest"),
        (1, "", "0 pixels, not 2304"),
    ],
)
def test_a_csv_row_with_a_bad_value_is_refused_by_its_number(
    column: int, value: str, says: str, rows: list[list[str]], tmp_path: Path
) -> None:
    rows[ROW - 1][column] = value
    path = write_csv(rows, tmp_path / "fer.csv")
    with pytest.raises(DataError) as refused:
        read_csv(path)
    assert str(refused.value) == f"{path}, row {ROW}: {says}"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda pixels: pixels[:-1], "2303 pixels, not 2304"),
        (lambda pixels: [*pixels, "1"], "2305 pixels, not 2304"),
        (lambda pixels: ["256", *pixels[1:]], "a pixel is 256, not 0 to 255"),
        (lambda pixels: [*pixels[:-1], "-1"], "a pixel is -1, not 0 to 255"),
        (lambda pixels: [*pixels[:-1], "grey"], "a pixel is 'grey', not 0 to 255"),
        (lambda pixels: [*pixels[:-1], "1.5"], "a pixel is '1.5', not 0 to 255"),
        (lambda pixels: [*pixels[:-1], "9" * 30], f"a pixel is '{'9' * 30}', not 0 to 255"),
    ],
    ids=["one too few", "one too many", "256", "-1", "text", "a fraction", "a huge number"],
)
def test_a_csv_row_with_bad_pixels_is_refused_by_its_number(
    spoil: Callable[[list[str]], list[str]], says: str, rows: list[list[str]], tmp_path: Path
) -> None:
    rows[ROW - 1][1] = " ".join(spoil(rows[ROW - 1][1].split()))
    path = write_csv(rows, tmp_path / "fer.csv")
    with pytest.raises(DataError) as refused:
        read_csv(path)
    assert str(refused.value) == f"{path}, row {ROW}: {says}"


@pytest.mark.parametrize("column", ["emotion", "pixels", "Usage"])
def test_a_csv_without_a_column_is_refused_with_the_columns_it_has(
    column: str, rows: list[list[str]], tmp_path: Path
) -> None:
    header = ["other" if name == column else name for name in ("emotion", "pixels", "Usage")]
    path = write_csv(rows, tmp_path / "fer.csv", header)
    with pytest.raises(DataError) as refused:
        read_csv(path)
    seen = ", ".join(map(repr, header))
    assert str(refused.value).startswith(f"{path} has no column '{column}' (it has {seen})")


@pytest.mark.parametrize("usage", USAGES)
def test_a_csv_without_one_of_the_splits_is_refused(
    usage: str, rows: list[list[str]], tmp_path: Path
) -> None:
    path = write_csv([row for row in rows if row[2] != usage], tmp_path / "fer.csv")
    with pytest.raises(DataError) as refused:
        read_csv(path)
    assert str(refused.value) == f"{path} has no row with Usage '{usage}': is the file truncated?"


def test_a_csv_cut_off_inside_a_row_is_refused(rows: list[list[str]], tmp_path: Path) -> None:
    path = write_csv(rows, tmp_path / "fer.csv")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])  # inside the pixels of the last row
    with pytest.raises(DataError, match="Expected 3 columns, got 2") as refused:
        read_csv(path)
    assert str(refused.value).startswith(str(path))
    path.write_bytes(whole[:-4])  # inside its usage
    with pytest.raises(DataError, match=r"row 9: Usage is 'PrivateT'"):
        read_csv(path)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html>\n<html><body>Sign in, please</body></html>\n",
        b"<html></html>",
        b'{"error": "not found"}',
        b"emotion,pixels,Usage\n",
        b"emotion,pixels,Usage",
        b"\n",
        b"emotion,pixels,Usage\n3,\xff\xfe,Training\n",
        np.random.default_rng(3).bytes(3000),
        bytes(3000),
    ],
    ids=[
        "HTML", "short HTML", "JSON", "header only", "header without newline", "newline",
        "not UTF-8", "random bytes", "zeros",
    ],
)  # fmt: skip
def test_what_is_no_csv_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fer.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_csv(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_csv_whose_header_is_not_utf_8_is_refused(rows: list[list[str]], tmp_path: Path) -> None:
    path = write_csv(rows, tmp_path / "fer.csv")
    path.write_bytes(path.read_bytes().replace(b"Usage\n", b"Us\xe4ge\n", 1))
    with pytest.raises(DataError, match=str(path)):
        read_csv(path)


def test_a_csv_with_a_column_twice_is_refused(rows: list[list[str]], tmp_path: Path) -> None:
    twice = [[*row, row[0]] for row in rows]
    path = write_csv(twice, tmp_path / "fer.csv", ("emotion", "pixels", "Usage", "emotion"))
    with pytest.raises(DataError, match="emotion"):
        read_csv(path)


def test_a_parquet_gives_back_the_faces_in_it(faces: Faces, tmp_path: Path) -> None:
    assert_same_faces(
        read_parquet(write_columns(columns_of(faces), tmp_path / "fer.parquet")), faces
    )


def test_a_parquet_may_hold_jpegs_and_colour(faces: Faces, tmp_path: Path) -> None:
    columns = columns_of(faces)
    columns["image"][0] = encode(np.full((48, 48), 77, np.uint8), "JPEG")
    columns["image"][1] = encode(np.full((48, 48, 3), (255, 0, 0), np.uint8))
    found = read_parquet(write_columns(columns, tmp_path / "fer.parquet"))
    np.testing.assert_array_equal(found.pixels[0], np.full((48, 48), 77))
    np.testing.assert_array_equal(found.pixels[1], np.full((48, 48), 76))  # 0.299 of 255


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("emotion", 7, "emotion is 7, not 0 to 6"),
        ("emotion", -1, "emotion is -1, not 0 to 6"),
        ("emotion", None, "emotion is None, not 0 to 6"),
        ("Usage", "Test", "Usage is 'Test', not one of Training, PublicTest, PrivateTest"),
        ("Usage", None, "Usage is None, not one of Training, PublicTest, PrivateTest"),
        ("image", encode(np.zeros((64, 64), np.uint8)), "image is 64x64, not 48x48"),
        ("image", encode(np.zeros((48, 47), np.uint8)), "image is 47x48, not 48x48"),
        ("image", b"no image at all", "image can't be read: cannot identify image file"),
        ("image", b"", "image can't be read: cannot identify image file"),
        ("image", None, "image can't be read: cannot identify image file"),
    ],
)
def test_a_parquet_row_with_a_bad_value_is_refused_by_its_number(
    column: str, value: object, says: str, faces: Faces, tmp_path: Path
) -> None:
    columns = columns_of(faces)
    columns[column][ROW - 1] = value
    path = write_columns(columns, tmp_path / "fer.parquet")
    with pytest.raises(DataError) as refused:
        read_parquet(path)
    assert str(refused.value).startswith(f"{path}, row {ROW}: {says}")


def test_a_cut_off_image_is_refused_wherever_it_ends(faces: Faces, tmp_path: Path) -> None:
    columns = columns_of(faces)
    whole = columns["image"][ROW - 1]
    for end in (1, 8, 20, 60, len(whole) // 2):
        columns["image"][ROW - 1] = whole[:end]
        path = write_columns(columns, tmp_path / "fer.parquet")
        with pytest.raises(DataError, match=f"row {ROW}: image can't be read"):
            read_parquet(path)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_header(width: int, height: int) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size)


@pytest.mark.parametrize(
    "image",
    [
        png_header(30_000, 30_000) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""),
        png_header(48, 48) + png_chunk(b"IDAT", b"x\x9c") + png_chunk(b"I ND", b""),
        png_header(48, 48)[:8] + png_chunk(b"IHDR", b"\0\0"),
    ],
    ids=["900 million pixels", "a chunk that is none", "a short header"],
)
def test_a_parquet_image_that_pil_chokes_on_is_refused_by_its_number(
    image: bytes, faces: Faces, tmp_path: Path
) -> None:
    columns = columns_of(faces)
    columns["image"][ROW - 1] = image
    with pytest.raises(DataError, match=f"row {ROW}"):
        read_parquet(write_columns(columns, tmp_path / "fer.parquet"))


def test_a_parquet_with_raw_pixels_instead_of_images_is_refused(
    faces: Faces, tmp_path: Path
) -> None:
    columns = columns_of(faces) | {"image": faces.pixels.reshape(9, -1).tolist()}
    path = write_columns(columns, tmp_path / "fer.parquet")
    with pytest.raises(DataError, match=r"column 'image' holds list<.*int64>, not encoded images"):
        read_parquet(path)


@pytest.mark.parametrize("column", ["emotion", "Usage", "image"])
def test_a_parquet_without_a_column_is_refused(column: str, faces: Faces, tmp_path: Path) -> None:
    columns = columns_of(faces)
    del columns[column]
    path = write_columns(columns, tmp_path / "fer.parquet")
    with pytest.raises(DataError, match=f"has no column '{column}'") as refused:
        read_parquet(path)
    assert str(refused.value).startswith(str(path))


def test_a_parquet_without_any_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'emotion'"):
        read_parquet(write_columns({}, tmp_path / "fer.parquet"))


@pytest.mark.parametrize("usage", USAGES)
def test_a_parquet_without_one_of_the_splits_is_refused(
    usage: str, faces: Faces, tmp_path: Path
) -> None:
    columns = columns_of(faces.select(faces.usage != usage))
    with pytest.raises(DataError, match=f"no row with Usage '{usage}'"):
        read_parquet(write_columns(columns, tmp_path / "fer.parquet"))


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_off_parquet_is_refused(kept: float, faces: Faces, tmp_path: Path) -> None:
    path = write_columns(columns_of(faces), tmp_path / "fer.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="is not a whole parquet file") as refused:
        read_parquet(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    "origin", [ORIGIN, Origin("sample", "1", "", pinned=False, synthetic=True)]
)
def test_ingested_faces_come_back_with_their_origin(
    origin: Origin, faces: Faces, tmp_path: Path
) -> None:
    write_faces(faces, origin, tmp_path / "faces.parquet")
    found, found_origin = read_faces(tmp_path / "faces.parquet")
    assert_same_faces(found, faces)
    assert found_origin == origin


def test_the_same_faces_give_the_same_bytes(faces: Faces, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_faces(faces, ORIGIN, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_foreign_parquet_is_no_ingested_set(faces: Faces, tmp_path: Path) -> None:
    path = write_columns(columns_of(faces), tmp_path / "faces.parquet")
    with pytest.raises(DataError) as refused:
        read_faces(path)
    assert str(refused.value) == (
        f"{path} is no ingested set of faces: run 'dvc repro --force ingest'"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"emotion,pixels,Usage\n"])
def test_a_damaged_faces_parquet_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole parquet file") as refused:
        read_faces(path)
    assert str(refused.value).startswith(str(path))


def test_faces_without_their_origin_are_no_ingested_set(faces: Faces, tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    write_faces(faces, ORIGIN, path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(DataError, match="no ingested set of faces"):
        read_faces(path)
