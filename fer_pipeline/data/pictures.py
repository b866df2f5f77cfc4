"""One encoded picture (PNG, JPEG, …) as 48x48 grey pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from fer_pipeline.data.faces import SIDE, UInt8Array
from fer_pipeline.errors import DataError, one_line

MAX_SIDE = 1024
"""Of a picture that is brought to 48x48; beyond it, it is hardly a copy of FER2013."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""What is tried: Pillow knows many more, and runs Ghostscript for one of them."""

_UNREADABLE = (
    OSError, ValueError, SyntaxError, TypeError,
    Image.DecompressionBombWarning, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises on bytes that are no picture, or one too large to be a face."""


def decode_face(encoded: bytes | None, where: str) -> tuple[UInt8Array, bool]:
    """Decode one face.

    Args:
        encoded: the file's bytes.
        where: what an error calls it, such as `faces.zip: train/happy/1.png`.

    Returns:
        (48, 48) uint8 pixels, and true if the picture had another size and was resized.

    Raises:
        DataError: no picture, not square, or too large.
    """
    try:
        with _open(encoded or b"") as picture:
            if picture.size == (SIDE, SIDE):
                return np.asarray(_grey(picture)), False
            if picture.width != picture.height or picture.width > MAX_SIDE:
                raise DataError(
                    f"{where}: image is {picture.width}x{picture.height}: only squares of up to "
                    f"{MAX_SIDE} pixels can be brought to {SIDE}x{SIDE}"
                )
            # By the mean of the pixels that a new one covers: enlarging and coming back is exact.
            small = _grey(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
            return np.asarray(small), True
    except _UNREADABLE as error:
        reason = one_line(error)
        raise DataError(f"{where}: image can't be read: {reason}") from error


@contextmanager
def _open(encoded: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage beside the pixels, in what a camera notes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            yield picture


def _grey(picture: Image.Image) -> Image.Image:
    """As 8-bit grey; of 16 bits the upper eight, where Pillow would cut off all above 255."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {picture.mode}) have no known white")
    return picture.convert("L")
