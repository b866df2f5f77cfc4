"""Faces in the columns of a table, whether it came as csv or as parquet.

Columns by meaning, not by one name: the image is in `image`, `img` or `pixels`, as encoded bytes,
as a struct with `bytes` (Hugging Face), as 2,304 numbers, or as their text; the label in `emotion`,
`label` or `labels`, as a name or as FER2013's number; the split in `Usage` or `split`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, UInt8Array
from fer_pipeline.data.pictures import decode_picture
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError

IMAGES = ("image", "img", "pixels")
LABELS = ("emotion", "label", "labels")
USAGES = ("usage", "split")

_TEXTS = 1000
"""Rows of text that are parsed at a time."""


@dataclass(frozen=True)
class Columns:
    """A table's columns as they are spelt in it; None where there is no such column."""

    names: tuple[str, ...]
    emotion: str | None
    image: str | None
    usage: str | None


def find_columns(names: tuple[str, ...], where: str, images: tuple[str, ...] = IMAGES) -> Columns:
    """What the columns of a table are, by their names.

    Raises:
        DataError: there are two for one thing.
    """
    found: dict[str, str | None] = {}
    for key, spellings in (("emotion", LABELS), ("image", images), ("usage", USAGES)):
        same = [name for name in names if name.strip().lower() in spellings]
        if len(same) > 1:
            raise DataError(f"{where} has {len(same)} columns for {key!r}: {same}")
        found[key] = same[0] if same else None
    return Columns(names, **found)


def read_images(column: pa.Array, where: str, first_row: int = 1) -> tuple[UInt8Array, int]:
    """(N, 48, 48) pixels of a column of images in any form, and how many had another size.

    Raises:
        DataError: a row is no image; the message names it, counted from `first_row`.
    """
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return read_images(column.field("bytes"), where, first_row)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _read_each(column, _numbers, where, first_row)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        starts = range(0, len(column), _TEXTS)
        parts = [_texts(column.slice(at, _TEXTS), where, first_row + at) for at in starts]
        return np.concatenate(parts or [np.empty((0, SIDE, SIDE), np.uint8)]), 0
    raw = pa.types.is_fixed_size_binary(kind) and kind.byte_width == PIXELS
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or raw):
        raise DataError(f"{where}: column 'image' holds {kind}, not images or {PIXELS} numbers")
    return _read_each(column, _picture, where, first_row)


def _read_each(
    column: pa.Array,
    read: Callable[[Any, str], tuple[UInt8Array, bool]],
    where: str,
    first_row: int,
) -> tuple[UInt8Array, int]:
    pixels, resized = np.empty((len(column), SIDE, SIDE), np.uint8), 0
    for row, value in enumerate(column):
        pixels[row], changed = read(value.as_py(), f"{where}, row {first_row + row}")
        resized += changed
    return pixels, resized


def _picture(content: bytes | None, where: str) -> tuple[UInt8Array, bool]:
    """An encoded picture, or raw pixels: a PNG or JPEG may have 2,304 bytes by chance."""
    encoded = content is None or content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
    if content is None or encoded or len(content) != PIXELS:
        return decode_picture(content, where, only_squares=True)
    return np.frombuffer(content, np.uint8).reshape(SIDE, SIDE), False


def _numbers(value: Any, where: str) -> tuple[UInt8Array, bool]:
    try:
        numbers = np.asarray(value or [], np.float64).ravel()
    except (TypeError, ValueError):
        raise DataError(f"{where}: the pixels are no numbers") from None
    if len(numbers) != PIXELS:
        raise DataError(f"{where}: {len(numbers)} pixels, not {PIXELS}")
    wrong = numbers[~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))]
    if len(wrong):
        raise DataError(f"{where}: a pixel is {wrong[0]:g}, not 0 to 255")
    return numbers.astype(np.uint8).reshape(SIDE, SIDE), False


def _texts(texts: pa.StringArray, where: str, first_row: int) -> UInt8Array:
    """(N, 48, 48) pixels of N rows of 2,304 numbers from 0 to 255 with spaces between them."""
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
        return _read_each(texts, _words, where, first_row)[0]
    pixels: UInt8Array = numbers.reshape(-1, SIDE, SIDE)
    return pixels


def _words(text: str | None, where: str) -> tuple[UInt8Array, bool]:
    """One row's pixels, in which spaces may stand as they like."""
    words = (text or "").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word.lstrip("0")[:4] or "0") <= 255):
            raise DataError(f"{where}: a pixel is {word[:40]!r}, not 0 to 255")
    if len(words) != PIXELS:
        raise DataError(f"{where}: {len(words)} pixels, not {PIXELS}")
    return np.array([word[-3:] for word in words], np.uint8).reshape(SIDE, SIDE), False
