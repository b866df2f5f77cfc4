"""Pictures from files as the model takes them: 48x48, grey."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_pipeline.errors import DataError

SIDE = 48


MAX_PIXELS = 25_000_000
"""Of a picture: a small file can claim to be a large one."""


def read_images(paths: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """(N, 48, 48) uint8: each picture made grey and resized, whatever its shape.

    Raises:
        DataError: a file is missing or no picture.
    """
    return np.stack([_read_file(path) for path in paths])


def read_image(stream: BinaryIO, name: str) -> npt.NDArray[np.uint8]:
    """(48, 48) uint8 of one picture, which errors call by `name`.

    Raises:
        DataError: it is no picture, or too large a one.
    """
    try:
        with Image.open(stream) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{name} has {image.width} x {image.height} pixels, more than "
                    f"{MAX_PIXELS:,}: make it smaller"
                )
            grey = _turn_upright(image).convert("L")
            return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    except UnidentifiedImageError as error:  # whose words name the stream, not the picture
        raise DataError(f"{name} is no picture that can be read: unknown format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is no picture that can be read: {error}") from error


def _read_file(path: Path) -> npt.NDArray[np.uint8]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of a picture") from None
    except OSError as error:
        raise DataError(f"{path} is no picture that can be read: {error}") from error
    with stream:
        return read_image(stream, str(path))


def _turn_upright(image: Image.Image) -> Image.Image:
    """As the camera says which side is up; as stored, where what it says is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (struct.error, TypeError):
        return image
