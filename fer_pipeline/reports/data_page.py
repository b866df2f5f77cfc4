"""The page on the data: what came in, what is wrong with it, and the faces that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fer_pipeline.data.examples import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports import data_facts, data_plots
from fer_pipeline.reports.data_plots import Histogram
from fer_pipeline.reports.page import Shown, embed, png_uri, render_page

MEASURES = {
    "brightness": "mean grey of a face: 0 black, 255 white",
    "contrast": "standard deviation of a face’s greys",
}

CONFLICT = "conflict"
"""The kind of the examples that stand in the set with several labels."""


@dataclass(frozen=True)
class DataPageInputs:
    """What the page is made from.

    Attributes:
        data: the content of `metrics/data.json`.
        examples: all are shown, and each takes 3 KB of the page. The facts of a conflict are its
            `votes`: split, emotion, and how many copies of the picture have it there. Those of
            any other kind, which is a title, are a `caption`.
        histograms: "brightness" (mean grey) and "contrast" (standard deviation in greys).
    """

    data: Mapping[str, Any]
    examples: Sequence[Example]
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
        conflicts=[_show_conflict(one) for one in inputs.examples if one.kind == CONFLICT],
        suspicious=_suspicious(inputs.examples),
        figures=_figures(inputs),
    )


def _figures(inputs: DataPageInputs) -> dict[str, Markup]:
    figures = {"classes": data_plots.class_bars(inputs.data["classes"])} | {
        measure: data_plots.grey_histogram(inputs.histograms[measure], title)
        for measure, title in MEASURES.items()
    }
    return {name: embed(figure, f"plot-{name}") for name, figure in figures.items()}


def _suspicious(examples: Sequence[Example]) -> dict[str, list[Shown]]:
    """The faces of every other kind, by title."""
    shown: dict[str, list[Shown]] = {}
    for one in examples:
        if one.kind != CONFLICT:
            caption = one.facts["caption"]
            face = png_uri(one.pixels), f"Face: {caption}", [caption]
            shown.setdefault(one.kind, []).append(face)
    return shown


def _show_conflict(conflict: Example) -> Shown:
    votes = conflict.facts["votes"]
    labels = dict.fromkeys(emotion for _, emotion, _ in votes)
    lines = [f"{copies} × {emotion} in {split}" for split, emotion, copies in votes]
    return png_uri(conflict.pixels), f"Face labelled {' and '.join(labels)}", lines
