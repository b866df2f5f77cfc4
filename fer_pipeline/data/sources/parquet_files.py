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
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from fer_pipeline.data.pictures import MAX_FACE_BYTES
from fer_pipeline.data.sources.containers import MAX_MEMBERS, Container
from fer_pipeline.data.sources.tables import Columns, Part, find_columns, read_rows
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


def read_parquet(container: Container, name: str) -> Part:
    """Read the faces of one parquet file.

    Raises:
        DataError: no such parquet, a missing column, or a row that is no labelled face.
    """
    where = container.where(name)
    content = pa.BufferReader(container.read(name, MAX_FILE_BYTES))
    try:
        columns, table = _open(content, where)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise DataError(f"{where} is not a whole parquet file: {reason}") from error
    classes = {
        label: names
        for label in columns.labels
        if (names := _class_names(table.schema, label, where)) is not None
    }
    part = read_rows(table, columns, where, classes=classes, usage=usage_of_table(name))
    return Part.joined([part], where)


def _open(content: pa.BufferReader, where: str) -> tuple[Columns, pa.Table]:
    with pq.ParquetFile(content) as file:
        _require_sane(file.metadata, where)
        leaves = [file.schema.column(place) for place in range(file.metadata.num_columns)]
    # A value that is stored once for many rows stays one: else a small file would take all memory.
    once = [one.path for one in leaves if one.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(content, read_dictionary=once) as file:
        columns = find_columns(file.schema_arrow.names, where)
        _require(columns, {"image": columns.images, "emotion": columns.labels}, where)
        table = file.read(columns.wanted)
    table.validate(full=True)  # for text that is no UTF-8
    return columns, table


@contextmanager
def open_images(
    content: BinaryIO | pa.BufferReader, where: str
) -> Iterator[tuple[pq.ParquetFile, Columns]]:
    """Open a file of any size to read its images, and say in which columns they are.

    Raises:
        DataError: it is no parquet file, or has no images; also for damage that the block finds.
    """
    try:
        with pq.ParquetFile(content) as file:
            _require_plausible(file.metadata, where)
            columns = find_columns(file.schema_arrow.names, where)
            _require(columns, {"image": columns.images}, where)
            yield file, replace(columns, labels=(), usage=None)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not a whole parquet file: {one_line(error)}") from error


def _require(columns: Columns, wanted: Mapping[str, Sequence[str]], where: str) -> None:
    for key, there in wanted.items():
        if not there:
            seen = ", ".join(repr(name[:40]) for name in columns.names[:6]) or "none"
            raise DataError(
                f"{where} has no column '{key}' (its columns: {seen}): is it FER2013 as parquet?"
            )


def _require_plausible(about: pq.FileMetaData, where: str) -> None:
    """Refuse a small file that would take all memory, by what it says of itself."""
    groups = [about.row_group(place) for place in range(about.num_row_groups)]
    for group in groups:
        for column in (group.column(place) for place in range(group.num_columns)):
            unpacked = column.total_uncompressed_size
            packed_well = unpacked > _MOST_SAVED * column.total_compressed_size
            if column.num_values > 4 * PIXELS * group.num_rows or (
                unpacked > 4 * MAX_FACE_BYTES and packed_well
            ):
                raise DataError(
                    f"{where}: column '{column.path_in_schema}' has {column.num_values:,} values "
                    f"that unpack to {unpacked:,} bytes, which faces never do"
                )


def _require_sane(about: pq.FileMetaData, where: str) -> None:
    """Refuse by what the file says of itself, before anything is unpacked."""
    groups = [about.row_group(place) for place in range(about.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    values = sum(
        group.column(place).num_values for group in groups for place in range(group.num_columns)
    )
    if about.num_rows > MAX_MEMBERS or max(unpacked, 8 * values) > MAX_UNPACKED:
        raise DataError(
            f"{where} has {about.num_rows:,} rows of {values:,} values that unpack to "
            f"{unpacked:,} bytes, which FER2013 never does"
        )


def _class_names(schema: pa.Schema, column: str, where: str) -> list[str] | None:
    """The names of the numbers in a label column, where Hugging Face's metadata lists them."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = stored["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    if isinstance(names, dict):  # its keys are not the names
        raise DataError(f"{where}: the metadata's names of '{column}' are no list")
    return [str(name) for name in names] if isinstance(names, list) else None
