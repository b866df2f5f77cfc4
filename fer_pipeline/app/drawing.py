"""What the page shows: numbered boxes, a tinted face, probabilities as bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw

from fer_pipeline.app.detector import Box
from fer_pipeline.arrays import Float32Array, FloatArray, UInt8Array
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.theme import BLUE, GREY, LINES, axis, bars, figure, percent_axis

MAX_SIDE = 1024
"""The largest side of a photograph on the page, in pixels."""

MIN_SIDE = 240
"""Smaller pictures are enlarged to about this, so that boxes and numbers can be seen on them."""

LEAST_FALL = 0.05
"""The fall of a probability that `tint` shows in full where no larger one is found."""


def mark(photo: Image.Image, boxes: Sequence[Box], chosen: int) -> Image.Image:
    """A copy of a photograph with boxes and their numbers, from 1; one stands out.

    Args:
        photo: in colour, of any size.
        boxes: in pixels of the photograph.
        chosen: the place of the box that stands out.
    """
    side = max(photo.size)
    scale = min(max(1, MIN_SIDE // side), MAX_SIDE / side)
    marked = photo.resize([max(1, round(scale * length)) for length in photo.size])
    pen = ImageDraw.Draw(marked)
    line, size = max(1, max(marked.size) // 200), max(8, max(marked.size) // 25)
    for place, box in enumerate(boxes):
        left, top, right, bottom = (round(scale * value) for value in box.corners)
        colour = LINES[0] if place == chosen else BLUE
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
        pen.rectangle((left, top, left + size, top + size), fill=colour)
        middle = (left + size / 2, top + size / 2)
        pen.text(middle, str(place + 1), fill="white", font_size=0.8 * size, anchor="mm")
    return marked


def tint(face: UInt8Array, falls: FloatArray) -> UInt8Array:
    """(48, 48, 3): the face, more orange where covering it lowers the probability further.

    Args:
        face: (48, 48).
        falls: (48, 48), as `map_falls` gives them.
    """
    opacity = 0.75 * np.clip(falls, 0, None) / max(falls.max(), LEAST_FALL)
    colour = np.array([int(LINES[0][place : place + 2], 16) for place in (1, 3, 5)])
    mixed = face[..., np.newaxis] + opacity[..., np.newaxis] * (colour - face[..., np.newaxis])
    tinted: UInt8Array = np.rint(mixed).astype(np.uint8)
    return tinted


def chances_bars(chances: Float32Array, height: int) -> go.Figure:
    """The (7,) probabilities as bars, in the order of `EMOTIONS`; the largest stands out."""
    colours = [BLUE if code == chances.argmax() else GREY for code in range(len(EMOTIONS))]
    shown = {"texttemplate": "%{x:.1f} %", "hoverinfo": "skip"}
    return figure(
        [bars(EMOTIONS, chances.tolist(), colours, **shown)],
        height=height,
        xaxis=percent_axis("") | {"visible": False, "range": [0, 130]},  # the texts need room
        yaxis=axis(autorange="reversed", showgrid=False),
    )
