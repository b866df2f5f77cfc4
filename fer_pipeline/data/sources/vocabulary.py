"""How people spell FER2013's labels and splits in folder names, columns and file names.

Labels are mapped by name wherever there is one: folders sorted by alphabet, and the class lists
of data set hubs, number the emotions in another order than FER2013 does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError

_EMOTION_WORDS: dict[str, tuple[str, ...]] = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness",),
    "sad": ("sadness",),
    "surprise": ("surprised",),
    "neutral": (),
}

_USAGE_WORDS: dict[str, tuple[str, ...]] = {
    "Training": ("training", "train"),
    "PublicTest": ("publictest", "public", "validation", "valid", "val", "dev"),
    "PrivateTest": ("privatetest", "private", "test", "testing"),
}

LEFT_OUT = ("contempt", "unknown", "not_a_face")
"""Classes of FER+ and of other sets that are none of the seven; their codes follow the seven's."""

_CODES = {
    word: code
    for code, emotion in enumerate(EMOTIONS)
    for word in (emotion, *_EMOTION_WORDS[emotion])
} | {word: len(EMOTIONS) + code for code, word in enumerate((*LEFT_OUT[:2], "nf"))}
_USAGES = {word: usage for usage, words in _USAGE_WORDS.items() for word in words}
_ONLY_ALONE = {"public", "private", "dev"}
"""Words that name a split only where no other word stands beside them."""

_OFFICIAL_FILE = re.compile(r"(training|publictest|privatetest)_\d+", re.IGNORECASE)
_NUMBER = re.compile(r"(0|[1-9]\d{0,3})(\.0+)?", re.ASCII)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def number_of(value: object) -> int | None:
    """The whole number that a value is, also as text or as `3.0`; else None."""
    return _number(str(value).strip())


@lru_cache(1024)
def _number(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found else None


def emotion_code(word: object) -> int | None:
    """The label of a name in any capitalisation, or of FER2013's own number 0 to 6; else None.

    From 7 on, it is a place in `LEFT_OUT`.
    """
    number = number_of(word)
    if number is not None:
        return number if number < len(EMOTIONS) else None
    return _CODES.get(str(word).strip().lower())


def usage_named(name: object) -> str | None:
    """The official split that a name such as `train`, `Public-Test` or `FER2013Valid` means."""
    return _usage(str(name))


@lru_cache(1024)
def _usage(name: str) -> str | None:
    words = [word.lower() for word in _WORD.findall(name)]
    known = "".join(word for word in words if word in _USAGES)
    return None if known in _ONLY_ALONE and len(words) > 1 else _USAGES.get(known)


def usage_of_file(stem: str) -> str | None:
    """The official split in a file name such as `PublicTest_1234`; else None."""
    found = _OFFICIAL_FILE.match(stem)
    return usage_named(found[1]) if found else None


def usage_above(folder: PurePosixPath) -> str | None:
    """The split that a folder is called after, or else the nearest one above it that is."""
    return next((usage for part in reversed(folder.parts) if (usage := usage_named(part))), None)


def usage_of_table(name: str) -> str | None:
    """The split that a csv or parquet file is called after, or else a folder above it."""
    path = PurePosixPath(name)
    return usage_named(path.stem) or usage_above(path.parent)


def read_emotions(values: Sequence[object], where: str, first_row: int = 1) -> npt.NDArray[np.int8]:
    """(N,) labels of a column of names or of FER2013's numbers.

    Raises:
        DataError: a value is neither; the message names its row, counted from `first_row`.
    """
    codes = [emotion_code(value) for value in values]
    _require_known(codes, values, "emotion is {!r}, not 0 to 6 or its name", where, first_row)
    return np.array(codes, np.int8)


def read_usages(values: Sequence[object], where: str, first_row: int = 1) -> npt.NDArray[np.str_]:
    """(N,) official splits of a column that names them.

    Raises:
        DataError: a value names none; the message names its row, counted from `first_row`.
    """
    usages = [usage_named(value) for value in values]
    wanted = "Usage is {!r}, not Training, PublicTest or PrivateTest"
    _require_known(usages, values, wanted, where, first_row)
    return np.array(usages, np.str_)


def _require_known(
    found: Sequence[object], values: Sequence[object], wrong: str, where: str, first_row: int
) -> None:
    if None in found:
        row = found.index(None)
        raise DataError(f"{where}, row {first_row + row}: {wrong.format(values[row])}")
