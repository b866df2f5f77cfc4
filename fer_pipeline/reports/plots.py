"""The figures of the report: arrays and dicts in, plotly figures out, nothing touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.evaluation.metrics import Bin, Scores
from fer_pipeline.reports.theme import (
    BLUE,
    GREY,
    LEGEND_ABOVE,
    LINES,
    axis,
    bars,
    figure,
    label,
    percent_axis,
)

RARE = 0.5
"""A class is rare with fewer images than this share of what an even split would give it."""

BLUES = ((0.0, "#f3f6fa"), (0.35, "#a9c8ea"), (0.7, "#3f83cf"), (1.0, "#0b3d7c"))


def accuracy_bars(accuracies: Mapping[str, float]) -> go.Figure:
    """Accuracy of the fused model, which comes first and is highlighted, and of every single one.

    Args:
        accuracies: fractions, by model.
    """
    names = [label(name) for name in accuracies]
    positions = list(range(len(names)))
    colours = [BLUE] + [GREY] * (len(names) - 1)
    shown = {"texttemplate": "%{x:.1f} %", "hoverinfo": "skip"}
    return figure(
        [bars(positions, accuracies.values(), colours, **shown)],
        height=70 + 46 * len(names),
        xaxis=percent_axis("top-1 accuracy on test"),
        yaxis=axis(tickvals=positions, ticktext=names, autorange="reversed", showgrid=False),
    )


def recall_bars(fused: Scores, single: Scores, single_name: str) -> go.Figure:
    """Recall per emotion, fused against the single model of that name; rare ones are marked."""
    models = (("fused", fused, BLUE), (label(single_name), single, GREY))
    rare = rare_classes(fused)
    names = [
        f"{emotion} ({own.images:,}{', rare' if emotion in rare else ''})"
        for emotion, own in fused.per_class.items()
    ]
    traces = [
        bars(
            names,
            [own.recall for own in scores.per_class.values()],
            colour,
            name=name,
            texttemplate="%{x:.0f}",
            hovertemplate="%{y}: %{x:.1f} %",
        )
        for name, scores, colour in models
    ]
    return figure(
        traces,
        height=470,
        legend=LEGEND_ABOVE,
        xaxis=percent_axis("recall"),
        yaxis=axis(autorange="reversed", showgrid=False),
    )


def rare_classes(scores: Scores) -> list[str]:
    """The classes with few images, of which a recall says little."""
    images = {name: own.images for name, own in scores.per_class.items()}
    even = sum(images.values()) / max(len(images), 1)
    return [name for name, count in images.items() if count < RARE * even]


def reliability_diagram(before: Sequence[Bin], after: Sequence[Bin]) -> go.Figure:
    """Accuracy over confidence, before and after temperature; a point's area is its images."""
    images = max(sum(one.images for one in after), 1)
    diagonal = go.Scatter(
        x=[0, 100],
        y=[0, 100],
        name="as right as it says",
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dash"},
        hoverinfo="skip",
    )
    traces = [
        go.Scatter(
            x=[100 * one.confidence for one in bins],
            y=[100 * one.accuracy for one in bins],
            customdata=[one.images for one in bins],
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={
                "size": [6 + 40 * (one.images / images) ** 0.5 for one in bins],
                "opacity": 0.6,
            },
            hovertemplate="confidence %{x:.1f} %, right %{y:.1f} %, %{customdata:,} images",
        )
        for name, bins, colour in (
            ("before temperature", before, LINES[0]),
            ("after temperature", after, BLUE),
        )
    ]
    return figure(
        [diagonal, *traces],
        height=430,
        legend=LEGEND_ABOVE,
        xaxis=axis("confidence", range=[0, 102], dtick=25, ticksuffix=" %"),
        yaxis=axis("share that is right", range=[0, 106], dtick=25, ticksuffix=" %"),
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


def confusion_matrix(rows: Sequence[Sequence[int]]) -> go.Figure:
    """One confusion matrix: colour and printed value are the share of the row in %.

    Args:
        rows: (C, C) images, rows actual, columns predicted. A row without images shows 0.
    """
    counts = np.array(rows)
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
