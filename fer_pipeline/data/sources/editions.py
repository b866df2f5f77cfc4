"""Which edition of FER2013 a folder, archive or file is, told by its content, and its faces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.sources.containers import Container, SingleFile, on_one_line, open_container
from fer_pipeline.data.sources.csv_files import count_rows, no_edition, read_csv, read_header
from fer_pipeline.data.sources.ferplus import FILE_NAME, is_votes, read_votes, relabel
from fer_pipeline.data.sources.parquet_files import read_parquet
from fer_pipeline.data.sources.picture_files import is_picture, read_pictures
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError

Labels = Literal["fer", "ferplus_majority"]


@dataclass(frozen=True)
class Reading:
    """How an edition is to be read.

    Attributes:
        labels: FER2013's own, or the majority of FER+'s votes.
        unlabelled: what to do with a file without labels beside one with them.
        holdout: whether splits that the edition has not are held out from Training later.
    """

    labels: Labels
    unlabelled: Literal["refuse", "ignore"]
    holdout: bool


@dataclass(frozen=True)
class Edition:
    """A set of faces, and how it came.

    Attributes:
        name: of the edition, for people.
        faces: all of them.
        split_known: whether the edition says which split a face belongs to.
        resized: how many faces were not 48x48.
        unlabelled: how many rows without a label were left out.
        dropped: faces left out because of their votes, by reason.
    """

    name: str
    faces: Faces
    split_known: bool
    resized: int = 0
    unlabelled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Contents:
    """The files of a container by what they are."""

    complete: list[str]  # csv with labels and splits
    labelled: list[str]  # csv with labels
    unlabelled: list[str]  # csv with pixels alone
    votes: list[str]  # FER+
    parquet: list[str]
    pictures: list[str]
    archives: list[str]
    others: list[str]


def read_edition(path: Path, reading: Reading, votes: Path | None = None) -> Edition:
    """Read the one edition that is at `path`.

    Args:
        path: a file, an archive or a folder.
        reading: how.
        votes: FER+'s file, where it is not beside the pixels.

    Raises:
        DataError: there is none or more than one, it is damaged, or a face in it is.
    """
    with open_container(path) as container:
        contents = _sort(container)
        edition = _read(container, contents, reading)
        if reading.labels == "ferplus_majority":
            edition = _with_votes(edition, container, contents, votes)
    _require_whole(edition, path, reading)
    return edition


def _sort(container: Container) -> _Contents:
    found = _Contents([], [], [], [], [], [], [], [])
    for name in container.names:
        if is_picture(name) and not isinstance(container, SingleFile):
            found.pictures.append(name)
            continue
        with container.open(name) as stream:
            start = stream.read(8)
        if start.startswith(b"PAR1"):
            found.parquet.append(name)
        elif start.startswith((b"PK\x03\x04", b"\x1f\x8b")):
            found.archives.append(name)
        else:
            _sort_text(container, name, found)
    return found


def _sort_text(container: Container, name: str, found: _Contents) -> None:
    alone = len(container.names) == 1
    with container.open(name) as stream:
        if not alone and b"pixels" not in stream.readline(1 << 16).lower():
            # A licence, a paper, a sample submission: of no interest, except votes.
            found.others.append(name)
            if name.rsplit("/", 1)[-1] == FILE_NAME:
                found.votes.append(name)
            return
    with container.open(name) as stream:
        header = read_header(stream, container.where(name))
    kinds = {
        "complete": found.complete,
        "labelled": found.labelled,
        "unlabelled": found.unlabelled,
        "other": found.votes if is_votes(header.names) else found.others,
    }
    kinds[header.kind].append(name)


def _read(container: Container, contents: _Contents, reading: Reading) -> Edition:
    candidates = [
        *contents.complete,
        *contents.parquet[:1],
        *([] if contents.complete or contents.parquet else contents.labelled),
        # Pictures that all lie in no folder illustrate something; faces lie in their class's.
        *[name for name in contents.pictures if "/" in name][:1],
    ]
    if len(candidates) > 1:
        raise DataError(
            f"{container.path} holds several editions ({_shown(candidates[:4])}): take one of them"
        )
    if contents.complete:
        name = contents.complete[0]
        return Edition("csv with labels and splits", read_csv(container, name), True)
    if contents.parquet:
        return _read_shards(container, contents.parquet)
    if contents.pictures:
        # Split, class and file name: equal pictures are many, but not under one name.
        paths = ((name, PurePosixPath(name).parts[-3:]) for name in contents.pictures)
        _require_different(container, paths)
        faces, resized, split_known = read_pictures(container, contents.pictures)
        return Edition("pictures in folders", faces, split_known, resized)
    if contents.labelled:
        return _read_challenge(container, contents, reading)
    raise DataError(_nothing_found(container, contents))


def _require_different(container: Container, names: Iterable[tuple[str, object]]) -> None:
    """Refuse files that stand twice, in one folder and in a copy of it, by what tells them."""
    seen: dict[object, str] = {}
    for name, key in names:
        first = seen.setdefault(key, name)
        if first != name:
            raise DataError(
                f"{container.path} holds {_shown([first])} and {_shown([name])}: is one the copy "
                f"of the other? Leave one of them"
            )


def _read_shards(container: Container, names: list[str]) -> Edition:
    _require_different(
        container, ((name, hashlib.sha256(container.read(name)).digest()) for name in names)
    )
    parts = [read_parquet(container, name) for name in names]
    known = [part[2] for part in parts]
    if any(known) and not all(known):
        raise DataError(
            f"{container.where(names[known.index(False)])} names no split, such as train, "
            f"validation or test, as other shards do"
        )
    faces = Faces.joined([part[0] for part in parts])
    return Edition("parquet", faces, all(known), sum(part[1] for part in parts))


def _read_challenge(container: Container, contents: _Contents, reading: Reading) -> Edition:
    """`train.csv`, whose `test.csv` has no labels and so can't test anything."""
    rows = 0
    for name in contents.unlabelled:
        if reading.unlabelled == "refuse":
            raise DataError(
                f"{container.where(name)} has no labels, so it can't be test data: set "
                f"data.unlabelled to 'ignore' to go on without it"
            )
        rows += count_rows(container, name)
    faces = read_csv(container, contents.labelled[0])
    return Edition("the challenge's train.csv", faces, False, unlabelled=rows)


