"""FER2013 in files of tables: csv as the challenge gave it out, and parquet.

A csv (`fer2013.csv`, `icml_face_data.csv`, the challenge's `train.csv` and `test.csv`) is read in
blocks, so that memory stays far below its size. Parquet is one file or the shards of a data set
hub; a label there may also be a number whose names the file's own metadata lists. Where no column
says the split, the name of the file (`test-00000-of-00001`) or of a folder above it may.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fer_pipeline.data.pictures import MAX_FACE_BYTES
from fer_pipeline.data.sources.containers import MAX_MEMBERS, Container
from fer_pipeline.data.sources.edition import Edition
from fer_pipeline.data.sources.tables import Columns, find_columns, read_faces
from fer_pipeline.data.sources.vocabulary import usage_of_table
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError, one_line

BLOCK_BYTES = 8 << 20

MAX_FILE_BYTES = 1 << 29
"""The largest file that is read: FER2013 with all pixels as 64-bit numbers has a tenth of it."""

MAX_UNPACKED = 1 << 30
"""The largest size of its columns, unpacked, in bytes: by its own account, and if every value of
every list had 64 bits."""

_MOST_SAVED = 100
"""How many times as large a column of many bytes may be as it is packed; images save next to
nothing."""

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
        raise DataError(
            f"{where} is no csv in UTF-8: its first line can't be decoded, and it is neither a "
            f"parquet file, an archive nor a folder of pictures"
        ) from None
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


def no_edition(header: Columns, path: Path) -> str:
    """What is wrong with a text file that has none of the columns, in one line."""
    seen = ", ".join(repr(name[:40]) for name in header.names[:6]) or "nothing"
    return (
        f"{path} is no edition of FER2013: its first line has {seen}, where a csv names its "
        f"columns emotion, pixels and Usage, with commas between them"
    )


def read_parquet(container: Container, name: str) -> Edition:
    """Read the faces of one parquet file.

    Raises:
        DataError: no such parquet, a missing column, or a row that is no labelled face.
    """
    where = container.where(name)
    content = pa.BufferReader(container.read(name, MAX_FILE_BYTES))
    with _open(content, where) as file:
        _require_whole(file.metadata, where)
        leaves = [file.schema.column(place) for place in range(file.metadata.num_columns)]
    # A value that is stored once for many rows stays one: else a small file would take all memory.
    once = [one.path for one in leaves if one.physical_type == "BYTE_ARRAY"]
    with _open(content, where, read_dictionary=once) as file:
        columns = find_columns(file.schema_arrow.names, where)
        _require(columns, {"image": columns.images, "emotion": columns.labels}, where)
        table = file.read([*columns.texts, *columns.images])
        table.validate(full=True)  # for text that is no UTF-8
    classes = _class_names(table.schema, columns.labels, where)
    return read_faces([(1, table)], columns, where, classes, usage_of_table(name))


@contextmanager
def open_images(
    content: BinaryIO | pa.BufferReader, where: str
) -> Iterator[tuple[pq.ParquetFile, Columns]]:
    """Open a file of any size to read its images, and say in which columns they are.

    Raises:
        DataError: it is no parquet file, or has no images; also for damage that the block finds.
    """
    with _open(content, where) as file:
        columns = find_columns(file.schema_arrow.names, where)
        _require(columns, {"image": columns.images}, where)
        yield file, replace(columns, labels=(), usage=None)


@contextmanager
def _open(
    content: BinaryIO | pa.BufferReader, where: str, **options: Any
) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(content, **options) as file:
            _require_plausible(file.metadata, where)
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not a whole parquet file: {one_line(error)}") from error


def _require(columns: Columns, wanted: Mapping[str, Sequence[str]], where: str) -> None:
    for key, there in wanted.items():
        if not there:
            seen = ", ".join(repr(name[:40]) for name in columns.names[:6]) or "none"
            raise DataError(
                f"{where} has no column '{key}' (its columns: {seen}): is it FER2013 as parquet?"
            )


def _chunks(about: pq.FileMetaData) -> Iterator[tuple[int, pq.ColumnChunkMetaData]]:
    """The columns of each group of rows, and how many rows that has."""
    for group in map(about.row_group, range(about.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            yield group.num_rows, column


def _require_plausible(about: pq.FileMetaData, where: str) -> None:
    """Refuse a small file that would take all memory, by what it says of itself."""
    for rows, column in _chunks(about):
        unpacked = column.total_uncompressed_size
        packed_well = unpacked > _MOST_SAVED * column.total_compressed_size
        many_bytes = unpacked > 4 * MAX_FACE_BYTES and packed_well
        if column.num_values > 4 * PIXELS * rows or many_bytes:
            raise DataError(
                f"{where}: column '{column.path_in_schema}' has {column.num_values:,} values "
                f"that unpack to {unpacked:,} bytes, which faces never do"
            )


def _require_whole(about: pq.FileMetaData, where: str) -> None:
    """Refuse what is too much to be read at once."""
    sizes = [(one.total_uncompressed_size, 8 * one.num_values) for _, one in _chunks(about)]
    unpacked = max((sum(size) for size in zip(*sizes, strict=True)), default=0)
    if about.num_rows > MAX_MEMBERS or unpacked > MAX_UNPACKED:
        raise DataError(
            f"{where} has {about.num_rows:,} rows that unpack to {unpacked:,} bytes, which FER2013 "
            f"never does"
        )


def _class_names(schema: pa.Schema, columns: Sequence[str], where: str) -> dict[str, list[str]]:
    """The names of the numbers in columns of labels, where Hugging Face's metadata lists them."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stored["info"]["features"]
        found = {name: features[name]["names"] for name in columns if name in features}
    except (ValueError, KeyError, TypeError):
        return {}
    for name, names in found.items():
        if not isinstance(names, list):  # the keys of a dictionary are not the names
            raise DataError(f"{where}: the metadata's names of '{name}' are no list")
    return {name: list(map(str, names)) for name, names in found.items()}
