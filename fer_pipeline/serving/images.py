"""Pictures from files as the model takes them: 48x48, grey."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fer_pipeline.errors import DataError

SIDE = 48


def read_images(paths: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """(N, 48, 48) uint8: each picture made grey and resized, whatever its shape.

    Raises:
        DataError: a file is missing or no picture.
    """
    return np.stack([_read_image(path) for path in paths])


def _read_image(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            grey = _turn_upright(image).convert("L")
            return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read: {error}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """As the camera says which side is up; as stored, where what it says is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (struct.error, TypeError):
        return image
