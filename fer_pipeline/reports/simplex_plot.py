"""The triangle of all weights of three backbones: a corner is one alone, the middle the average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import plotly.graph_objects as go

from fer_pipeline.reports.theme import CLEAR, LEGEND_ABOVE, figure, label

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
"""The signs of the methods that do not count, in their order; the one that does is a star."""

COLOUR_BAR = {
    "title": {"text": "val accuracy", "side": "top", "font": {"size": 13}},
    "orientation": "h",
    "y": -0.11,
    "yanchor": "top",
    "thickness": 12,
    "outlinewidth": 0,
    "ticksuffix": " %",
}


def simplex_map(
    rows: Sequence[Mapping[str, str]], methods: Mapping[str, Mapping[str, float]], chosen: str
) -> go.Figure | None:
    """Val accuracy over all weights of three backbones, with each method's weights marked.

    Args:
        rows: the grid: one weight per backbone, and val_accuracy as a fraction.
        methods: weight per backbone, by method; their order names the corners top, left, right.
        chosen: the method that counts.

    Returns:
        None where the weights do not lie in a triangle, or the grid is empty.
    """
    names = list(methods[chosen])
    if len(names) != 3 or not rows:
        return None
    # No ticks: three scales on one triangle are hard to read, and hovering gives the weights.
    shown = dict.fromkeys(("showticklabels", "showgrid", "showline"), False)
    side = {"title": {"text": ""}, "ticks": "", **shown}
    return figure(
        [
            _simplex_grid(rows, names),
            *(
                _method_point(method, weights, symbol)
                for (method, weights), symbol in zip(methods.items(), cycle(SYMBOLS))
                if method != chosen
            ),
            _method_point(chosen, methods[chosen], "star"),  # last: above the others
            _corner_names(names),
        ],
        height=490,
        ternary={"bgcolor": CLEAR, "aaxis": side, "baxis": side, "caxis": side},
        legend=LEGEND_ABOVE | {"y": 1.12},
        margin={"l": 15, "r": 15, "t": 60, "b": 30},
    )


def _simplex_grid(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> go.Scatterternary:
    # A triangular grid with k steps per side has (k + 1)(k + 2) / 2 points.
    steps = max(1.0, (math.sqrt(8 * len(rows) + 1) - 3) / 2)
    return _in_triangle(
        showlegend=False,
        points=[[float(row[name]) for name in names] for row in rows],
        marker_symbol="hexagon",
        marker_size=380 / steps,  # pixels: the hexagons just tile the triangle
        marker_color=[100 * float(row["val_accuracy"]) for row in rows],
        marker_colorscale="Viridis",
        marker_colorbar=COLOUR_BAR,
        hovertemplate=f"val accuracy %{{marker.color:.1f}} %<br>{_weights(names)}",
    )


def _method_point(method: str, weights: Mapping[str, float], symbol: str) -> go.Scatterternary:
    counts = symbol == "star"
    return _in_triangle(
        [list(weights.values())],
        name=f"<b>{label(method)}</b> (counts)" if counts else label(method),
        marker_symbol=symbol,
        marker_size=18 if counts else 11,
        marker_color="#ffffff",
        marker_line={"color": "#111111", "width": 2},
        hovertemplate=f"{label(method)}<br>{_weights(weights)}",
    )


def _corner_names(names: Iterable[str]) -> go.Scatterternary:
    return _in_triangle(
        [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
        mode="markers+text",
        showlegend=False,
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
