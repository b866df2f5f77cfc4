"""What a client may send to the served model: faces as arrays of greys, or pictures as base64."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import numpy.typing as npt

from fer_pipeline.data.faces import SIDE
from fer_pipeline.data.pictures import decode_picture
from fer_pipeline.errors import DataError, RequestError

MAX_IMAGES = 1024
"""The most images in one request: more would take the memory and the time of other requests."""

MAX_PICTURE_BYTES = 10 * 2**20
"""The largest size of one picture, decoded from base64."""


def read_request(content: object) -> npt.NDArray[np.uint8]:
    """The faces of a request.

    Args:
        content: (N, 48, 48) whole numbers 0 to 255, as an array or nested lists; or N strings,
            each a PNG or JPEG of one face as base64, of any size and colour. A data URL's
            beginning may stand before the base64.

    Returns:
        (N, 48, 48) uint8.

    Raises:
        RequestError: it is none of these; the message says what it should be.
    """
    try:
        values = np.asarray(content)
    except ValueError as error:
        raise RequestError(f"the images have different shapes: {_WANTED}") from error
    if values.ndim and len(values) > MAX_IMAGES:
        raise RequestError(f"{len(values)} images in one request: send at most {MAX_IMAGES}")
    if values.dtype.kind in "US" or (values.dtype == object and _are_texts(values)):
        return _read_pictures(values)
    return _read_arrays(values)


_WANTED = (
    f"send N x {SIDE} x {SIDE} whole numbers from 0 to 255, or a list of PNG or JPEG pictures "
    "as base64"
)


def _are_texts(values: npt.NDArray[np.object_]) -> bool:
    return values.ndim == 1 and len(values) > 0 and all(isinstance(one, str) for one in values)


def _read_arrays(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if values.dtype.kind not in "iuf":
        raise RequestError(f"images of type {values.dtype}: {_WANTED}")
    if values.ndim != 3 or values.shape[1:] != (SIDE, SIDE):
        shape = " x ".join(map(str, values.shape)) or "a single number"
        hint = "; one image needs a list around it" if values.shape == (SIDE, SIDE) else ""
        raise RequestError(f"images of shape {shape}: {_WANTED}{hint}")
    numbers = values.astype(np.float64)
    if not len(values):
        raise RequestError(f"no images: {_WANTED}")
    if not (numbers == np.clip(np.rint(numbers), 0, 255)).all():  # NaN equals nothing
        low, high = numbers.min(), numbers.max()
        raise RequestError(f"pixels from {low:g} to {high:g}: {_WANTED}")
    return values.astype(np.uint8)


def _read_pictures(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if values.ndim != 1:
        raise RequestError(f"pictures in {values.ndim} dimensions: {_WANTED}")
    return np.stack([_read_picture(str(text), place) for place, text in enumerate(values)])


def _read_picture(text: str, place: int) -> npt.NDArray[np.uint8]:
    name = f"image {place}"
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    if len(encoded) * 3 // 4 > MAX_PICTURE_BYTES:
        raise RequestError(
            f"{name} has more than {MAX_PICTURE_BYTES >> 20} MiB: send a smaller one"
        )
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{name} is no base64 ({error}): {_WANTED}") from error
    try:
        return decode_picture(content, name)[0]
    except DataError as error:
        raise RequestError(f"{error}: send a PNG or JPEG") from error
