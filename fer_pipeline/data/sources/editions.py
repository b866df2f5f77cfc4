"""Which edition of FER2013 a folder, archive or file is, told by its content, and its faces.

Every file is of one kind (`_kind_of`). A kind in `READERS` makes an edition. To add one: let
`_kind_of` tell its files, write a function that reads them, and name both in `READERS`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.sources.containers import LFS_POINTER, Container, open_container
from fer_pipeline.data.sources.edition import Edition, Reading, leave_out, require_whole, shown
from fer_pipeline.data.sources.ferplus import FILE_NAME, is_votes, read_votes, relabel
from fer_pipeline.data.sources.picture_files import is_picture, read_pictures, read_voted_pictures
from fer_pipeline.data.sources.table_files import (
    count_rows,
    csv_kind,
    no_edition,
    read_csv,
    read_header,
    read_parquet,
)
from fer_pipeline.data.sources.vocabulary import usage_of_table
from fer_pipeline.data.store import PIXELS
from fer_pipeline.errors import DataError

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
        if reading.labels == "ferplus_majority" and not edition.voted:
            edition = _with_votes(edition, container, votes)
    if edition.voted and reading.labels == "fer":
        raise DataError(
            f"{path} has votes for labels: set data.labels to 'ferplus_majority' to take what most "
            f"people voted for"
        )
    edition = leave_out(edition, path, reading)
    require_whole(edition, path, reading)
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
        start = stream.read(len(LFS_POINTER))
    container.require_data(name, start)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        return "archive"
    return _kind_of_text(container, name)


def _kind_of_text(container: Container, name: str) -> str:
    with container.open(name) as stream:
        line = stream.readline(1 << 16).lower()
    if len(container.names) > 1 and b"pixel" not in line and line.count(b",") < PIXELS:
        # A licence, a paper, a sample submission: of no interest, except votes.
        own = PurePosixPath(name).name.lower()
        votes_on_files = own == "label.csv" and line.count(b",") > 10
        return "votes" if own == FILE_NAME else "voted" if votes_on_files else "other"
    with container.open(name) as stream:
        header = read_header(stream, container.where(name))
    kind = csv_kind(header)
    if kind == "complete":
        return "csv"
    return "votes" if is_votes(header.names) else kind


def _read(container: Container, found: Found, reading: Reading) -> Edition:
    tables = found["csv"] or ([] if found["parquet"] else found["labelled"])
    if len(tables) > 1 and all(map(usage_of_table, tables)):
        return _read_tables(container, tables, read_csv, "csv, one for each split")
    candidates = [
        *tables,
        *found["parquet"][:1],
        # Pictures that all lie in no folder illustrate something; faces lie in their class's.
        *[name for name in found["pictures"] if "/" in name][:1],
    ]
    if len(candidates) > 1:
        raise DataError(
            f"{container.path} holds several editions ({shown(candidates[:4])}): take one of them"
        )
    for kind, read in READERS.items():
        if found[kind]:
            return read(container, found[kind])
    if found["labelled"]:
        return _read_challenge(container, found, reading)
    raise DataError(_nothing_found(container, found))


def _read_pictures(container: Container, names: list[str]) -> Edition:
    # Split, class and file name: equal pictures are many, but not under one name.
    _require_different(container, ((name, PurePosixPath(name).parts[-3:]) for name in names))
    above = tuple(sorted({PurePosixPath(name).parent.parent.name for name in names}))
    return replace(read_pictures(container, names), parts=above)


def _digest(container: Container, name: str) -> bytes:
    with container.open(name) as stream:
        return hashlib.file_digest(cast(Any, stream), "sha256").digest()


def _require_different(container: Container, names: Iterable[tuple[str, object]]) -> None:
    """Refuse files that stand twice, in one folder and in a copy of it, by what tells them."""
    seen: dict[object, str] = {}
    for name, key in names:
        first = seen.setdefault(key, name)
        if first != name:
            raise DataError(
                f"{container.path} holds {shown([first])} and {shown([name])}: is one the copy "
                f"of the other? Leave one of them"
            )


def _read_tables(
    container: Container, names: list[str], read: Callable[[Container, str], Edition], name: str
) -> Edition:
    """The files of an edition that is in several, or in one."""
    if len(names) > 1:
        _require_different(container, ((one, _digest(container, one)) for one in names))
    parts = [read(container, one) for one in names]
    for what, said in (
        ("names no split, such as train, validation or test,", [one.split_known for one in parts]),
        ("has labels by number, without their names,", [one.named for one in parts]),
    ):
        if any(said) and not all(said):
            raise DataError(
                f"{container.where(names[said.index(False)])} {what} as other files beside it do"
            )
    faces = Faces.joined([part.faces for part in parts])
    resized = sum(part.resized for part in parts)
    own = tuple(PurePosixPath(one).name for one in names)
    return Edition(name, faces, parts[0].split_known, resized, parts=own)


READERS: dict[str, Callable[[Container, list[str]], Edition]] = {
    "csv": partial(_read_tables, read=read_csv, name="csv with labels and splits"),
    "parquet": partial(_read_tables, read=read_parquet, name="parquet"),
    "voted": read_voted_pictures,
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
    faces = read_csv(container, found["labelled"][0]).faces
    # Whatever a file is called that is alone: a split without others is none.
    faces = replace(faces, usage=np.full(len(faces), "Training"))
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


def _nothing_found(container: Container, found: Found) -> str:
    path = container.path
    if found["unlabelled"]:
        return (
            f"{container.where(found['unlabelled'][0])} has no labels: it is the challenge's "
            f"test.csv; take an edition with labels, such as fer2013.csv"
        )
    if found["archive"]:
        return f"{path} holds another archive ({shown(found['archive'][:1])}): unpack that one"
    if not container.names:
        return f"{path} is empty: it holds no file"
    if len(container.names) == 1 and not found["pictures"]:
        with container.open(container.names[0]) as stream:
            return no_edition(read_header(stream, container.where(container.names[0])), path)
    seen = shown(container.names[:3])
    return f"{path} is no edition of FER2013 (it holds {seen}): csv, parquet or pictures are known"