def _with_votes(
    edition: Edition, container: Container, contents: _Contents, votes: Path | None
) -> Edition:
    if votes is None and contents.votes:
        name = contents.votes[0]
        found, where = read_votes(container, name), container.where(name)
    elif votes is not None:
        with open_container(votes) as other:
            names = _sort(other).votes or other.names
            if not names:
                raise DataError(f"{votes} is empty: it holds no {FILE_NAME}")
            found, where = read_votes(other, names[0]), other.where(names[0])
    else:
        raise DataError(
            f"{container.path} has no {FILE_NAME} beside it, which data.labels needs: run "
            f"'fer source pin URI --ferplus URI' with the URI of that file"
        )
    faces, dropped = relabel(edition.faces, found, where)
    return Edition(
        f"{edition.name}, labels by FER+",
        faces,
        edition.split_known,
        edition.resized,
        edition.unlabelled,
        dropped,
    )


def _require_whole(edition: Edition, path: Path, reading: Reading) -> None:
    """Refuse an edition with an empty split, or without one of the classes in a split."""
    for usage in USAGES:
        members = edition.faces.usage == usage
        if not members.any():
            if reading.holdout and usage != "Training":
                continue
            raise DataError(f"{path} has no face in {usage}: {_hint(edition)}")
        present = np.bincount(edition.faces.emotion[members], minlength=len(EMOTIONS))
        for emotion, count in zip(EMOTIONS, present, strict=True):
            if not count:
                raise DataError(
                    f"{path} has no {emotion!r} face in {usage}: is the file cut off, or not "
                    f"FER2013?"
                )


def _hint(edition: Edition) -> str:
    if edition.split_known:
        return (
            "is it cut off? If the edition has no such split, set data.protocol to 'holdout' to "
            "take it from Training"
        )
    return "it names no splits: set data.protocol to 'holdout' to take them from Training"


def _nothing_found(container: Container, contents: _Contents) -> str:
    path = container.path
    if contents.unlabelled:
        return (
            f"{container.where(contents.unlabelled[0])} has no labels: it is the challenge's "
            f"test.csv; take an edition with labels, such as fer2013.csv"
        )
    if contents.archives:
        return f"{path} holds another archive ({_shown(contents.archives[:1])}): unpack that one"
    if not container.names:
        return f"{path} is empty: it holds no file"
    if len(container.names) == 1 and not contents.pictures:
        with container.open(container.names[0]) as stream:
            return no_edition(read_header(stream, container.where(container.names[0])), path)
    seen = _shown(container.names[:3])
    return f"{path} is no edition of FER2013 (it holds {seen}): csv, parquet or pictures are known"


def _shown(names: list[str]) -> str:
    return ", ".join(map(on_one_line, names))
