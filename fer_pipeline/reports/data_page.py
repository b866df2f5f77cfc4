"""Pages on faces: the data, with what is wrong with them, and new faces against the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from fer_pipeline.data.faces import Example
from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES
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

_SCORED = {"now": "these faces", "before": "test images on record"}
_TITLES = {**MEASURES, "confidence": "probability of the expression that it sees, in per cent"}
_MIDDLES: dict[str, Sequence[int]] = {
    "brightness": BRIGHTNESS_MIDDLES,
    "contrast": CONTRAST_MIDDLES,
    "confidence": range(100),
}


def render_data_page(
    data: Mapping[str, Any], examples: Sequence[Example], greys: Sequence[Mapping[str, str]]
) -> str:
    """The whole page as HTML.

    Args:
        data: the content of `metrics/data.json`.
        examples: all are shown, and each takes 3 KB of the page. Facts of the kind `conflict` are
            `votes`: split, emotion, and how many copies of the image have it there. Those of
            any other kind, which is the title that it has on the page, are a `caption`.
        greys: rows of `plots/greys.csv`: images per measure, version and grey.
    """
    figures = {"classes": class_bars(data["classes"])} | {
        measure: grey_histogram([row for row in greys if row["measure"] == measure], title)
        for measure, title in MEASURES.items()
    }
    return render_page(
        "data_page.html.j2",
        data=data,
        source=data["source"],
        emotions=EMOTIONS,
        examples=examples,
        figures={name: embed(one, f"plot-{name}") for name, one in figures.items()},
    )


def render_monitoring_page(
    found: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]]
) -> str:
    """The whole page as HTML; it shows no face.

    Args:
        found: what `fer score --json` prints.
        counts: `now` and `before`: faces per expression, and per bin of brightness, contrast and
            confidence; None where not known.
    """
    shares = {
        name: dict(zip(EMOTIONS, map(int, counts[version]["expressions"]), strict=True))
        for version, name in _SCORED.items()
    }
    figures = {"expressions": class_bars(shares)}
    for measure, middles in _MIDDLES.items():
        rows = [
            {"version": version, "grey": middle, "images": images}
            for version, own in counts.items()
            if own[measure] is not None
            for middle, images in zip(middles, own[measure], strict=True)
        ]
        figures[measure] = grey_histogram(rows, _TITLES[measure], _SCORED)
    return render_page(
        "monitoring.html.j2",
        found=found,
        source={"synthetic": False},
        figures={name: embed(one, f"plot-{name}") for name, one in figures.items()},
    )


def class_bars(classes: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Share of every emotion in each split, which shows the rare ones and compares the splits.

    Args:
        classes: images per emotion in each of up to three splits, or sets of another kind.
    """
    traces = []
    widest = 0.0
    for (split, counts), colour in zip(classes.items(), SPLIT_COLOURS, strict=False):
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
        xaxis=axis("share of its faces", range=[0, 115 * widest], ticksuffix=" %"),
        yaxis=axis(autorange="reversed", showgrid=False),
    )


def grey_histogram(
    rows: Sequence[Mapping[str, object]], title: str, names: Mapping[str, str] = VERSIONS
) -> go.Figure:
    """Shares, so that versions of different size compare: this version's filled, that of the
    earlier one, if any, as a line.

    Args:
        rows: version, grey (the middle of a bin) and images.
        title: of the grey axis.
        names: what the versions are called.
    """
    traces, highest, step = [], 0, 0
    for version, name in names.items():
        own = [row for row in rows if row["version"] == version]
        bins = [(int(str(row["grey"])), int(str(row["images"]))) for row in own]
        if not bins:
            continue
        middles, counts = zip(*bins, strict=True)
        step = middles[1] - middles[0]
        highest = max([highest, *(grey for grey, images in bins if images)])
        now = version == "now"
        traces.append(
            go.Scatter(
                x=middles,
                y=[100 * images / max(sum(counts), 1) for images in counts],
                name=name,
                mode="lines",
                line={"color": BLUE if now else ORANGE, "width": 2, "shape": "hvh"},
                fill="tozeroy" if now else None,
                hovertemplate="%{x:.0f}: %{y:.2f} %",
            )
        )
    return figure(
        traces,
        height=300,
        legend=LEGEND_ABOVE,
        showlegend=len(traces) > 1,
        xaxis=axis(title, range=[0, highest + step], showgrid=False),
        yaxis=axis("share of faces", ticksuffix=" %", rangemode="tozero", nticks=6),
    )
