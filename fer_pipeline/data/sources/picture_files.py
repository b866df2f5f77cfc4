"""FER2013 as pictures in folders: `SPLIT/CLASS/*.png`, in any order and capitalisation.

A file's class is the folder that it lies in, by name. Its split is in its own name where that is
official (`PublicTest_123.jpg`), else in a folder above it. Where no picture's names say a split,
all are Training; where some do, all must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from fer_pipeline.data.faces import SIDE, Faces
from fer_pipeline.data.pictures import MAX_FACE_BYTES, decode_picture
from fer_pipeline.data.sources.containers import Container
from fer_pipeline.data.sources.edition import Edition
from fer_pipeline.data.sources.ferplus import count_votes, majority_labels, read_rows
from fer_pipeline.data.sources.vocabulary import emotion_code, usage_above, usage_of_file
from fer_pipeline.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_pictures(container: Container, names: list[str]) -> Edition:
    """Read one face per file.

    Returns:
        The faces in the order of `names`; without a split all are Training.

    Raises:
        DataError: a folder that is none of the seven classes, a picture without a split among
            others with one, or a file that is no picture.
    """
    emotion = np.array([_emotion(name, container) for name in names], np.int8)
    paths = map(PurePosixPath, names)
    usages = [usage_of_file(path.stem) or usage_above(path.parent.parent) for path in paths]
    return _read(container, names, emotion, usages)


def read_voted_pictures(container: Container, names: list[str]) -> Edition:
    """Read the pictures that FER+'s `label.csv` files list, each beside those that it lists.

    A row has a file's name, a box, and ten people's votes; the label is what most vote for.

    Raises:
        DataError: a row is no row of votes, or its picture is missing or none.
    """
    listed, counts = [], []
    for name in names:
        rows = read_rows(container, name)
        counts.append(count_votes(rows, range(2, 12), 12, container.where(name)))
        listed += [str(PurePosixPath(name).parent / row[0].strip()) for row in rows]
    missing = sorted(set(listed) - set(container.names))
    if missing:
        raise DataError(f"{container.where(missing[0])} is missing, but votes on it are there")
    labels, dropped = majority_labels(np.concatenate(counts))
    kept = [name for name, label in zip(listed, labels, strict=True) if label >= 0]
    usages = [usage_above(PurePosixPath(name).parent) for name in kept]
    read = _read(container, kept, labels[labels >= 0].astype(np.int8), usages)
    return replace(read, name="pictures with FER+'s votes", dropped=dropped, voted=True)


def _read(
    container: Container,
    names: list[str],
    emotion: npt.NDArray[np.int8],
    usages: Sequence[str | None],
) -> Edition:
    if any(usages) and None in usages:
        raise DataError(
            f"{container.where(names[usages.index(None)])}: no folder above it is a split, such as "
            f"train, validation or test, as other pictures have"
        )
    place = {name: row for row, name in enumerate(names)}
    pixels = np.empty((len(names), SIDE, SIDE), np.uint8)
    resized = 0
    for name, encoded in container.read_each(names, MAX_FACE_BYTES):
        pixels[place[name]], size = decode_picture(
            encoded, container.where(name), only_squares=True
        )
        resized += size != (SIDE, SIDE)
    usage = np.array([usage or "Training" for usage in usages], np.str_)
    faces = Faces(pixels, emotion, usage)
    return Edition("pictures in folders", faces, any(usages), resized)


def _emotion(name: str, container: Container) -> int:
    folder = PurePosixPath(name).parent.name
    code = emotion_code(folder)
    if code is None:
        raise DataError(
            f"{container.where(name)}: folder {folder!r} is none of the seven expressions, in "
            f"whose folders pictures are to lie"
        )
    return code
