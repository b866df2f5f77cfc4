"""Every csv that people have reads as it is written; each that is wrong is refused by its row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edition_files import (
    assert_same_faces,
    csv_bytes,
    csv_rows,
    fer2013_csv,
    icml_csv,
    only,
    random_faces,
    refusal,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.sources import table_files
from fer_pipeline.data.sources.containers import open_container
from fer_pipeline.data.sources.table_files import read_csv

FACES = random_faces()
ROWS = csv_rows(FACES)
HEADER = ("emotion", "pixels", "Usage")
ROW = 4
"""The row that the tests spoil, counted from 1."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example of a property writes anew."""
    return tmp_path_factory.mktemp("csv") / "fer.csv"


def read(content: bytes, path: Path) -> Faces:
    with open_container(write(content, path)) as container:
        return read_csv(container, container.names[0]).faces


def spoilt(column: int, value: str, row: int = ROW) -> list[list[str]]:
    """The rows with one value replaced."""
    rows = [list(one) for one in ROWS]
    rows[row - 1][column] = value
    return rows


def pixels_with(place: int, word: str) -> str:
    """The spoilt row's pixels with the number at `place` replaced."""
    words = ROWS[ROW - 1][1].split()
    words[place] = word
    return " ".join(words)


def as_list(numbers: str) -> str:
    return f'"{list(map(int, numbers.split()))}"'


def one_column_each() -> str:
    return ",".join(f"pixel{place}" for place in range(2304))


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text.rstrip("\n"),
        lambda text: text.replace(" ", "   ").replace("\n0,", "\n0, 00"),
        lambda text: "\n".join(f'"{line}"'.replace(",", '","') for line in text.split("\n")[:-1]),
        lambda text: text + "\n\n",
        lambda text: text.replace("emotion,pixels,Usage", '"Emotion", PIXELS ,usage'),
        lambda text: text.replace(",Training", ", training "),
        lambda text: text.replace("\n3,", "\nhappiness,"),
        lambda text: re.sub(r"^(\d)", r"\1.0", text, flags=re.MULTILINE),
        lambda text: re.sub(r"(\d[\d ]{99,})", lambda row: as_list(row[1]), text),
        lambda text: re.sub(r"(\d[\d ]{99,})", lambda row: f"[{row[1]}]", text),
        lambda text: re.sub(r"(\d+)(?= |,[PT])", r"\1.0", text),
        lambda text: text.replace("pixels", one_column_each()).replace(" ", ","),
    ],
    ids=[
        "windows lines", "byte order mark, no last newline", "more spaces and zeros", "quotes",
        "blank lines at the end", "columns in other spellings", "spaces round a split",
        "labels by name", "labels as 3.0", "pixels as a list", "pixels as an array of NumPy",
        "pixels as 3.0", "a column for each pixel",
    ],
)  # fmt: skip
def test_a_csv_may_come_from_any_system(rewrite: Callable[[str], str], tmp_path: Path) -> None:
    text = rewrite(only(fer2013_csv(FACES)).decode())
    assert_same_faces(read(text.encode(), tmp_path / "fer.csv"), FACES)


def test_a_csv_may_have_further_columns(tmp_path: Path) -> None:
    rows = [["x", *row, "caf\u00e9"] for row in ROWS]
    content = csv_bytes(rows, ("note", *HEADER, "note"))
    assert_same_faces(read(content, tmp_path / "fer.csv"), FACES)


HOSTILE_WORDS = (
    "", "-1", "256", "300", "999", "1.5", "nan", "NaN", "inf", "1e2", "٣", "²", "+5", "1_0",
    "0x10", "0X1F", "9" * 30, "9" * 5000, "0" * 30 + "256", "-0", "grey", "0b1", "1\x00",
)  # fmt: skip


