"""Faces in the columns of a table, whether it came as csv or as parquet.

Columns by meaning, not by one name. The image is in one of `IMAGES`, as encoded bytes, as a struct
with `bytes` (Hugging Face), as 2,304 numbers, or as their text; or in 2,304 columns, `pixel0` to
`pixel2303`. The label is in one of `LABELS`, as a name or as a number: names say what the numbers
beside them mean, and without any the numbers are FER2013's. The split is in `Usage` or `split`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, Faces, Int64Array, UInt8Array
from fer_pipeline.data.pictures import MAX_FACE_BYTES, Size, decode_picture
from fer_pipeline.data.sources.vocabulary import number_of, read_emotions, read_usages
from fer_pipeline.data.store import PIXELS
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError

IMAGES = ("image", "img", "pixels", "img_bytes", "image_bytes")
LABELS = (
    "emotion", "label", "labels", "emotion_name", "emotion_label", "label_name", "label_text",
    "class_name", "expression_name",
)  # fmt: skip
USAGES = ("usage", "split")

_PIXEL_COLUMN = re.compile(r"(?:pixels?|px|p)?[\s_]*(\d+)", re.ASCII | re.IGNORECASE)
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_TEXTS = 1000
"""Rows of text that are parsed at a time."""


@dataclass(frozen=True)
class Columns:
    """A table's columns as they are spelt in it.

    Attributes:
        names: of all.
        labels: names or numbers; empty where there is no such column.
        images: the same, of images; of one per pixel all 2,304, in order.
        usage: the split, or None.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    images: tuple[str, ...]
    usage: str | None

    @property
    def wanted(self) -> list[str]:
        """The columns that are read."""
        return [*self.labels, *self.images, *([self.usage] if self.usage else [])]


@dataclass(frozen=True)
class Part:
    """The faces of one table, or of some of its rows.

    Attributes:
        faces: all of them.
        resized: how many were not 48x48.
        split_known: whether the table says which split they belong to.
        named: whether it says by names what their labels are.
        numbers: (N,) the number beside each name; empty where there is none.
    """

    faces: Faces
    resized: int
    split_known: bool
    named: bool
    numbers: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Part], where: str) -> Part:
        """All rows of one table.

        Raises:
            DataError: a number does not go with one name.
        """
        faces, first = Faces.joined([part.faces for part in parts]), parts[0]
        numbers = np.concatenate([part.numbers for part in parts])
        if len(numbers) == len(faces):
            _require_one_to_one(numbers, faces.emotion, where)
        resized = sum(part.resized for part in parts)
        return cls(faces, resized, first.split_known, first.named, numbers)


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
        found = tuple(sorted(places, key=places.__getitem__))
    return Columns(tuple(names), labels, found, usage[0] if usage else None)


def read_rows(
    rows: pa.Table,
    columns: Columns,
    where: str,
    *,
    first_row: int = 1,
    classes: dict[str, list[str]] | None = None,
    usage: str | None = None,
) -> Part:
    """The faces of some rows.

    Args:
        rows: with at least one label and one image among its columns.
        columns: what they are.
        where: what messages call the table.
        first_row: the number of the first row in it, for messages.
        classes: for columns whose numbers are explained elsewhere, the names of 0, 1 and so on.
        usage: the split of all of them, where no column says it.

    Raises:
        DataError: a row is no labelled face; the message names it and the value.
    """
    values = {name: rows[name].to_pylist() for name in columns.labels}
    explained = {
        name: [_class_name(value, (classes or {}).get(name)) for value in column]
        for name, column in values.items()
    }
    named = {name: column for name, column in explained.items() if _has_names(column)}
    numbers = [name for name in columns.labels if name not in named]
    emotion = _agreeing(named or explained, where, first_row)
    beside = [number_of(value) for value in values[numbers[0]]] if named and numbers else []
    if columns.usage is None:
        usages = np.full(len(emotion), usage or "Training")
    else:
        usages = read_usages(rows[columns.usage].to_pylist(), where, first_row)
    pixels, sizes = read_pixels(rows, columns, where, first_row)
    resized = int((sizes != SIDE).any(axis=1).sum())
    return Part(
        Faces(pixels, emotion, usages), resized, (columns.usage or usage) is not None, bool(named),
        np.array(beside, np.int64),
    )  # fmt: skip


def _has_names(column: Sequence[object]) -> bool:
    return any(number_of(value) is None for value in column)


def _class_name(value: object, names: list[str] | None) -> object:
    number = number_of(value)
    if names is None or number is None:
        return value
    return names[number] if number < len(names) else f"{number}, without a name"


def _agreeing(columns: dict[str, list[object]], where: str, first_row: int) -> npt.NDArray[np.int8]:
    """The labels that all these columns give."""
    read = {name: read_emotions(values, where, first_row) for name, values in columns.items()}
    (first, emotion), *others = read.items()
    for name, other in others:
        for row in np.flatnonzero(other != emotion)[:1]:
            raise DataError(
                f"{where}, row {first_row + row}: {first} is {columns[first][row]!r} and {name} is "
                f"{columns[name][row]!r}: leave out the column that is wrong"
            )
    return emotion


def _require_one_to_one(
    numbers: npt.NDArray[np.int64], emotion: npt.NDArray[np.int8], where: str
) -> None:
    """Refuse numbers that contradict the names beside them."""
    pairs = np.unique(np.stack([numbers, emotion]), axis=1)
    if any(len(np.unique(one)) < len(one) for one in pairs):
        said = ", ".join(f"{number} {EMOTIONS[code]}" for number, code in pairs.T)
        raise DataError(
            f"{where}: the numbers of its labels contradict the names beside them ({said}): leave "
            f"out the column that is wrong"
        )


