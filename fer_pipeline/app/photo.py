"""What the page of `fer app` finds in a photograph, and what it draws of it.

Faces are found by the detector that OpenCV's package ships. The faces of FER2013 were cut out by
OpenCV's cascades as well (Goodfellow et al., 2013). This one's boxes have the size of those: of
faces of FER2013 that stand in a larger picture it gives 97 % of each side.

Which part of a face a prediction rests on is told by covering parts of it (Zeiler and Fergus,
"Visualizing and Understanding Convolutional Networks", 2014, section 4.2). That asks nothing of the
networks, so that it explains the fused model as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2.data
import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw

from fer_pipeline.arrays import Float32Array, FloatArray, UInt8Array
from fer_pipeline.data.faces import SIDE
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.theme import BLUE, GREY, LINES, axis, bars, figure, percent_axis

MAX_SIDE = 1024
"""The largest side of a photograph in which faces are looked for, and on the page, in pixels."""

MIN_SIDE = 240
"""Smaller pictures are enlarged to about this, so that boxes and numbers can be seen on them."""

LEAST_FALL = 0.05
"""The fall of a probability that `tint` shows in full where no larger one is found."""

PATCH = 12
"""The side of what is covered, in pixels: a quarter of the face."""

STEP = 6
"""How far the patch moves, in pixels."""

_CASCADE = "haarcascade_frontalface_alt2.xml"
_SMALLEST = 24
_SCALE_STEP = 1.1
_NEIGHBOURS = 4
_PLACES = [
    (slice(top, top + PATCH), slice(left, left + PATCH))
    for top in range(0, SIDE - PATCH + 1, STEP)
    for left in range(0, SIDE - PATCH + 1, STEP)
]


class Box(NamedTuple):
    """A square part of a photograph, in its pixels."""

    left: int
    top: int
    side: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def find_faces(photo: Image.Image) -> list[Box]:
    """The frontal faces in a photograph, from left to right; none narrower than `SIDE` pixels."""
    shrunk = max(1.0, max(photo.size) / MAX_SIDE)
    grey = photo.convert("L")
    grey.thumbnail((MAX_SIDE, MAX_SIDE))
    smallest = max(_SMALLEST, round(SIDE / shrunk))
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / _CASCADE))
    found = cascade.detectMultiScale(
        np.asarray(grey), _SCALE_STEP, _NEIGHBOURS, minSize=(smallest, smallest)
    )
    boxes = (Box(*(int(shrunk * value) for value in box[:3])) for box in found)
    return sorted(clip(box, photo.size) for box in boxes)


def clip(box: Box, size: tuple[int, int]) -> Box:
    """The box, moved and made smaller as far as a photograph of this width and height asks."""
    side = min(box.side, *size)
    return Box(max(0, min(box.left, size[0] - side)), max(0, min(box.top, size[1] - side)), side)


def centre(size: tuple[int, int]) -> Box:
    """A square in the middle of a photograph of this width and height, half as wide or high."""
    side = (min(size) + 1) // 2
    return Box((size[0] - side) // 2, (size[1] - side) // 2, side)


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


def cover(face: UInt8Array) -> UInt8Array:
    """(P, 48, 48) copies of a (48, 48) face, in each another patch covered with its mean grey."""
    covered = np.repeat(face[np.newaxis], len(_PLACES), axis=0)
    for image, place in zip(covered, _PLACES, strict=True):
        image[place] = round(float(face.mean()))
    return covered


def map_falls(whole: float, covered: Float32Array) -> FloatArray:
    """How much a probability falls where a pixel is covered, as the mean over the patches on it.

    Args:
        whole: the probability of an emotion for the face as it is.
        covered: (P,) those for the images of `cover`.

    Returns:
        (48, 48), from -1 to 1; negative where covering makes the emotion more likely.
    """
    sums, patches = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for place, probability in zip(_PLACES, covered, strict=True):
        sums[place] += whole - float(probability)
        patches[place] += 1
    return sums / patches
