"""The page on the data: what came in, what is wrong with it, and the faces that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fer_pipeline.data.examples import Example
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.page import embed, render_page
from fer_pipeline.reports.theme import BLUE, LEGEND_ABOVE, LINES, axis, bars, figure, label

MEASURES = {
    "brightness": "mean grey of a face: 0 black, 255 white",
    "contrast": "standard deviation of a face’s greys",
}
ORANGE, GREEN = LINES[:2]
SPLIT_COLOURS = (BLUE, ORANGE, GREEN)
VERSIONS = {"now": "this version", "before": "earlier version"}


@dataclass(frozen=True)
class Histogram:
    """One measure of all faces.

    Attributes:
        middles: of the bins, in greys.
        versions: images per bin under "now" and, where there is an earlier version, "before".
    """

    middles: Sequence[float]
    versions: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class DataPageInputs:
    """What the page is made from.

    Attributes:
        data: the content of `metrics/data.json`.
        examples: all are shown, and each takes 3 KB of the page. Facts of the kind `conflict` are
            `votes`: split, emotion, and how many copies of the image have it there. Those of
            any other kind, which is the title that it has on the page, are a `caption`.
        histograms: "brightness" (mean grey) and "contrast" (standard deviation in greys).
    """

    data: Mapping[str, Any]
    examples: Sequence[Example]
    histograms: Mapping[str, Histogram]


def render_data_page(inputs: DataPageInputs) -> str:
    """The whole page as HTML."""
    figures = {"classes": class_bars(inputs.data["classes"])} | {
        measure: grey_histogram(inputs.histograms[measure], title)
        for measure, title in MEASURES.items()
    }
    return render_page(
        "data_page.html.j2",
        data=inputs.data,
        source=inputs.data["source"],
        emotions=EMOTIONS,
        examples=inputs.examples,
        figures={name: embed(one, f"plot-{name}") for name, one in figures.items()},
    )


def read_histograms(rows: Sequence[Mapping[str, str]]) -> dict[str, Histogram]:
    """The histograms by measure, from the rows of `plots/greys.csv`."""
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for row in rows:
        versions = found.setdefault(row["measure"], {})
        bins = versions.setdefault(row["version"], [])
        bins.append((int(row["grey"]), int(row["images"])))
    return {
        measure: Histogram(
            [middle for middle, _ in versions["now"]],
            {version: [images for _, images in bins] for version, bins in versions.items()},
        )
        for measure, versions in found.items()
    }


def class_bars(classes: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Share of every emotion in each split, which shows the rare ones and compares the splits.

    Args:
        classes: images per split and emotion.
    """
    traces = []
    widest = 0.0
    for (split, counts), colour in zip(classes.items(), SPLIT_COLOURS, strict=True):
        faces = max(sum(counts.values()), 1)
        shares = [counts[emotion] / faces for emotion in EMOTIONS]
        widest = max(widest, *shares)
        traces.append(
            bars(
                EMOTIONS,
                shares,
                colour,
                name=label(split),
                customdata=[counts[emotion] for emotion in EMOTIONS],
                texttemplate="%{x:.1f}",
                hovertemplate="%{y}: %{x:.1f} %, %{customdata:,} faces",
            )
        )
    return figure(
        traces,
        height=560,
        legend=LEGEND_ABOVE,
        # Wide enough for the value label of the longest bar.
        xaxis=axis("share of the split’s faces", range=[0, 115 * widest], ticksuffix=" %"),
        yaxis=axis(autorange="reversed", showgrid=False),
    )


def grey_histogram(histogram: Histogram, title: str) -> go.Figure:
    """This version filled and the earlier one, if any, as a line; `title` is of the grey axis."""
    versions = histogram.versions
    traces = [_outline(histogram, name) for name in VERSIONS if name in versions]
    highest = max(int(np.flatnonzero(counts).max(initial=0)) for counts in versions.values())
    step = histogram.middles[1] - histogram.middles[0]
    return figure(
        traces,
        height=300,
        legend=LEGEND_ABOVE,
        showlegend=len(traces) > 1,
        xaxis=axis(title, range=[0, histogram.middles[highest] + step], showgrid=False),
        yaxis=axis("share of faces", ticksuffix=" %", rangemode="tozero", nticks=6),
    )


def _outline(histogram: Histogram, name: str) -> go.Scatter:
    """Shares, so that versions of different size compare."""
    counts = np.asarray(histogram.versions[name], dtype=np.int64)
    shares = 100 * counts / max(int(counts.sum()), 1)
    now = name == "now"
    return go.Scatter(
        x=list(histogram.middles),
        y=shares.tolist(),
        name=VERSIONS[name],
        mode="lines",
        line={"color": BLUE if now else ORANGE, "width": 2, "shape": "hvh"},
        fill="tozeroy" if now else None,
        hovertemplate="grey %{x:.0f}: %{y:.2f} %",
    )
