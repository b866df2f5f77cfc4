"""What every page shares: one HTML file that needs nothing but itself, same inputs, same bytes."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

NBSP = "\u00a0"
MINUS = "\u2212"


def render_page(template: str, **values: object) -> str:
    """A template that extends `page.html.j2`, filled.

    Every text is escaped, plotly.js is inlined once, and the page's own content security
    policy forbids any request.

    Args:
        template: its file name in this package.
        values: what it shows. `page.html.j2` itself needs source, and verdict and status, which
            the template may set.
    """
    page = _environment(escape=True).get_template(template)
    return page.render(**values, plotly_js=Markup(get_plotlyjs()))


def render_text(template: str, **values: object) -> str:
    """A template of plain text or Markdown, filled; nothing is escaped."""
    return _environment(escape=False).get_template(template).render(**values)


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


def contents(html: str) -> list[tuple[str, Markup]]:
    """Id and title of each section."""
    found = re.findall(r'<section id="([^"]+)">\s*<h2>(.*?)</h2>', html)
    return [(name, Markup(title)) for name, title in found]


def markdown(text: str) -> Markup:
    """Markdown as HTML; any HTML in it is shown as text."""
    return Markup(MarkdownIt("js-default").render(text))


def png_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A grey picture (H, W), lossless and inside its own address, so that nothing is fetched."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(fraction: float) -> str:
    """`0.718` as `71.8 %`."""
    return f"{100 * fraction:.1f}{NBSP}%"


def points(fraction: float, sign: str = "-") -> str:
    """A difference of two fractions in points; `sign` is `+` to mark gains too.

    Two digits show on which side of zero it lies: one image of PrivateTest's 3,589 is 0.03 points.
    """
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * fraction, 2) + 0.0:{sign}.2f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """Four digits are enough; below them only the bound."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def metric(value: float, name: str) -> str:
    """A value of `METRICS`: an accuracy in per cent, any other with three digits."""
    return percent(value) if name == "accuracy" else f"{value:.3f}"


def count(images: int) -> str:
    """`35887` as `35,887`."""
    return f"{images:,}"


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("fer_pipeline.reports", "templates"),
        autoescape=escape,
        keep_trailing_newline=not escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    shown = {
        one.__name__: one for one in (contents, percent, points, p_value, png_uri, metric, count)
    }
    environment.filters.update(shown)
    return environment
