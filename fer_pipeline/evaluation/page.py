"""What every page shares: one HTML file that needs nothing but itself, same inputs, same bytes."""

from __future__ import annotations

import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

NBSP = "\u00a0"
MINUS = "\u2212"


def render_page(template: str, **values: object) -> str:
    """A template that extends `page.html.j2`, filled.

    Every text is escaped, plotly.js is inlined once, and the page's own content security
    policy forbids any request.

    Args:
        template: its file name in this package.
        values: what it shows; `page.html.j2` itself needs verdict, status and source.
    """
    return _environment().get_template(template).render(**values, plotly_js=Markup(get_plotlyjs()))


def embed(figure: go.Figure, div_id: str) -> Markup:
    """The figure's element and script; plotly escapes the angle brackets in its JSON."""
    html = pio.to_html(
        figure,
        config={"displayModeBar": False, "responsive": True},
        include_plotlyjs=False,
        full_html=False,
        div_id=div_id,  # without one plotly draws a random id
    )
    return Markup(html)


def percent(fraction: float) -> str:
    """`0.718` as `71.8 %`."""
    return f"{100 * fraction:.1f}{NBSP}%"


def points(fraction: float, sign: str = "-") -> str:
    """A difference of two fractions in points; `sign` is `+` to mark gains too."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * fraction, 1) + 0.0:{sign}.1f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """Four digits are enough; below them only the bound."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def count(images: int) -> str:
    """`35887` as `35,887`."""
    return f"{images:,}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fer_pipeline.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["percent"] = percent
    environment.filters["count"] = count
    return environment
