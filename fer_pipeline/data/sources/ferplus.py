"""FER+: ten people's votes on every image of `fer2013.csv`, as an optional source of labels.

Source: Barsoum et al., "Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution" (2016), and its `fer2013new.csv`, which has one row of votes per
row of `fer2013.csv`, in the same order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_pipeline.data.faces import Faces, Int64Array
from fer_pipeline.data.sources.containers import Container
from fer_pipeline.data.sources.vocabulary import LEFT_OUT, emotion_code, read_usages
from fer_pipeline.emotions import NUM_EMOTIONS
from fer_pipeline.errors import DataError

FILE_NAME = "fer2013new.csv"
MAX_FILE_BYTES = 64 << 20

_VOTES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear",
    "contempt", "unknown", "nf",
)  # fmt: skip
_CODES = np.array([emotion_code(name) for name in _VOTES], np.int64)

MIN_AGREEMENT = 0.4
"""Share of faces on which FER and FER+ name the same emotion, at least. On the real set it is
about two thirds; where the rows are in another order it would be under a fifth."""


@dataclass(frozen=True)
class Votes:
    """`counts` is (N, 10), in the order of `_VOTES`; `usage` is (N,), the official split."""

    counts: Int64Array
    usage: np.ndarray[tuple[int], np.dtype[np.str_]]


def is_votes(columns: Sequence[str]) -> bool:
    """Whether a csv with these columns is FER+'s."""
    return set(_VOTES) <= {column.strip().lower() for column in columns}


def read_votes(container: Container, name: str) -> Votes:
    """Read `fer2013new.csv`.

    Raises:
        DataError: a column is missing, or a row is no row of votes.
    """
    where = container.where(name)
    header, *rows = read_rows(container, name) or [[]]
    header = [column.strip().lower() for column in header]
    if not is_votes(header) or "usage" not in header:
        raise DataError(f"{where} has not the columns of FER+ (Usage, {', '.join(_VOTES)})")
    places = [header.index(column) for column in _VOTES]
    counts = count_votes(rows, places, len(header), where)
    return Votes(counts, read_usages([row[header.index("usage")] for row in rows], where))


def read_rows(container: Container, name: str) -> list[list[str]]:
    """The rows of a csv, its header among them, without empty ones.

    Raises:
        DataError: it is no csv.
    """
    try:
        text = container.read(name, MAX_FILE_BYTES).decode("utf-8-sig")
        return [row for row in csv.reader(io.StringIO(text)) if row]
    except UnicodeDecodeError:
        raise DataError(f"{container.where(name)} is no csv in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{container.where(name)} is no csv: {error}") from None


def count_votes(
    rows: Sequence[Sequence[str]], places: Sequence[int], width: int, where: str
) -> Int64Array:
    """(N, 10) votes of rows that have `width` columns, at these places among them.

    Raises:
        DataError: a row is no row of votes.
    """
    counts = np.empty((len(rows), len(places)), np.int64)
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(f"{where}, row {number}: {len(row)} columns, not {width}")
        words = [row[place].strip() for place in places]
        for word in words:
            if not (word.isascii() and word.isdigit() and len(word) <= 4):
                raise DataError(f"{where}, row {number}: a number of votes is {word[:40]!r}")
        counts[number - 1] = [int(word) for word in words]
    return counts


def majority_labels(counts: Int64Array) -> tuple[Int64Array, dict[str, int]]:
    """The label that more than half of the votes name, as FER+'s authors take it.

    A single vote for a class is an outlier and does not count. Faces that most call unknown, not
    a face, or contempt (which is none of the seven), and those without a majority, get none.

    Args:
        counts: (N, 10), in the order of `_VOTES`.

    Returns:
        (N,) an index into `EMOTIONS`, or -1; and how many got none, by reason.
    """
    counts = np.where(counts > 1, counts, 0)
    winner = counts.argmax(axis=1)
    decided = 2 * counts.max(axis=1) > counts.sum(axis=1)
    codes = _CODES[winner]
    labels: Int64Array = np.where(decided & (codes < NUM_EMOTIONS), codes, -1)
    dropped = {
        reason: int((decided & (codes == NUM_EMOTIONS + place)).sum())
        for place, reason in enumerate(LEFT_OUT)
    }
    return labels, dropped | {"no_majority": int((~decided).sum())}


def relabel(faces: Faces, votes: Votes, where: str) -> tuple[Faces, dict[str, int]]:
    """The faces with their majority labels, without those that have none, counted by reason.

    Raises:
        DataError: the votes are not those of these faces, row by row.
    """
    if len(votes.counts) != len(faces):
        raise DataError(
            f"{where} has votes on {len(votes.counts):,} faces, the source has {len(faces):,}: "
            f"FER+ belongs to the whole fer2013.csv"
        )
    differ = np.flatnonzero(votes.usage != faces.usage)
    if len(differ):
        row = int(differ[0])
        raise DataError(
            f"{where}, row {row + 1}: Usage is {votes.usage[row]}, but the source's row has "
            f"{faces.usage[row]}: FER+ needs the row order of fer2013.csv"
        )
    labels, dropped = majority_labels(votes.counts)
    kept = labels >= 0
    agreement = float((labels[kept] == faces.emotion[kept]).mean()) if kept.any() else 0.0
    if agreement < MIN_AGREEMENT:
        raise DataError(
            f"{where} agrees with the source's own labels on {agreement:.0%} of the faces: the "
            f"rows are in another order; take fer2013.csv or icml_face_data.csv"
        )
    relabelled = Faces(faces.pixels, labels.astype(np.int8), faces.usage)
    return relabelled.select(kept), dropped
