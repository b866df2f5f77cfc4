"""A column of images in any form that tables have them in, as pixels.

Encoded pictures or raw pixels as bytes, a struct with `bytes` (Hugging Face), lists of 2,304
numbers, or their text, with spaces between them or as a list in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, Int64Array, UInt8Array
from fer_pipeline.data.pictures import Size, decode_picture
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError

_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_BESIDE_NUMBERS = re.compile(r"[\[\],]|(?<=\d)\.0+(?=[\s\],]|$)", re.ASCII)
"""What stands around the numbers of a list, and behind them where they are floats."""


def read_images(
    column: pa.Array, where: str, first_row: int, only_squares: bool
) -> tuple[UInt8Array, Int64Array]:
    """(N, 48, 48) pixels, and (N, 2) sizes of the images before they were brought to that.

    Raises:
        DataError: a row is no image, or the column none of images.
    """
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return read_images(column.field("bytes"), where, first_row, only_squares)
    if isinstance(kind, _LISTS):
        _require_short(column, where)
        return _read_each(column, _numbers, where, first_row)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read_each(column, _text, where, first_row)
    raw = pa.types.is_fixed_size_binary(kind) and kind.byte_width == PIXELS
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or raw):
        raise DataError(f"{where}: column 'image' holds {kind}, not images or {PIXELS} numbers")
    return _read_each(column, partial(_picture, only_squares=only_squares), where, first_row)


def _require_short(column: pa.Array, where: str) -> None:
    """By the most numbers that a row of lists, or of lists of lists, may have."""
    longest = 1
    while isinstance(column.type, _LISTS):
        longest *= pc.max(pc.list_value_length(column)).as_py() or 0
        column = column.flatten()
    if longest > 4 * PIXELS:
        raise DataError(f"{where}: a row has {longest:,} pixels, not {PIXELS}")


def _read_each(
    column: pa.Array,
    read: Callable[[Any, str], tuple[UInt8Array, Size]],
    where: str,
    first_row: int,
) -> tuple[UInt8Array, Int64Array]:
    pixels, sizes = np.empty((len(column), SIDE, SIDE), np.uint8), np.empty((len(column), 2), int)
    for row, value in enumerate(column):
        pixels[row], sizes[row] = read(value.as_py(), f"{where}, row {first_row + row}")
    return pixels, sizes


def _picture(content: bytes | None, where: str, only_squares: bool) -> tuple[UInt8Array, Size]:
    """An encoded picture, or raw pixels: a PNG or JPEG may have 2,304 bytes by chance."""
    encoded = content is None or content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
    if content is None or encoded or len(content) != PIXELS:
        return decode_picture(content, where, only_squares=only_squares)
    return np.frombuffer(content, np.uint8).reshape(SIDE, SIDE), (SIDE, SIDE)


def _text(text: str | None, where: str) -> tuple[UInt8Array, Size]:
    try:
        return _pixels(np.fromstring(text or "", np.int64, sep=" "), where)
    except ValueError:  # written in another way, which is fine, or wrong, which is to be named
        plain = _BESIDE_NUMBERS.sub(" ", str(text))
        if plain != text:
            return _text(plain, where)
        wrong = next((word for word in plain.split() if not word.isdecimal()), plain)
        raise DataError(f"{where}: a pixel is {wrong[:40]!r}, not 0 to 255") from None


def _numbers(value: Any, where: str) -> tuple[UInt8Array, Size]:
    try:
        return _pixels(np.asarray(value or [], np.float64).ravel(), where)
    except (TypeError, ValueError):
        raise DataError(f"{where}: the pixels are no numbers") from None


def _pixels(numbers: npt.NDArray[Any], where: str) -> tuple[UInt8Array, Size]:
    """2,304 numbers that are checked, for whatever has given them."""
    wrong = numbers[~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))]
    if len(wrong):
        raise DataError(f"{where}: a pixel is {wrong[0]:g}, not 0 to 255")
    if len(numbers) != PIXELS:
        raise DataError(f"{where}: {len(numbers)} pixels, not {PIXELS}")
    return numbers.astype(np.uint8).reshape(SIDE, SIDE), (SIDE, SIDE)
