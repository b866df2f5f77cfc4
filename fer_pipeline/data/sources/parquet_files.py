"""FER2013 as parquet: raw pixels or encoded images, one file or the shards of a data set hub.

What its columns hold is told in `tables`. A label may also be a number whose names the file's own
metadata lists; the split may also be in the name of the shard (`test-00000-of-00001`) or of a
folder above it (`test/0000`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from fer_pipeline.data.pictures import MAX_FACE_BYTES
from fer_pipeline.data.sources.containers import MAX_MEMBERS, Container
from fer_pipeline.data.sources.tables import Columns, Edition, find_columns, read_faces
from fer_pipeline.data.sources.vocabulary import usage_of_table
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError, one_line

MAX_FILE_BYTES = 1 << 29
"""The largest file that is read: FER2013 with all pixels as 64-bit numbers has a tenth of it."""

MAX_UNPACKED = 1 << 30
"""The largest size of its columns, unpacked, in bytes: by its own account, and if every value of
every list had 64 bits."""

_MOST_SAVED = 100
"""How many times as large a column of many bytes may be as it is packed; images save next to
nothing."""


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
