"""The theme that all figures share: colours, axes, bars.

Figures have a transparent background and a fixed height, and take the width of the page.
Their colours are made for a light page: on a dark one the page's style sheet inverts them.
Plotly reads a subset of HTML in every text, so names from outside are escaped by `label`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

INK = "#3a4450"
GRID = "#e3e7ec"
BLUE = "#1f6fc9"
GREY = "#a9b3bf"
CLEAR = "rgba(0,0,0,0)"
# From Okabe and Ito's colours, which colour-blind readers can tell apart.
LINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195")
LEGEND_ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def bars(
    places: Sequence[int | str], fractions: Iterable[float], colour: object, **options: object
) -> go.Bar:
    """Fractions as bars in per cent: horizontal, so that names stay readable on a phone."""
    return go.Bar(
        y=places,
        x=[100 * fraction for fraction in fractions],
        orientation="h",
        marker_color=colour,
        textposition="outside",
        cliponaxis=False,
        **options,
    )


def label(name: str) -> str:
    """A name from outside as a text that plotly shows as it is."""
    return escape(name, quote=False)


def axis(title: str = "", **options: object) -> dict[str, object]:
    """One axis of `figure`; a finger on it scrolls the page."""
    shared = {"automargin": True, "fixedrange": True, "gridcolor": GRID, "zeroline": False}
    text = {"text": title, "font": {"size": 13}, "standoff": 10}
    return {"title": text, "ticks": "", "ticklabelstandoff": 5, **shared, **options}


def percent_axis(title: str) -> dict[str, object]:
    """An axis from 0 to 100 %."""
    # To 110 for the value label of a full bar.
    return axis(title, range=[0, 110], dtick=25, ticksuffix=" %")


def figure(traces: Sequence[Any], height: int, **layout: object) -> go.Figure:
    """A figure in the theme that all share."""
    shared = {
        "template": "none",
        "height": height,
        "dragmode": False,  # so that a finger on the figure scrolls the page
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "bargap": 0.28,
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": GREY, "font": {"color": INK}},
    }
    return go.Figure(list(traces), shared | layout)
