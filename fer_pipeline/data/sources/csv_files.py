"""FER2013 as csv: `fer2013.csv`, `icml_face_data.csv`, and the challenge's `train.csv`, `test.csv`.

They differ in the order and spelling of their columns: emotion, Usage, and pixels, which holds
2,304 numbers with spaces between them. A file is read in blocks, so that memory stays far below
its size as Python objects.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.csv

from fer_pipeline.data.sources.containers import Container
from fer_pipeline.data.sources.tables import Columns, Edition, find_columns, read_faces
from fer_pipeline.data.sources.vocabulary import usage_of_table
from fer_pipeline.errors import DataError

BLOCK_BYTES = 8 << 20

_OTHER_COLUMNS = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")

CsvKind = Literal["complete", "labelled", "unlabelled", "other"]


def csv_kind(columns: Columns) -> CsvKind:
    """`complete` has labels and splits, `labelled` labels, `unlabelled` pixels alone."""
    if not columns.images:
        return "other"
    if not columns.labels:
        return "unlabelled"
    return "complete" if columns.usage else "labelled"


def read_header(stream: BinaryIO, where: str) -> Columns:
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
    return find_columns(names, where, images=("pixels",))


def read_csv(container: Container, name: str) -> Edition:
    """Read the faces of a csv with labels; without a column of splits its name says theirs.

    Raises:
        DataError: a row that is no labelled face; the message gives file, row (counted from 1,
            without the header) and value.
    """
    where = container.where(name)
    with container.open(name) as stream:
        header = read_header(stream, where)
    blocks = read_blocks(container, name, header)
    tables = ((first_row, pa.Table.from_batches([rows])) for first_row, rows in blocks)
    return read_faces(tables, header, where, {}, usage_of_table(name))


def count_rows(container: Container, name: str) -> int:
    """How many rows a csv has, whatever is in them."""
    with container.open(name) as stream:
        header = read_header(stream, container.where(name))
    return sum(rows.num_rows for _, rows in read_blocks(container, name, header))


def read_blocks(
    container: Container, name: str, header: Columns
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some rows at a time as text, in the columns that are known, and the number of the first.

    Raises:
        DataError: the file is cut off, or no csv.
    """
    where = container.where(name)
    first_row, wanted = 1, [*header.texts, *header.images]
    try:
        with (
            container.open(name) as stream,
            pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(wanted, pa.string()),
                    include_columns=wanted,
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


def no_edition(header: Columns, path: Path) -> str:
    """What is wrong with a text file that has none of the columns, in one line."""
    seen = ", ".join(repr(name[:40]) for name in header.names[:6]) or "nothing"
    return (
        f"{path} is no edition of FER2013: its first line has {seen}, where a csv names its "
        f"columns emotion, pixels and Usage, with commas between them"
    )
