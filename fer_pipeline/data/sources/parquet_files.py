"""FER2013 as parquet: raw pixels or encoded images, one file or the shards of a data set hub.

What its columns hold is told in `tables`. A label may also be a number whose names the file's own
metadata lists; the split may also be in the name of the shard (`test-00000-of-00001`) or of a
folder above it (`test/0000`).
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.sources.containers import MAX_BYTES, MAX_MEMBERS, Container
from fer_pipeline.data.sources.tables import find_columns, read_images
from fer_pipeline.data.sources.vocabulary import (
    read_emotions,
    read_usages,
    usage_above,
    usage_named,
)
from fer_pipeline.errors import DataError, one_line


def read_parquet(container: Container, name: str) -> tuple[Faces, int, bool]:
    """Read the faces of one parquet file.

    Returns:
        The faces, how many of them had another size than 48x48, and whether the file says which
        split they belong to (else all are Training).

    Raises:
        DataError: no such parquet, a missing column, or a row that is no labelled face.
    """
    where = container.where(name)
    table = _open(container, name)
    columns = find_columns(tuple(table.column_names), where)
    if columns.image is None or columns.emotion is None:
        missing = "image" if columns.image is None else "emotion"
        seen = ", ".join(repr(name[:40]) for name in columns.names[:6]) or "none"
        raise DataError(
            f"{where} has no column '{missing}' (its columns: {seen}): is it FER2013 as parquet?"
        )
    classes = _class_names(table.schema, columns.emotion, where)
    labels = [_class_name(value, classes) for value in table[columns.emotion].to_pylist()]
    emotion = read_emotions(labels, where)
    if columns.usage is None:
        usage = _usage_of_shard(PurePosixPath(name))
        usages = np.full(len(emotion), usage or "Training")
    else:
        usage, usages = columns.usage, read_usages(table[columns.usage].to_pylist(), where)
    pixels, resized = read_images(table[columns.image].combine_chunks(), where)
    return Faces(pixels, emotion, usages), resized, usage is not None


def _open(container: Container, name: str) -> pa.Table:
    where = container.where(name)
    try:
        with pq.ParquetFile(pa.BufferReader(container.read(name))) as file:
            about = file.metadata
            unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            if about.num_rows > MAX_MEMBERS or unpacked > MAX_BYTES:
                raise DataError(
                    f"{where} has {about.num_rows:,} rows that unpack to {unpacked:,} bytes, "
                    f"which FER2013 never does"
                )
            table = file.read()
        table.validate(full=True)  # for text that is no UTF-8
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise DataError(f"{where} is not a whole parquet file: {reason}") from error


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


def _class_name(value: object, class_names: list[str] | None) -> object:
    if class_names is None or not isinstance(value, int):
        return value
    return class_names[value] if 0 <= value < len(class_names) else f"{value}, without a name"


def _usage_of_shard(path: PurePosixPath) -> str | None:
    words = re.split(r"[^A-Za-z]+", path.stem)
    own = next((usage for word in words if (usage := usage_named(word))), None)
    return own or usage_above(path.parent)
