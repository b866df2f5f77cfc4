"""Faces in a photograph, by the detector that OpenCV's package ships.

The faces of FER2013 were cut out by OpenCV's cascades as well (Goodfellow et al., 2013). This one's
boxes have the size of those: of faces of FER2013 that stand in a larger picture it gives 97 % of
each side.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2.data
import numpy as np
from PIL import Image

from fer_pipeline.data.faces import SIDE

MAX_SIDE = 1024
"""Faces are looked for in a copy of at most this many pixels a side, as is quick."""

_CASCADE = "haarcascade_frontalface_alt2.xml"
_SMALLEST = 24
_STEP = 1.1
_NEIGHBOURS = 4


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
        np.asarray(grey), _STEP, _NEIGHBOURS, minSize=(smallest, smallest)
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
