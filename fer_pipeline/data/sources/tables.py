"""Faces in the columns of a table, whether it came as csv or as parquet.

Columns by meaning, not by one name. The label is in one of `LABELS`, as a name or as a number:
names say what the numbers beside them mean, and without any the numbers are FER2013's. The split is
in `Usage` or `split`. The image is in one of `IMAGES`: as encoded or raw bytes, as a struct with
`bytes` (Hugging Face), as a list of 2,304 numbers, or as their text; or in 2,304 columns, `pixel0`
to `pixel2303`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, Faces, Int64Array, UInt8Array
from fer_pipeline.data.pictures import Size, decode_picture
from fer_pipeline.data.sources.edition import Edition
from fer_pipeline.data.sources.vocabulary import number_of, read_emotions, read_usages
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError

IMAGES = ("image", "img", "pixels", "img_bytes", "image_bytes")
LABELS = (
    "emotion", "label", "labels", "emotion_name", "emotion_label", "label_name", "label_text",
    "class_name", "expression_name",
)  # fmt: skip
USAGES = ("usage", "split")

_PIXEL_COLUMN = re.compile(r"(?:pixels?|px|p)?[\s_]*(\d+)", re.ASCII | re.IGNORECASE)
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_BESIDE_NUMBERS = re.compile(r"[\[\],]|(?<=\d)\.0+(?=[\s\],]|$)", re.ASCII)
"""What stands around the numbers of a list, and behind them where they are floats."""


@dataclass(frozen=True)
class Columns:
    """A table's columns as they are spelt in it.

    Attributes:
        names: of all.
        labels: names or numbers; empty where there is no such column.
        images: one column of images, or all 2,304 of one per pixel, in order; or none.
        usage: the split, or None.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    images: tuple[str, ...]
    usage: str | None

    @property
    def texts(self) -> list[str]:
        """The columns beside the images that are read."""
        return [*self.labels, *([self.usage] if self.usage else [])]


def find_columns(names: Sequence[str], where: str, images: Sequence[str] = IMAGES) -> Columns:
    """What the columns of a table are, by their names.

    Raises:
        DataError: two are spelt alike, or say the split.
    """

    def called(spellings: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name.strip().lower() in spellings)

    labels, found, usage = called(LABELS), called(images), called(USAGES)
    for key, same in (("emotion", labels), ("image", found), ("Usage", usage)):
        if len(same) > len({name.strip().lower() for name in same}) or len(usage) > 1:
            raise DataError(f"{where} has {len(same)} columns for '{key}': {list(same)}")
    places = {name: int(match[1]) for name in names if (match := _PIXEL_COLUMN.fullmatch(name))}
    if not found and len(places) == len(set(places.values())) == PIXELS:
        own = tuple(sorted(places, key=places.__getitem__))
    else:
        own = found[:1]
    return Columns(tuple(names), labels, own, usage[0] if usage else None)


def read_faces(
    blocks: Iterable[tuple[int, pa.Table]],
    columns: Columns,
    where: str,
    classes: Mapping[str, list[str]],
    usage: str | None,
) -> Edition:
    """The faces of a table with labels and images, that comes some rows at a time.

    Args:
        blocks: the number of the first row of each, for messages, and the rows.
        columns: what its columns are.
        where: what messages call the table.
        classes: for columns whose numbers are explained elsewhere, the names of 0, 1 and so on.
        usage: the split of all faces, where no column says it.

    Raises:
        DataError: a row is no labelled face; the message names it and the value.
    """
    pixels, resized, values = [], 0, dict[str, list[object]]()
    for first_row, rows in blocks:
        for name in columns.texts:
            values.setdefault(name, []).extend(rows[name].to_pylist())
        some, sizes = read_pixels(rows, columns, where, first_row)
        pixels.append(some)
        resized += int((sizes != SIDE).any(axis=1).sum())
    if not pixels:
        raise DataError(f"{where} has a header and no rows: is the file cut off?")
    labels = {name: _explain(values[name], classes.get(name)) for name in columns.labels}
    named = [name for name, column in labels.items() if None in map(number_of, column)]
    emotion = _agreeing(labels, named, where)
    if columns.usage is None:
        usages = np.full(len(emotion), usage or "Training")
    else:
        usages = read_usages(values[columns.usage], where)
    faces = Faces(np.concatenate(pixels), emotion, usages)
    known = (columns.usage or usage) is not None
    return Edition("", faces, known, resized, named=bool(named))


def _explain(column: list[object], names: list[str] | None) -> list[object]:
    """A column whose numbers mean these names."""
    if names is None:
        return column
    said = dict(enumerate(names))
    numbers = map(number_of, column)
    return [
        value if number is None else said.get(number, f"{number}, without a name")
        for value, number in zip(column, numbers, strict=True)
    ]


def _agreeing(
    labels: Mapping[str, Sequence[object]], named: Sequence[str], where: str
) -> npt.NDArray[np.int8]:
    """The labels that all these columns give; only numbers beside names may be others.

    Raises:
        DataError: two columns contradict each other.
    """
    own = named or list(labels)
    emotion = read_emotions(labels[own[0]], where)
    for name in labels:
        column = labels[name]
        said = read_emotions(column, where) if name in own else np.array([*map(number_of, column)])
        pairs = np.unique(np.stack([said, emotion]), axis=1)
        one_to_one = all(len(np.unique(one)) == len(one) for one in pairs)
        if not (np.array_equal(*pairs) if name in own else one_to_one):
            raise DataError(
                f"{where}: its columns {own[0]} and {name} contradict each other: leave out the "
                f"one that is wrong"
            )
    return emotion


def read_pixels(
    rows: pa.Table, columns: Columns, where: str, first_row: int = 1, *, only_squares: bool = True
) -> tuple[UInt8Array, Int64Array]:
    """The images of some rows, whatever their labels.

    Args:
        rows: with the columns of images.
        columns, where: as `read_faces` takes them.
        first_row: the number of the first row, for messages.
        only_squares: as `decode_picture` takes it.

    Returns:
        (N, 48, 48) pixels, and (N, 2) width and height of each image before it was brought to that.

    Raises:
        DataError: a row is no image; the message names it.
    """
    found = [rows[name] for name in columns.images]
    if len(found) == PIXELS:
        texts = [column.cast(pa.string()) for column in found]
        found = [pc.binary_join_element_wise(*texts, " ")]
    return _read_images(found[0].combine_chunks(), where, first_row, only_squares)


def _read_images(
    column: pa.Array, where: str, first_row: int, only_squares: bool
) -> tuple[UInt8Array, Int64Array]:
    """Pixels and sizes of a column in any form."""
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _read_images(column.field("bytes"), where, first_row, only_squares)
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
