"""The figures of the report: arrays and dicts in, plotly figures out, nothing touched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.look import (
    BLUE,
    CLEAR,
    GREY,
    LEGEND_ABOVE,
    LINES,
    axis,
    bars,
    figure,
    label,
    percent_axis,
)

BLUES = ((0.0, "#f3f6fa"), (0.35, "#a9c8ea"), (0.7, "#3f83cf"), (1.0, "#0b3d7c"))
COLOUR_BAR = {
    "title": {"text": "val accuracy", "side": "top", "font": {"size": 13}},
    "orientation": "h",
    "y": -0.11,
    "yanchor": "top",
    "thickness": 12,
    "outlinewidth": 0,
    "ticksuffix": " %",
}


def accuracy_bars(fused: float, single: Mapping[str, float]) -> go.Figure:
    """Accuracy of the fused model, highlighted on top, and of every single one.

    Args:
        fused: a fraction.
        single: the same per backbone.
    """
    names = ["fused", *map(label, single)]
    # Positions are numbers because a backbone may be named "fused" too.
    positions = list(range(len(names)))
    colours = [BLUE] + [GREY] * len(single)
    accuracies = [fused, *single.values()]
    return figure(
        [bars(positions, accuracies, colours, texttemplate="%{x:.1f} %", hoverinfo="skip")],
        height=70 + 46 * len(names),
        xaxis=percent_axis("top-1 accuracy on test"),
        yaxis=axis(tickvals=positions, ticktext=names, autorange="reversed", showgrid=False),
    )


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
    models = (("fused", fused, BLUE), (label(single_name), single, GREY))
    traces = [
        bars(
            [f"{emotion} ({per_class[emotion]['images']:,})" for emotion in EMOTIONS],
            [per_class[emotion]["recall"] for emotion in EMOTIONS],
            colour,
            name=name,
            texttemplate="%{x:.0f}",
            hovertemplate="%{y}: %{x:.1f} %",
        )
        for name, per_class, colour in models
    ]
    return figure(
        traces,
        height=470,
        legend=LEGEND_ABOVE,
        xaxis=percent_axis("recall"),
        yaxis=axis(autorange="reversed", showgrid=False),
    )


def training_curves(curves: Mapping[str, Sequence[Mapping[str, str]]]) -> go.Figure:
    """Val accuracy per epoch, one colour per backbone; the head phase is dotted and hollow.

    Args:
        curves: per backbone, rows with epoch, phase and val_accuracy as a fraction.
    """
    traces = []
    for index, (name, rows) in enumerate(curves.items()):
        colour = LINES[index % len(LINES)]
        head = sum(row["phase"] == "head" for row in rows)
        # One epoch more than the head phase, so that its line meets the next one.
        traces.append(_curve(rows[: head + 1] if head else [], name, colour, head=True))
        traces.append(_curve(rows[head:], name, colour, head=False))
    longest = max((len(rows) for rows in curves.values()), default=1)
    epochs = {"range": [0.5, longest + 0.5], "dtick": 1 if longest <= 12 else None}
    return figure(
        traces,
        height=380,
        legend=LEGEND_ABOVE,
        xaxis=axis("epoch", tickformat="d", showgrid=False, **epochs),
        yaxis=axis("val accuracy", ticksuffix=" %", nticks=7),
    )


def _curve(rows: Sequence[Mapping[str, str]], name: str, colour: str, head: bool) -> go.Scatter:
    return go.Scatter(
        x=[int(row["epoch"]) for row in rows],
        y=[100 * float(row["val_accuracy"]) for row in rows],
        customdata=[row["phase"] for row in rows],
        name=label(name),
        legendgroup=label(name),
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": "dot" if head else "solid"},
        marker={"symbol": "circle-open" if head else "circle", "size": 7, "color": colour},
        showlegend=not head,
        hovertemplate="epoch %{x}, %{customdata}: %{y:.1f} %",
    )


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
        hovertemplate="actual %{y}, predicted %{x}<br>"
        "%{customdata:,} images, %{z:.1f} % of the row<extra></extra>",
    )
    return figure(
        [heatmap],
        height=380,
        xaxis=axis("predicted", tickangle=-40, showgrid=False),
        yaxis=axis("actual", autorange="reversed", showgrid=False),
    )


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
    # No ticks: three scales on one triangle are hard to read, and hovering gives the weights.
    shown = dict.fromkeys(("showticklabels", "showgrid", "showline"), False)
    side = {"title": {"text": ""}, "ticks": "", **shown}
    return figure(
        [_simplex_grid(rows, list(chosen)), _chosen_point(chosen), _corner_names(chosen)],
        height=450,
        ternary={"bgcolor": CLEAR, "aaxis": side, "baxis": side, "caxis": side},
        showlegend=False,
        margin={"l": 15, "r": 15, "t": 35, "b": 30},
    )


def _simplex_grid(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> go.Scatterternary:
    # A triangular grid with k steps per side has (k + 1)(k + 2) / 2 points.
    steps = max(1.0, (math.sqrt(8 * len(rows) + 1) - 3) / 2)
    return _in_triangle(
        [[float(row[name]) for name in names] for row in rows],
        marker_symbol="hexagon",
        marker_size=380 / steps,  # pixels: the hexagons just tile the triangle
        marker_color=[100 * float(row["val_accuracy"]) for row in rows],
        marker_colorscale="Viridis",
        marker_colorbar=COLOUR_BAR,
        hovertemplate=f"val accuracy %{{marker.color:.1f}} %<br>{_weights(names)}",
    )


def _chosen_point(chosen: Mapping[str, float]) -> go.Scatterternary:
    return _in_triangle(
        [list(chosen.values())],
        marker_symbol="star",
        marker_size=18,
        marker_color="#ffffff",
        marker_line={"color": "#111111", "width": 2},
        hovertemplate=f"chosen weights<br>{_weights(chosen)}",
    )


def _corner_names(names: Iterable[str]) -> go.Scatterternary:
    return _in_triangle(
        [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
        mode="markers+text",
        marker_size=22,  # invisible: it keeps the text off the corner's hexagon
        marker_opacity=0,
        text=[f"<b>{label(name)}</b>" for name in names],
        # The lower names run inwards, so that a narrow page does not cut them.
        textposition=["top center", "bottom right", "bottom left"],
        hoverinfo="skip",
    )


def _in_triangle(
    points: Sequence[Sequence[float]], mode: str = "markers", **options: object
) -> go.Scatterternary:
    a, b, c = zip(*points, strict=True)
    return go.Scatterternary(a=a, b=b, c=c, mode=mode, cliponaxis=False, **options)


def _weights(names: Iterable[str]) -> str:
    lines = [f"{label(name)} %{{{x}:.3f}}" for name, x in zip(names, "abc", strict=True)]
    return "<br>".join(lines) + "<extra></extra>"