@given(
    word=st.sampled_from(HOSTILE_WORDS)
    | st.text("0123456789.-+eExXnaif_٣²:;'", max_size=6)
    | st.integers(0, 400).map(str)
    | st.tuples(st.integers(1, 12), st.integers(0, 300)).map(lambda one: f"{one[1]:0{one[0]}}"),
    place=st.sampled_from([0, 1, 1000, 2302, 2303]),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_a_pixel_is_plain_digits_from_0_to_255_or_refused(
    scratch: Path, word: str, place: int
) -> None:
    content = csv_bytes(spoilt(1, pixels_with(place, word)))
    whole = re.sub(r"(\d)\.0+$", r"\1", word)
    number = int(whole[-18:]) if re.fullmatch(r"[+-]?\d+", whole, re.ASCII) else None
    if number is not None and 0 <= number <= 255:
        wanted = FACES.pixels.copy()
        wanted[ROW - 1, place // 48, place % 48] = int(whole)
        np.testing.assert_array_equal(read(content, scratch).pixels, wanted)
        return
    message = refusal(write(content, scratch))
    says = "a pixel is " if word.strip() else "2303 pixels, not 2304"
    assert message.startswith(f"{scratch}, row {ROW}: {says}")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (0, "7", "emotion is '7', not 0 to 6 or its name"),
        (2, "Holdout", "Usage is 'Holdout', not Training, PublicTest or PrivateTest"),
        (1, pixels_with(7, ""), "2303 pixels, not 2304"),
        (1, pixels_with(7, "1 2"), "2305 pixels, not 2304"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_corrupt_csv_value_is_refused_with_its_row(
    column: int, value: str, says: str, tmp_path: Path
) -> None:
    path = write(csv_bytes(spoilt(column, value)), tmp_path / "fer.csv")
    assert refusal(path).startswith(f"{path}, row {ROW}: {says}")


def with_lines(change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The csv with its lines changed; line 0 is the header, so line 9 is row 9."""
    return b"".join(change(csv_bytes(ROWS).splitlines(keepends=True)))


def with_line(number: int, line: bytes) -> bytes:
    return with_lines(lambda lines: [*lines[:number], line, *lines[number + 1 :]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["is empty (0 bytes)"]),
        (b"<!DOCTYPE html>\n<html><body>Sign in, please</body></html>\n", ["a web page"]),
        (b'{"error": "not found"}', ["is no edition of FER2013"]),
        (b"emotion,pixels,Usage\n", ["no row"]),
        (b"emotion,pixels,Usage", ["Empty CSV"]),
        (csv_bytes(ROWS).decode().encode("utf-16"), ["UTF-8", "first line"]),
        (csv_bytes(spoilt(2, "Entra\u00eenement")).decode().encode("latin-1"), ["UTF8"]),
        (csv_bytes(ROWS).replace(b"\n", b"\r"), ["first line"]),
        (b"\x89PNG\r\n\x1a\n", ["no csv in UTF-8", "nor a folder of pictures"]),
        (csv_bytes(ROWS).replace(b",", b";"), ["is no edition of FER2013"]),
        (csv_bytes([[*row, row[0]] for row in ROWS], (*HEADER, "Emotion")), ["2 columns", "'Em"]),
        (csv_bytes(ROWS, ("emotion", "image", "Usage")), ["is no edition of FER2013"]),
        (csv_bytes(ROWS, ("class", "pixels", "Usage")), ["no labels"]),
        (csv_bytes(ROWS, ("emotion", "pixels", "part")), ["no face in PublicTest", "holdout"]),
        (with_line(9, b"0,1,2,3\n"), ["row 9: 4 columns, not 3"]),
        (with_lines(lambda lines: [*lines[:-1], lines[-1][:900]]), ["row 21", "2 columns, not 3"]),
        (with_lines(lambda lines: lines[:-1]), ["no ", "face in PrivateTest"]),
        (with_lines(lambda lines: [*lines[:9], lines[0], *lines[9:]]), ["row 9", "'pixels'"]),
    ],
    ids=[
        "0 bytes", "HTML", "JSON", "header only", "header without newline", "UTF-16",
        "Latin-1 in a row", "old Mac lines", "a picture", "semicolons", "emotion twice",
        "no pixels", "no emotion", "no Usage", "too many columns", "cut inside the pixels",
        "a class cut off", "the header again",
    ],
)  # fmt: skip
def test_a_corrupt_csv_is_refused_by_its_name(
    content: bytes, says: list[str], tmp_path: Path
) -> None:
    message = refusal(write(content, tmp_path / "fer.csv"))
    for words in says:
        assert words in message


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["3", "1 2 3"], "2 columns, not 3"),
        (["3", "1 2 3", "Training"], "3 pixels, not 2304"),
        (["9", ROWS[0][1], "Training"], "emotion is '9'"),
    ],
)
def test_a_row_far_into_a_file_is_named_by_its_number(
    row: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 20_000)  # two rows
    content = csv_bytes([*ROWS[:16], row, *ROWS[16:]])
    message = refusal(write(content, tmp_path / "fer"))
    assert f", row 17: {says}" in message


def test_faces_in_many_blocks_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 10_000)
    blank_end = only(icml_csv(FACES)) + b"\n" * 25_000  # blocks without a row in them
    assert_same_faces(read(blank_end, tmp_path / "fer.csv"), FACES)


def test_a_row_longer_than_a_block_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 9_500)
    rows = spoilt(1, ROWS[0][1] + " " * 30_000, row=11)
    assert "after row" in refusal(write(csv_bytes(rows), tmp_path / "fer.csv"))
