"""Faces in the columns of a table, whether it came as csv or as parquet.

Columns by meaning, not by one name. The label is in one of `LABELS`, as a name or as a number:
names say what the numbers beside them mean, and without any the numbers are FER2013's. The split is
in `Usage` or `split`, the image in one of `IMAGES`, or in 2,304 columns, `pixel0` to `pixel2303`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fer_pipeline.data.faces import SIDE, Faces, Int64Array, UInt8Array
from fer_pipeline.data.sources.image_columns import read_images
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


@dataclass(frozen=True)
class Edition:
    """A set of faces, and how it came: all of a source, or one of its files.

    Attributes:
        name: of the edition, for people.
        faces: all of them.
        split_known: whether the edition says which split a face belongs to.
        resized: how many faces were not 48x48.
        unlabelled: how many rows without a label were left out.
        dropped: faces left out because of their class or their votes, by reason.
        voted: whether the labels are votes of FER+ already.
        named: whether it says by names what its labels are.
        parts: names of files or folders that may be splits under names that are not known.
    """

    name: str
    faces: Faces
    split_known: bool
    resized: int = 0
    unlabelled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    voted: bool = False
    named: bool = True
    parts: tuple[str, ...] = ()


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
    return read_images(found[0].combine_chunks(), where, first_row, only_squares)
