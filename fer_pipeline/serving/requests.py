"""What a client may send to the served model: faces as arrays of greys, or pictures as base64."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import numpy.typing as npt

from fer_pipeline.data.faces import SIDE
from fer_pipeline.data.pictures import count_pixels, decode_picture
from fer_pipeline.errors import DataError, RequestError

MAX_IMAGES = 1024
"""The most images in one request: more would take the memory and the time of other requests."""

MAX_PICTURE_BYTES = 10 * 2**20
"""The largest size of one picture, decoded from base64."""

MAX_PIXELS = 100_000_000
"""The most pixels in all pictures of one request: decoding them takes some seconds."""


_WANTED = (
    f"send N x {SIDE} x {SIDE} whole numbers from 0 to 255, a list around one image too, or a list "
    "of PNG or JPEG pictures as base64"
)


def read_request(content: object) -> npt.NDArray[np.uint8]:
    """The faces of a request.

    Lists are looked at before they become arrays: NumPy gives every text the width of the longest,
    so that a request of a megabyte would take gigabytes.

    Args:
        content: (N, 48, 48) whole numbers 0 to 255, as an array or nested lists; or N strings,
            each a PNG or JPEG of one face as base64, of any size and colour. A data URL's
            beginning may stand before the base64.

    Returns:
        (N, 48, 48) uint8.

    Raises:
        RequestError: it is none of these; the message says what it should be, and never what the
            picture is.
    """
    if isinstance(content, np.ndarray):
        if content.dtype.kind in "iuf":
            return _read_array(content)
        content = content.tolist()
    if not isinstance(content, list) or not content:
        raise RequestError(f"no images: {_WANTED}")
    _require_few(len(content))
    if any(isinstance(one, str) for one in content):
        return _read_pictures(content)
    for place, image in enumerate(content):
        if not (_is_row(image, list) and all(_is_row(row, int, float) for row in image)):
            raise RequestError(f"image {place} is not {SIDE} lists of {SIDE} numbers: {_WANTED}")
    try:
        return _read_array(np.array(content, np.float64))
    except OverflowError:
        raise RequestError(f"a pixel of more than 300 digits: {_WANTED}") from None


def _require_few(images: int) -> None:
    if images > MAX_IMAGES:
        raise RequestError(f"{images} images in one request: send at most {MAX_IMAGES}")


def _is_row(value: object, *types: type) -> bool:
    """Whether it is a list as long as an image is wide, of these types alone."""
    return (
        isinstance(value, list) and len(value) == SIDE and set(types).issuperset(map(type, value))
    )


def _read_array(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if values.ndim != 3 or values.shape[1:] != (SIDE, SIDE):
        shape = " x ".join(map(str, values.shape)) or "a single number"
        raise RequestError(f"images of shape {shape}: {_WANTED}")
    _require_few(len(values))
    if not len(values):
        raise RequestError(f"no images: {_WANTED}")
    numbers = values.astype(np.float64)
    if not (numbers == np.clip(np.rint(numbers), 0, 255)).all():  # NaN equals nothing
        low, high = numbers.min(), numbers.max()
        raise RequestError(f"pixels from {low:g} to {high:g}: {_WANTED}")
    return values.astype(np.uint8)


def _read_pictures(texts: list[object]) -> npt.NDArray[np.uint8]:
    images, left = np.empty((len(texts), SIDE, SIDE), np.uint8), MAX_PIXELS
    for place, text in enumerate(texts):
        name = f"image {place}"
        content = _unpack(text, name)
        left -= count_pixels(content)
        if left < 0:
            raise RequestError(
                f"pictures of more than {MAX_PIXELS:,} pixels in one request: send fewer at a "
                f"time, or only the faces in them"
            )
        try:
            images[place] = decode_picture(content, name)[0]
        except DataError as error:
            raise RequestError(f"{error}: send a PNG or JPEG") from error
    return images


def _unpack(text: object, name: str) -> bytes:
    if not isinstance(text, str):
        raise RequestError(f"{name} is no text among pictures: {_WANTED}")
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    if len(encoded) * 3 // 4 > MAX_PICTURE_BYTES:
        raise RequestError(
            f"{name} has more than {MAX_PICTURE_BYTES >> 20} MiB: send a smaller one"
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{name} is no base64 ({error}): {_WANTED}") from error
