"""The figures of the report: arrays and dicts in, plotly figures out, nothing touched.

Figures have a transparent background and a fixed height, and take the width of the page.
Their colours are made for a light page: on a dark one the page's style sheet inverts them.
Plotly reads a subset of HTML in every text, so names from outside are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go  # type: ignore[import-untyped]

from fer_pipeline.emotions import EMOTIONS

INK = "#3a4450"
GRID = "#e3e7ec"
FUSED = "#1f6fc9"
OTHER = "#a9b3bf"
# Okabe and Ito's colours, which colour-blind readers can tell apart, without blue and yellow.
LINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
LEGEND_ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
BLUES = ((0.0, "#f3f6fa"), (0.35, "#a9c8ea"), (0.7, "#3f83cf"), (1.0, "#0b3d7c"))


def accuracy_bars(fused: float, single: Mapping[str, float]) -> go.Figure:
    """Accuracy of the fused model, highlighted on top, and of every single one.

    Args:
        fused: a fraction.
        single: the same per backbone.
    """
    names = ["fused", *map(_label, single)]
    # Positions are numbers because a backbone may be named "fused" too.
    positions = list(range(len(names)))
    bars = go.Bar(
        y=positions,
        x=[100 * value for value in (fused, *single.values())],
        orientation="h",
        marker={"color": [FUSED] + [OTHER] * len(single)},
        texttemplate="%{x:.1f} %",
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
        width=0.7,
    )
    figure = go.Figure(bars)
    _style(figure, height=70 + 46 * len(names))
    figure.update_layout(
        xaxis=_percent_axis("top-1 accuracy on test"),
        yaxis=_axis(tickvals=positions, ticktext=names, autorange="reversed", showgrid=False),
    )
    return figure


def recall_bars(
    fused: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, Mapping[str, Any]],
    single_name: str,
) -> go.Figure:
    """Recall per emotion, fused against one single model.

    Args:
        fused: per emotion, recall as a fraction and its number of images.
        single: the same of the single model.
        single_name: of the backbone.
    """
    figure = go.Figure()
    models = (("fused", fused, FUSED), (_label(single_name), single, OTHER))
    for name, per_class, colour in models:
        figure.add_bar(
            y=[f"{emotion} ({per_class[emotion]['images']:,})" for emotion in EMOTIONS],
            x=[100 * per_class[emotion]["recall"] for emotion in EMOTIONS],
            name=name,
            orientation="h",
            marker={"color": colour},
            texttemplate="%{x:.0f}",
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.1f} %",
        )
    _style(figure, height=470)
    figure.update_layout(
        barmode="group",
        bargap=0.25,
        legend=LEGEND_ABOVE,
        xaxis=_percent_axis("recall"),
        yaxis=_axis(autorange="reversed", showgrid=False),
    )
    return figure


def training_curves(curves: Mapping[str, Sequence[Mapping[str, str]]]) -> go.Figure:
    """Val accuracy per epoch, one line per backbone; hollow markers in the head phase.

    Args:
        curves: per backbone, rows with epoch, phase and val_accuracy as a fraction.
    """
    figure = go.Figure()
    for index, (name, rows) in enumerate(curves.items()):
        colour = LINES[index % len(LINES)]
        symbols = ["circle-open" if row["phase"] == "head" else "circle" for row in rows]
        figure.add_scatter(
            x=[int(row["epoch"]) for row in rows],
            y=[100 * float(row["val_accuracy"]) for row in rows],
            customdata=[row["phase"] for row in rows],
            name=_label(name),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": symbols, "size": 8, "line": {"width": 2}},
            hovertemplate="epoch %{x}, %{customdata}: %{y:.1f} %",
        )
    longest = max((len(rows) for rows in curves.values()), default=0)
    _style(figure, height=380)
    figure.update_layout(
        legend=LEGEND_ABOVE,
        xaxis=_axis("epoch", dtick=1 if longest <= 12 else None, tickformat="d", showgrid=False),
        yaxis=_axis("val accuracy", ticksuffix=" %", nticks=7),
    )
    return figure


def confusion_matrix(counts: npt.NDArray[np.int64]) -> go.Figure:
    """One confusion matrix: colour and printed value are the share of the row in %.

    Args:
        counts: (C, C) images, rows actual, columns predicted. A row without images shows 0.
    """
    images = counts.sum(axis=1, keepdims=True)  # (C, 1)
    share = 100 * counts / np.maximum(images, 1)
    heatmap = go.Heatmap(
        z=share.tolist(),
        x=list(EMOTIONS),
        y=list(EMOTIONS),
        customdata=counts.tolist(),
        zmin=0,
        zmax=100,
        colorscale=BLUES,
        showscale=False,
        xgap=1,
        ygap=1,
        texttemplate="%{z:.0f}",
        hovertemplate=(
            "actual %{y}, predicted %{x}<br>%{customdata:,} images, "
            "%{z:.1f} % of the row<extra></extra>"
        ),
    )
    figure = go.Figure(heatmap)
    _style(figure, height=380)
    figure.update_layout(
        xaxis=_axis("predicted", tickangle=-40, showgrid=False),
        yaxis=_axis("actual", autorange="reversed", showgrid=False),
    )
    return figure


def simplex_map(rows: Sequence[Mapping[str, str]], chosen: Mapping[str, float]) -> go.Figure | None:
    """Val accuracy over all weights of three backbones, with the chosen weights marked.

    Args:
        rows: the grid: one weight per backbone, and val_accuracy as a fraction.
        chosen: weight per backbone; its order names the corners top, left, right.

    Returns:
        None where the weights do not lie in a triangle, or the grid is empty.
    """
    if len(chosen) != 3 or not rows:
        return None
    names = list(chosen)
    figure = go.Figure()
    figure.add_trace(_simplex_grid(rows, names))
    figure.add_trace(_chosen_point([chosen[name] for name in names]))
    _style(figure, height=470)
    axes = {
        f"{axis}axis": {
            "title": {"text": f"<b>{_label(name)}</b>"},
            "tickvals": [0.2, 0.4, 0.6, 0.8],
            "tickfont": {"size": 11},
            "gridcolor": GRID,
            "linecolor": GRID,
            "layer": "below traces",
        }
        for axis, name in zip("abc", names, strict=True)
    }
    figure.update_layout(
        ternary={"sum": 1, "bgcolor": "rgba(0,0,0,0)", **axes},
        legend={"x": 1, "xanchor": "right", "y": 1.1, "yanchor": "top"},
        margin={"l": 40, "r": 40, "t": 45, "b": 30},
    )
    return figure


def _simplex_grid(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> go.Scatterternary:
    # A triangular grid with k steps per side has (k + 1)(k + 2) / 2 points.
    steps = max(1.0, (math.sqrt(8 * len(rows) + 1) - 3) / 2)
    a, b, c = ([float(row[name]) for row in rows] for name in names)
    return go.Scatterternary(
        a=a,
        b=b,
        c=c,
        mode="markers",
        marker={
            "symbol": "hexagon",
            "size": 380 / steps,  # pixels: the hexagons just tile the triangle
            "color": [100 * float(row["val_accuracy"]) for row in rows],
            "colorscale": "Viridis",
            "colorbar": {
                "orientation": "h",
                "y": -0.08,
                "yanchor": "top",
                "thickness": 12,
                "ticksuffix": " %",
                "nticks": 5,
                "outlinewidth": 0,
                "title": {"text": "val accuracy", "side": "top"},
            },
        },
        cliponaxis=False,
        showlegend=False,
        hovertemplate=(
            "%{a:.2f} / %{b:.2f} / %{c:.2f}<br>val accuracy %{marker.color:.1f} %<extra></extra>"
        ),
    )


def _chosen_point(weights: Sequence[float]) -> go.Scatterternary:
    a, b, c = weights
    return go.Scatterternary(
        a=[a],
        b=[b],
        c=[c],
        mode="markers",
        name="chosen weights",
        marker={
            "symbol": "star",
            "size": 18,
            "color": "#ffffff",
            "line": {"color": "#111111", "width": 2},
        },
        cliponaxis=False,
        hovertemplate="chosen: %{a:.3f} / %{b:.3f} / %{c:.3f}<extra></extra>",
    )


def _label(name: str) -> str:
    return escape(name, quote=False)


def _axis(title: str = "", **options: object) -> dict[str, object]:
    return {
        "title": {"text": title},
        "automargin": True,
        "fixedrange": True,
        "gridcolor": GRID,
        "zeroline": False,
        **options,
    }


def _percent_axis(title: str) -> dict[str, object]:
    # To 110 for the value label of a full bar.
    return _axis(title, range=[0, 110], tickvals=[0, 25, 50, 75, 100], ticksuffix=" %")


def _style(figure: go.Figure, height: int) -> None:
    """What all figures share; nothing reacts to dragging, so that a finger scrolls the page."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": OTHER, "font": {"color": INK}},
    )
