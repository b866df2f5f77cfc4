"""Which edition of FER2013 a folder, archive or file is, told by its content, and its faces.

Every file is of one kind (`_kind_of`). A kind in `READERS` makes an edition. To add one: let
`_kind_of` tell its files, write a function that reads them, and name both in `READERS`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.sources.containers import Container, on_one_line, open_container
from fer_pipeline.data.sources.csv_files import (
    count_rows,
    csv_kind,
    no_edition,
    read_csv,
    read_header,
)
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


Found = Mapping[str, list[str]]
"""The files of a container by their kind."""


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
        found = _sort(container)
        edition = _read(container, found, reading)
        if reading.labels == "ferplus_majority":
            edition = _with_votes(edition, container, votes)
    _require_whole(edition, path, reading)
    return edition


def _sort(container: Container) -> Found:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in container.names:
        found[_kind_of(container, name)].append(name)
    return found


def _kind_of(container: Container, name: str) -> str:
    """One of `READERS`; or `labelled` or `unlabelled`, the challenge's two csv files; or `votes`,
    FER+'s; or `archive`, or `other`."""
    if is_picture(name) and container.joint:
        return "pictures"
    with container.open(name) as stream:
        start = stream.read(8)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return "archive"
    return _kind_of_text(container, name)


def _kind_of_text(container: Container, name: str) -> str:
    alone = len(container.names) == 1
    with container.open(name) as stream:
        if not alone and b"pixels" not in stream.readline(1 << 16).lower():
            # A licence, a paper, a sample submission: of no interest, except votes.
            return "votes" if PurePosixPath(name).name == FILE_NAME else "other"
    with container.open(name) as stream:
        header = read_header(stream, container.where(name))
    kind = csv_kind(header)
    if kind == "complete":
        return "csv"
    return "votes" if is_votes(header.names) else kind


def _read(container: Container, found: Found, reading: Reading) -> Edition:
    candidates = [
        *found["csv"],
        *found["parquet"][:1],
        *([] if found["csv"] or found["parquet"] else found["labelled"]),
        # Pictures that all lie in no folder illustrate something; faces lie in their class's.
        *[name for name in found["pictures"] if "/" in name][:1],
    ]
    if len(candidates) > 1:
        raise DataError(
            f"{container.path} holds several editions ({_shown(candidates[:4])}): take one of them"
        )
    for kind, read in READERS.items():
        if found[kind]:
            return read(container, found[kind])
    if found["labelled"]:
        return _read_challenge(container, found, reading)
    raise DataError(_nothing_found(container, found))


def _read_csv(container: Container, names: list[str]) -> Edition:
    return Edition("csv with labels and splits", read_csv(container, names[0]), True)


def _read_pictures(container: Container, names: list[str]) -> Edition:
    # Split, class and file name: equal pictures are many, but not under one name.
    _require_different(container, ((name, PurePosixPath(name).parts[-3:]) for name in names))
    faces, resized, split_known = read_pictures(container, names)
    return Edition("pictures in folders", faces, split_known, resized)


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


READERS: dict[str, Callable[[Container, list[str]], Edition]] = {
    "csv": _read_csv,
    "parquet": _read_shards,
    "pictures": _read_pictures,
}
"""What reads the files of each kind that makes an edition; the first that is there is read."""


def _read_challenge(container: Container, found: Found, reading: Reading) -> Edition:
    """`train.csv`, whose `test.csv` has no labels and so can't test anything."""
    rows = 0
    for name in found["unlabelled"]:
        if reading.unlabelled == "refuse":
            raise DataError(
                f"{container.where(name)} has no labels, so it can't be test data: set "
                f"data.unlabelled to 'ignore' to go on without it"
            )
        rows += count_rows(container, name)
    faces = read_csv(container, found["labelled"][0])
    return Edition("the challenge's train.csv", faces, False, unlabelled=rows)


def _with_votes(edition: Edition, container: Container, votes: Path | None) -> Edition:
    with open_container(votes) if votes else nullcontext(container) as place:
        names = _sort(place)["votes"] or (place.names if votes else [])
        if not names:
            raise DataError(
                f"{place.path} holds no {FILE_NAME}, which data.labels needs: run "
                f"'fer source pin URI --ferplus URI' with the URI of that file"
            )
        counted, where = read_votes(place, names[0]), place.where(names[0])
    faces, dropped = relabel(edition.faces, counted, where)
    name = f"{edition.name}, labels by FER+"
    return replace(edition, name=name, faces=faces, dropped=dropped)


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


def _nothing_found(container: Container, found: Found) -> str:
    path = container.path
    if found["unlabelled"]:
        return (
            f"{container.where(found['unlabelled'][0])} has no labels: it is the challenge's "
            f"test.csv; take an edition with labels, such as fer2013.csv"
        )
    if found["archive"]:
        return f"{path} holds another archive ({_shown(found['archive'][:1])}): unpack that one"
    if not container.names:
        return f"{path} is empty: it holds no file"
    if len(container.names) == 1 and not found["pictures"]:
        with container.open(container.names[0]) as stream:
            return no_edition(read_header(stream, container.where(container.names[0])), path)
    seen = _shown(container.names[:3])
    return f"{path} is no edition of FER2013 (it holds {seen}): csv, parquet or pictures are known"


def _shown(names: list[str]) -> str:
    return ", ".join(map(on_one_line, names))
