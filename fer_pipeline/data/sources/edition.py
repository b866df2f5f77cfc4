"""What an edition of FER2013 is, and what makes it a whole one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.profile import other_order
from fer_pipeline.data.sources.containers import on_one_line
from fer_pipeline.data.sources.vocabulary import LEFT_OUT
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
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


def leave_out(edition: Edition, path: Path, reading: Reading) -> Edition:
    """Without the faces of classes that are none of the seven, if that was asked for."""
    codes = edition.faces.emotion
    sizes = np.bincount(codes, minlength=NUM_EMOTIONS)[NUM_EMOTIONS:].tolist()
    counts = {name: size for name, size in zip(LEFT_OUT, sizes, strict=False) if size}
    if counts and reading.unlabelled == "refuse":
        shown = ", ".join(f"{count:,} of {name!r}" for name, count in counts.items())
        raise DataError(
            f"{path} has faces of classes that are none of the seven ({shown}): set "
            f"data.unlabelled to 'ignore' to leave them out"
        )
    kept = edition.faces.select(codes < NUM_EMOTIONS) if counts else edition.faces
    return replace(edition, faces=kept, dropped=edition.dropped | counts)


def require_whole(edition: Edition, path: Path, reading: Reading) -> None:
    """Refuse an edition that lacks a split or a class in one, whose classes are numbered in
    another order, or whose pictures hold next to nothing."""
    for usage in USAGES:
        faces = edition.faces.select(edition.faces.usage == usage)
        if not len(faces):
            if reading.holdout and usage != "Training":
                continue
            raise DataError(f"{path} has no face in {usage}: {_hint(edition)}")
        present = np.bincount(faces.emotion, minlength=NUM_EMOTIONS)
        for emotion, count in zip(EMOTIONS, present, strict=True):
            if not count:
                raise DataError(
                    f"{path} has no {emotion!r} face in {usage}: is the file cut off, or not "
                    f"FER2013?"
                )
        order = other_order(present) if reading.labels == "fer" else None
        if order:
            raise DataError(
                f"{path}: the classes in {usage} have FER2013's sizes in another order, as if its "
                f"labels 0 to 6 meant {', '.join(order)}: name the classes beside the numbers, in "
                f"a column such as emotion_name, or number them as FER2013 does"
            )
        constant = int((np.ptp(faces.pixels, axis=(1, 2)) == 0).sum())
        if 2 * constant > len(faces):
            raise DataError(
                f"{path}: {constant:,} of the {len(faces):,} faces in {usage} have one grey value: "
                f"were the pictures converted in a wrong way?"
            )


def _hint(edition: Edition) -> str:
    if edition.split_known:
        return (
            "is it cut off? If the edition has no such split, set data.protocol to 'holdout' to "
            "take it from Training"
        )
    if len(edition.parts) > 1:
        return (
            f"if {shown(edition.parts[:4])} are its splits, call them train, val and test; "
            f"if it has none, set data.protocol to 'holdout' to take them from Training"
        )
    return "it names no splits: set data.protocol to 'holdout' to take them from Training"


def shown(names: Sequence[str]) -> str:
    """Names of files as a message can show them."""
    return ", ".join(map(on_one_line, names))
