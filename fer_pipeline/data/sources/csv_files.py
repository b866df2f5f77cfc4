"""FER2013 as csv: `fer2013.csv`, `icml_face_data.csv`, and the challenge's `train.csv`, `test.csv`.

They differ in the order and spelling of their columns: emotion, Usage, and pixels, which holds
2,304 numbers with spaces between them. A file is read in blocks, so that memory stays far below
its size as Python objects. A block that is not written as the known editions are is gone through
row by row, to read it all the same or to name the row and the value.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fer_pipeline.data.faces import SIDE, Faces, UInt8Array
from fer_pipeline.data.sources.containers import Container
from fer_pipeline.data.sources.vocabulary import read_emotions, read_usages
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError

BLOCK_BYTES = 8 << 20
PARSERS = 2
"""Threads that parse blocks; reading the file takes the rest of two cores."""

_OTHER_COLUMNS = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")

_COLUMNS = {
    "emotion": "emotion",
    "label": "emotion",
    "pixels": "pixels",
    "usage": "usage",
    "split": "usage",
}
"""What columns are called, as they are spelt."""

CsvKind = Literal["complete", "labelled", "unlabelled", "other"]


@dataclass(frozen=True)
class Header:
    """A csv's columns as they are spelt in it; None where there is no such column."""

    names: tuple[str, ...]
    emotion: str | None
    pixels: str | None
    usage: str | None

    @property
    def kind(self) -> CsvKind:
        """`complete` has labels and splits, `labelled` labels, `unlabelled` pixels alone."""
        if self.pixels is None:
            return "other"
        if self.emotion is None:
            return "unlabelled"
        return "complete" if self.usage else "labelled"


def read_header(stream: BinaryIO, where: str) -> Header:
    """The columns that a file's first line names.

    Raises:
        DataError: the first line is not text in UTF-8, or names a column twice.
    """
    line = stream.readline(1 << 16)
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{where} is no csv in UTF-8: its first line can't be decoded") from None
    if text.lstrip().lower().startswith(("<!doctype", "<html", "<?xml")):
        raise DataError(f"{where} is a web page, not data: was it the answer to a sign-in?")
    try:
        names = tuple(next(csv.reader([text.rstrip("\r\n")]), []))
    except csv.Error as error:
        raise DataError(f"{where} is no csv: its first line can't be read ({error})") from None
    places: dict[str, str | None] = dict.fromkeys(("emotion", "pixels", "usage"))
    for name in names:
        key = _COLUMNS.get(name.strip().lower())
        if key is None:
            continue
        if places[key] is not None:
            raise DataError(f"{where} has two columns for {key!r}: {places[key]!r} and {name!r}")
        places[key] = name
    return Header(names, **places)


def read_csv(container: Container, name: str) -> Faces:
    """Read the faces of a csv with labels; without a Usage column all of them are Training.

    Raises:
        DataError: a row that is no labelled face; the message gives file, row (counted from 1,
            without the header) and value.
    """
    where = container.where(name)
    with container.open(name) as stream:
        header = read_header(stream, where)
    parts = list(_parse_all(_blocks(container, name, header), header, where))
    if not parts:
        raise DataError(f"{where} has a header and no rows: is the file cut off?")
    return Faces.joined(parts)


def count_rows(container: Container, name: str) -> int:
    """How many rows a csv has, whatever is in them."""
    with container.open(name) as stream:
        header = read_header(stream, container.where(name))
    return sum(batch.num_rows for _, batch in _blocks(container, name, header))


def _blocks(
    container: Container, name: str, header: Header
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some rows at a time as text, and the number of the first one."""
    where = container.where(name)
    wanted = [column for column in (header.emotion, header.pixels, header.usage) if column]
    first_row = 1
    try:
        with (
            container.open(name) as stream,
            pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted
                ),
            ) as reader,
        ):
            for batch in reader:
                yield first_row, batch
                first_row += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(_fault(" ".join(str(error).split()), where, first_row)) from error


def _fault(reason: str, where: str, first_row: int) -> str:
    """Arrow's words in ours; it counts the header as a row."""
    found = _OTHER_COLUMNS.match(reason)
    if found is None:
        return f"{where}, after row {first_row - 1}: {reason[:200]}"
    row, expected, actual = map(int, found.groups())
    return f"{where}, row {row - 1}: {actual} columns, not {expected}: is the file cut off?"


def _parse_all(
    blocks: Iterator[tuple[int, pa.RecordBatch]], header: Header, where: str
) -> Iterator[Faces]:
    """Parse in threads, in order, with no more than a few blocks waiting."""
    with ThreadPoolExecutor(PARSERS) as pool:
        waiting: deque[Future[Faces]] = deque()
        for first_row, batch in blocks:
            waiting.append(pool.submit(_parse, batch, header, where, first_row))
            if len(waiting) > 2 * PARSERS:
                yield waiting.popleft().result()
        yield from (one.result() for one in waiting)


def _parse(batch: pa.RecordBatch, header: Header, where: str, first_row: int) -> Faces:
    usages = np.full(batch.num_rows, "Training")
    if header.usage is not None:
        usages = read_usages(batch.column(header.usage).to_pylist(), where, first_row)
    return Faces(
        parse_pixels(batch.column(header.pixels), where, first_row),
        read_emotions(batch.column(header.emotion).to_pylist(), where, first_row),
        usages,
    )


def parse_pixels(texts: pa.StringArray, where: str, first_row: int) -> UInt8Array:
    """(N, 48, 48) pixels of N rows of text.

    Args:
        texts: N rows of 2,304 numbers from 0 to 255 with spaces between them.
        where: what messages call the file.
        first_row: the number of the first of these rows in it.

    Raises:
        DataError: a row is something else; the message names it and the value.
    """
    words = pc.split_pattern(texts, " ")
    try:
        numbers = pc.cast(words.flatten(), pa.uint8()).to_numpy()
    except pa.ArrowInvalid:
        numbers = np.empty(0, np.uint8)
    lengths = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    # Arrow would take a hexadecimal 0xff for a number.
    hexadecimal = pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py()
    if hexadecimal or len(numbers) != len(texts) * PIXELS or (lengths != PIXELS).any():
        # Further spaces, which are fine, or a fault, which is to be named.
        rows = enumerate(texts.to_pylist(), start=first_row)
        return np.stack([_row_pixels(text, f"{where}, row {row}") for row, text in rows])
    pixels: UInt8Array = numbers.reshape(-1, SIDE, SIDE)
    return pixels


def _row_pixels(text: str | None, where: str) -> UInt8Array:
    """One row's (48, 48) pixels from text, in which spaces may stand as they like.

    Raises:
        DataError: not 2,304 numbers from 0 to 255; the message begins with `where`.
    """
    words = (text or "").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word.lstrip("0")[:4] or "0") <= 255):
            raise DataError(f"{where}: a pixel is {word[:40]!r}, not 0 to 255")
    if len(words) != PIXELS:
        raise DataError(f"{where}: {len(words)} pixels, not {PIXELS}")
    return np.array([word[-3:] for word in words], np.uint8).reshape(SIDE, SIDE)


def no_edition(header: Header, path: Path) -> str:
    """What is wrong with a text file that has none of the columns, in one line."""
    seen = ", ".join(repr(name[:40]) for name in header.names[:6]) or "nothing"
    return (
        f"{path} is no edition of FER2013: its first line has {seen}, where a csv names its "
        f"columns emotion, pixels and Usage, with commas between them"
    )