def read_pixels(
    rows: pa.Table, columns: Columns, where: str, first_row: int = 1, *, only_squares: bool = True
) -> tuple[UInt8Array, Int64Array]:
    """The images of some rows, whatever their labels.

    Args:
        rows: with at least one image among its columns.
        columns, where, first_row: as `read_rows` takes them.
        only_squares: as `decode_picture` takes it.

    Returns:
        (N, 48, 48) pixels, and (N, 2) width and height of each image before it was brought to that.

    Raises:
        DataError: a row is no image; the message names it.
    """
    if len(columns.images) == PIXELS:
        texts = [rows[name].cast(pa.string()) for name in columns.images]
        return _read_images(_whole(pc.binary_join_element_wise(*texts, " ")), where, first_row)
    found = {
        name: _read_images(_whole(rows[name]), where, first_row, only_squares)
        for name in columns.images
    }
    (first, (pixels, sizes)), *others = found.items()
    for name, (other, _) in others:
        for row in np.flatnonzero((other != pixels).any(axis=(1, 2)))[:1]:
            raise DataError(
                f"{where}, row {first_row + row}: {first} and {name} hold different images: leave "
                f"one of them out"
            )
    return pixels, sizes


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _read_images(
    column: pa.Array, where: str, first_row: int, only_squares: bool = True
) -> tuple[UInt8Array, Int64Array]:
    """Pixels and sizes of a column of images in any form."""
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _read_images(column.field("bytes"), where, first_row, only_squares)
    if isinstance(kind, _LISTS):
        if _longest(column) > 4 * PIXELS:
            raise DataError(f"{where}: a row has {_longest(column):,} pixels, not {PIXELS}")
        return _read_each(column, _numbers, where, first_row)
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if values is not kind:
        _require_small(column.dictionary, where)
    if pa.types.is_string(values) or pa.types.is_large_string(values):
        starts = range(0, len(column), _TEXTS)
        parts = [_texts(column.slice(at, _TEXTS), where, first_row + at) for at in starts]
        pixels = np.concatenate(parts or [np.empty((0, SIDE, SIDE), np.uint8)])
        return pixels, np.full((len(pixels), 2), SIDE)
    raw = pa.types.is_fixed_size_binary(values) and values.byte_width == PIXELS
    if not (pa.types.is_binary(values) or pa.types.is_large_binary(values) or raw):
        raise DataError(f"{where}: column 'image' holds {kind}, not images or {PIXELS} numbers")
    return _read_each(column, partial(_picture, only_squares=only_squares), where, first_row)


def _longest(column: pa.Array) -> int:
    """The most numbers that a row of lists, or of lists of lists, may have."""
    if not isinstance(column.type, _LISTS):
        return 1
    return int(pc.max(pc.list_value_length(column)).as_py() or 0) * _longest(column.flatten())


def _require_small(values: pa.Array, where: str) -> None:
    """A column that repeats one large value is small until its rows are looked at."""
    longest = pc.max(pc.binary_length(values)).as_py() or 0
    if longest > MAX_FACE_BYTES:
        raise DataError(f"{where}: an image has {longest:,} bytes, which a face never has")


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


def _numbers(value: Any, where: str) -> tuple[UInt8Array, Size]:
    try:
        numbers = np.asarray(value or [], np.float64).ravel()
    except (TypeError, ValueError):
        raise DataError(f"{where}: the pixels are no numbers") from None
    if len(numbers) != PIXELS:
        raise DataError(f"{where}: {len(numbers)} pixels, not {PIXELS}")
    wrong = numbers[~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))]
    if len(wrong):
        raise DataError(f"{where}: a pixel is {wrong[0]:g}, not 0 to 255")
    return numbers.astype(np.uint8).reshape(SIDE, SIDE), (SIDE, SIDE)


def _texts(texts: pa.Array, where: str, first_row: int) -> UInt8Array:
    """(N, 48, 48) pixels of N rows of text: 2,304 numbers from 0 to 255, with spaces between them,
    or as a list in brackets."""
    texts = texts.cast(pa.string())
    pixels = _parse(texts)
    if pixels is None:
        # Written in another way, which is fine, or wrong, which is to be named.
        for pattern, plain in _PLAIN.items():
            texts = pc.replace_substring_regex(texts, pattern, plain)
        pixels = _parse(texts)
    return _read_each(texts, _words, where, first_row)[0] if pixels is None else pixels


_PLAIN = {r"[\s,\[\]]+": " ", r"^ | $": "", r"([0-9])\.0+( |$)": r"\1\2"}
"""What stands between and behind the numbers of a list, and what it becomes."""


def _parse(texts: pa.StringArray) -> UInt8Array | None:
    """Of numbers with one space between them; None if they are not, or not from 0 to 255."""
    words = pc.split_pattern(texts, " ")
    try:
        numbers = pc.cast(words.flatten(), pa.uint8()).to_numpy()
    except pa.ArrowInvalid:
        return None
    lengths = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    # Arrow would take a hexadecimal 0xff for a number.
    hexadecimal = pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py()
    if hexadecimal or len(numbers) != len(texts) * PIXELS or (lengths != PIXELS).any():
        return None
    pixels: UInt8Array = numbers.reshape(-1, SIDE, SIDE)
    return pixels


def _words(text: str | None, where: str) -> tuple[UInt8Array, Size]:
    """One row's pixels, or what is wrong with them."""
    words = (text or "").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word.lstrip("0")[:4] or "0") <= 255):
            raise DataError(f"{where}: a pixel is {word[:40]!r}, not 0 to 255")
    if len(words) != PIXELS:
        raise DataError(f"{where}: {len(words)} pixels, not {PIXELS}")
    pixels = np.array([word[-3:] for word in words], np.uint8).reshape(SIDE, SIDE)
    return pixels, (SIDE, SIDE)
