"""FER2013 as parquet: raw pixels or encoded images, one file or the shards of a data set hub.

Columns by meaning, not by one name: the image is in `image`, `img` or `pixels`, as encoded bytes,
as a struct with `bytes` (Hugging Face), as 2,304 numbers, or as their text; the label in `emotion`,
`label` or `labels`, as a name, as FER2013's number, or as a number whose names the file's own
metadata lists; the split in `Usage` or `split`, else in the name of the shard
(`test-00000-of-00001`) or of a folder above it (`test/0000`).
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fer_pipeline.data.faces import SIDE, Faces, UInt8Array
from fer_pipeline.data.pictures import decode_picture
from fer_pipeline.data.sources.containers import MAX_BYTES, MAX_MEMBERS, Container
from fer_pipeline.data.sources.csv_files import parse_pixels
from fer_pipeline.data.sources.vocabulary import read_emotions, read_usages, usage_named
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError, one_line

_IMAGE_COLUMNS = ("image", "img", "pixels")
_LABEL_COLUMNS = ("emotion", "label", "labels")
_USAGE_COLUMNS = ("usage", "split")

_TEXTS = 1000
"""Rows of text that are parsed at a time."""


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
    image = _column(table, _IMAGE_COLUMNS, "image", where)
    label = _column(table, _LABEL_COLUMNS, "emotion", where)
    class_names = _class_names(table.schema, label, where)
    labels = [_class_name(value, class_names) for value in table[label].to_pylist()]
    emotion = read_emotions(labels, where)
    usage, split_known = _usages(table, name, where)
    pixels, resized = _images(table[image].combine_chunks(), where)
    return Faces(pixels, emotion, usage), resized, split_known


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


def _column(table: pa.Table, spellings: tuple[str, ...], meaning: str, where: str) -> str:
    found = [name for name in table.column_names if name.strip().lower() in spellings]
    if len(found) > 1:
        raise DataError(f"{where} has {len(found)} columns for '{meaning}': {found}")
    if not found:
        seen = ", ".join(repr(name[:40]) for name in table.column_names[:6]) or "none"
        raise DataError(
            f"{where} has no column '{meaning}' (its columns: {seen}): is it FER2013 as parquet?"
        )
    return str(found[0])


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


def _usages(table: pa.Table, name: str, where: str) -> tuple[npt.NDArray[np.str_], bool]:
    if not any(one.strip().lower() in _USAGE_COLUMNS for one in table.column_names):
        usage = _usage_of_shard(name)
        return np.full(table.num_rows, usage or "Training"), usage is not None
    values = table[_column(table, _USAGE_COLUMNS, "Usage", where)].to_pylist()
    return read_usages(values, where), True


def _usage_of_shard(name: str) -> str | None:
    path = PurePosixPath(name)
    words = [*re.split(r"[^A-Za-z]+", path.stem), *reversed(path.parts[:-1])]
    return next((usage for word in words if (usage := usage_named(word))), None)


def _images(column: pa.Array, where: str) -> tuple[UInt8Array, int]:
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = column.field("bytes")
        kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _raw_numbers(column, where), 0
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _raw_texts(column, where), 0
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_raw(kind)):
        raise DataError(f"{where}: column 'image' holds {kind}, not images or {PIXELS} numbers")
    pixels = np.empty((len(column), SIDE, SIDE), np.uint8)
    resized = 0
    for row, value in enumerate(column):
        content = value.as_py()
        if content is not None and len(content) == PIXELS and not _is_picture(content):
            pixels[row] = np.frombuffer(content, np.uint8).reshape(SIDE, SIDE)
            continue
        pixels[row], changed = decode_picture(content, f"{where}, row {row + 1}", only_squares=True)
        resized += changed
    return pixels, resized


def _raw_numbers(column: Any, where: str) -> UInt8Array:
    pixels = np.empty((len(column), SIDE, SIDE), np.uint8)
    for row, value in enumerate(column):
        try:
            numbers = np.asarray(value.as_py() if value.is_valid else [], np.float64).ravel()
        except (TypeError, ValueError):
            raise DataError(f"{where}, row {row + 1}: the pixels are no numbers") from None
        if len(numbers) != PIXELS:
            raise DataError(f"{where}, row {row + 1}: {len(numbers)} pixels, not {PIXELS}")
        wrong = numbers[~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))]
        if len(wrong):
            raise DataError(f"{where}, row {row + 1}: a pixel is {wrong[0]:g}, not 0 to 255")
        pixels[row] = numbers.reshape(SIDE, SIDE)
    return pixels


def _raw_texts(column: Any, where: str) -> UInt8Array:
    pixels = np.empty((len(column), SIDE, SIDE), np.uint8)
    for start in range(0, len(column), _TEXTS):
        texts = column.slice(start, _TEXTS).cast(pa.string())
        pixels[start : start + _TEXTS] = parse_pixels(texts, where, first_row=start + 1)
    return pixels


def _is_raw(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width == PIXELS)


def _is_picture(content: bytes) -> bool:
    """Whether bytes begin as PNG or JPEG do: a file may have 2,304 bytes by chance."""
    return content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
