"""The page on the data: what came in, what is wrong with it, and the faces that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports import data_facts, data_plots
from fer_pipeline.reports.data_plots import Histogram
from fer_pipeline.reports.page import Shown, embed, png_uri, render_page

MEASURES = {
    "brightness": "mean grey of a face: 0 black, 255 white",
    "contrast": "standard deviation of a face’s greys",
}

UInt8Array = npt.NDArray[np.uint8]
Vote = tuple[str, str, int]
"""Split, emotion, and how many copies of a picture have it there."""


@dataclass(frozen=True)
class Example:
    """One face and what is odd about it. `pixels`: (48, 48)."""

    pixels: UInt8Array
    caption: str


@dataclass(frozen=True)
class ConflictExample:
    """One picture that stands in the set with several labels. `pixels`: (48, 48)."""

    pixels: UInt8Array
    votes: tuple[Vote, ...]


@dataclass(frozen=True)
class DataPageInputs:
    """What the page is made from.

    Attributes:
        data: the content of `metrics/data.json`.
        conflicts: worst first. All are shown, and each takes 3 KB of the page.
        suspicious: title of a group to its faces, all of which are shown.
        histograms: "brightness" (mean grey) and "contrast" (standard deviation in greys).
    """

    data: Mapping[str, Any]
    conflicts: Sequence[ConflictExample]
    suspicious: Mapping[str, Sequence[Example]]
    histograms: Mapping[str, Histogram]


def render_data_page(inputs: DataPageInputs) -> str:
    """The whole page as HTML."""
    data = inputs.data
    found = data_facts.faults(data)
    return render_page(
        "data_page.html.j2",
        status=data_facts.status(data),
        verdict=data_facts.verdict_sentence(data),
        source=data["source"],
        data=data,
        remarks=data_facts.remarks(data),
        emotions=EMOTIONS,
        known={
            (entry["split"], entry["emotion"]): entry["known"]
            for entry in (data["known"] or {"differences": ()})["differences"]
        },
        faults=[fact for fact in found if fact.figure != "0"],
        not_found=[fact.name for fact in found if fact.figure == "0"],
        cleaning=data_facts.cleaning(data),
        drift=data_facts.drift(data),
        drift_sentence=data_facts.drift_sentence(data) if data["drift"] else "",
        conflicts=[_show_conflict(conflict) for conflict in inputs.conflicts],
        suspicious={
            title: [_show_example(face) for face in faces]
            for title, faces in inputs.suspicious.items()
            if faces
        },
        figures=_figures(inputs),
    )


def _figures(inputs: DataPageInputs) -> dict[str, Markup]:
    figures = {"classes": data_plots.class_bars(inputs.data["classes"])} | {
        measure: data_plots.grey_histogram(inputs.histograms[measure], title)
        for measure, title in MEASURES.items()
    }
    return {name: embed(figure, f"plot-{name}") for name, figure in figures.items()}


def _show_example(example: Example) -> Shown:
    return png_uri(example.pixels), f"Face: {example.caption}", [example.caption]


def _show_conflict(conflict: ConflictExample) -> Shown:
    labels = dict.fromkeys(emotion for _, emotion, _ in conflict.votes)
    lines = [f"{copies} × {emotion} in {split}" for split, emotion, copies in conflict.votes]
    return png_uri(conflict.pixels), f"Face labelled {' and '.join(labels)}", lines
