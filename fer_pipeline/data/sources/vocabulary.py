"""How people spell FER2013's labels and splits in folder names, columns and file names.

Labels are mapped by name wherever there is one: folders sorted by alphabet, and the class lists
of data set hubs, number the emotions in another order than FER2013 does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

_CODES = {
    word: code
    for code, emotion in enumerate(EMOTIONS)
    for word in (emotion, *_EMOTION_WORDS[emotion], str(code))
}
_USAGES = {word: usage for usage, words in _USAGE_WORDS.items() for word in words}
_OFFICIAL_FILE = re.compile(r"(training|publictest|privatetest)_\d+", re.IGNORECASE)


def emotion_code(word: object) -> int | None:
    """The label of a name in any capitalisation, or of FER2013's own number 0 to 6; else None."""
    return _CODES.get(str(word).strip().lower())


def usage_named(word: object) -> str | None:
    """The official split that a name such as `train`, `Valid` or `Public-Test` means; else None."""
    return _USAGES.get(re.sub(r"[\s_-]", "", str(word)).lower())


def usage_of_file(stem: str) -> str | None:
    """The official split in a file name such as `PublicTest_1234`; else None."""
    found = _OFFICIAL_FILE.match(stem)
    return usage_named(found[1]) if found else None


def usage_above(folder: PurePosixPath) -> str | None:
    """The split that a folder is called after, or else the nearest one above it that is."""
    return next((usage for part in reversed(folder.parts) if (usage := usage_named(part))), None)


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
